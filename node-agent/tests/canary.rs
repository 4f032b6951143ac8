//! What the canary takes for a proof, from each place where an agent may be.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod support;

use std::path::Path;

use mesh_abi::{FLAG_CANARY, Outcome};
use node_agent::datapath::canary::{Canary, CanaryError, Proof, Seen};
use node_agent::datapath::hook_order::HookOrderError;
use support::{Below, Service, World, outcome};

const CANARY: &str = "127.255.67.77:9";

fn probe(world: &World, cgroup: &Path) -> Result<Proof, CanaryError> {
    look(world, cgroup).proof
}

fn look(world: &World, cgroup: &Path) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (links, maps) = (world.installation().links(), world.installation().pinned_maps());
    let canary = Canary { exe: env!("CARGO_BIN_EXE_node-agent").into(), cgroup: cgroup.into(), links, maps };
    runtime.block_on(canary.probe())
}

#[test]
fn below_the_programs_the_agents_own_dial_is_the_proof() {
    let world = World::new();
    let own = Below::new(&world, "agent");
    own.enter();
    assert!(matches!(probe(&world, &world.cgroup), Err(CanaryError::Order(HookOrderError::Link { .. }))));
    let mut maps = world.attached();
    let error = probe(&world, &world.cgroup).unwrap_err();
    assert!(matches!(error, CanaryError::NotTranslated { .. }), "without the entry: {error}");
    Service::new(1, CANARY).flags(FLAG_CANARY).write(&mut maps);
    let seen = look(&world, &world.cgroup);
    assert_eq!(seen.proof.unwrap(), Proof::Dialled);
    assert_eq!(seen.order.unwrap().foreign, []);
    assert_eq!(outcome(&maps, Outcome::Canary), 2, "once as IPv4, once v4-mapped");
}

#[test]
fn a_private_view_of_the_agents_own_cgroup_is_no_proof() {
    let world = World::new();
    let mut maps = world.attached();
    Service::new(1, CANARY).flags(FLAG_CANARY).write(&mut maps);
    let error = probe(&world, &world.cgroup).unwrap_err();
    assert!(matches!(error, CanaryError::OwnCgroup { .. }), "{error}");
}

#[test]
fn from_outside_a_child_dials_from_below() {
    let world = World::new();
    let mut maps = world.attached();
    Service::new(1, CANARY).flags(FLAG_CANARY).write(&mut maps);
    world.leave();
    assert_eq!(probe(&world, &world.cgroup).unwrap(), Proof::Dialled);
}

#[test]
fn a_detached_program_is_missed() {
    let world = World::new();
    let own = Below::new(&world, "agent");
    own.enter();
    let mut maps = world.attached();
    Service::new(1, CANARY).flags(FLAG_CANARY).write(&mut maps);
    world.detach("mesh_recvmsg6");
    let error = probe(&world, &world.cgroup).unwrap_err();
    assert!(
        matches!(error, CanaryError::Order(HookOrderError::Detached { hook: "mesh_recvmsg6" })),
        "{error}"
    );
}
