//! An agent comes back to maps that show the node as it was long ago: what has passed to kube-proxy stays there.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use mesh_abi::FLAG_PLAIN_OK;
use node_agent::datapath::actual::Capacity;
use node_agent::install::Installed;
use node_agent::merge::failback::Failback;

use support::{CAPACITY, Service, World, beat, dial, server};

const FRONTEND: &str = "10.96.0.1:80";

#[test]
fn adopted_maps_that_have_yielded_go_on_yielding_until_they_are_right() {
    goes_on_yielding(CAPACITY);
}

#[test]
fn rebuilt_maps_of_another_size_go_on_yielding_too() {
    goes_on_yielding(Capacity { services: CAPACITY.services * 2, ..CAPACITY });
}

/// An agent comes back to maps of this size.
fn goes_on_yielding(capacity: Capacity) {
    let world = World::new();
    let mut maps = world.attached_with(capacity);
    let old = server("127.0.1.1:80");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&old]).flags(FLAG_PLAIN_OK).write(&mut maps);
    beat(&mut maps, 11_000_000_000);
    let Installed { mut maps, control, failback, .. } = world.installed("--yield-after 10m");
    assert_eq!(failback, Failback::new(true));
    let untranslated = dial(FRONTEND, &[&old]).unwrap_err();
    assert_ne!(untranslated.kind(), std::io::ErrorKind::PermissionDenied);
    // As the merge loop does once everything is in the maps.
    let heartbeat_ns = node_agent::datapath::sys::monotonic_ns();
    maps.control.write(&mesh_abi::Control { heartbeat_ns, ..control }).unwrap();
    assert_eq!(dial(FRONTEND, &[&old]).unwrap(), 0);
    assert_eq!(maps.control.read().unwrap().yield_after_ns, 600_000_000_000);
}

#[test]
fn adopted_maps_of_a_live_agent_go_on_serving() {
    let world = World::new();
    let mut maps = world.attached();
    let old = server("127.0.1.1:80");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&old]).flags(FLAG_PLAIN_OK).write(&mut maps);
    beat(&mut maps, 9_000_000_000);
    let installed = world.installed("--yield-after 10m");
    assert_eq!(installed.failback, Failback::Over);
    assert_eq!(dial(FRONTEND, &[&old]).unwrap(), 0);
    assert_eq!(installed.maps.control.read().unwrap().yield_after_ns, 600_000_000_000);
}
