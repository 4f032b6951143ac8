//! Random histories of a mesh, through everything between etcd and the maps: records → table → view → merge →
//! select → desired → plan → apply.
//!
//! Services, slices and peers come, go, flap and lie; what they say comes late, twice, in pieces and in any order; the
//! agent is killed at any write and starts again from the maps; writes are refused, and
//! somebody else writes. At every single write no service leads to what is
//! not there or not its own, nothing is led to that is neither old nor new, and what is old and new is never gone. In the
//! end the maps hold what one who starts now and hears everything once writes into empty ones.
//!
//! `HISTORIES=100000 cargo test -p node-agent --lib histories` looks longer.

mod agent;
mod cluster;
pub(super) mod kernel;

use std::collections::BTreeMap;

use mesh_model::address::Address;
use proptest::prelude::*;

use self::agent::{Agent, Disk, File, Order};
use self::cluster::{Cluster, Lie, Spec, lies, specs};
use crate::datapath::actual::Capacity;

pub(super) const CAPACITY: Capacity = Capacity { services: 64, slots: 4096, backends: 1024, counters: 256 };
/// The peers' ids; the own cluster's is 1.
const PEERS: std::ops::Range<u8> = 2..5;
/// Histories of an ordinary run.
const HISTORIES: u32 = 1000;

/// Cluster `c` has its pods in 10.c.0.0/16, and nobody may say otherwise.
fn is_allowed(cluster: u16, address: Address) -> bool {
    let Some([first, second, ..]) = address.v4_octets() else { return false };
    (u16::from(first), u16::from(second)) == (10, cluster)
}

#[derive(Clone, Debug)]
enum Step {
    /// A cluster's Service is another from now on, or gone.
    Change(u8, u8, Option<Spec>),
    Lie(u8, Lie),
    /// A peer's exporter starts anew and writes what is wrong.
    Heal(u8),
    Wipe(u8),
    /// A peer's file is written, breaks, or is removed.
    File(u8, Option<bool>),
    ReadFolder,
    Hear,
    Deliver(u8, usize, Order),
    Repeat(u8, usize, Order),
    List(u8, usize, Order),
    Settle,
    Grace,
    /// The next writes succeed, then none does.
    Fail(usize),
    /// From now on one write in ten is refused; none is any more.
    Refuse(Option<u32>),
    Retry,
    Sweep,
    /// Somebody else writes into the maps, and the agent finds it.
    Damage(u8, u16),
    Crash(usize),
    /// Nobody lies any more, everybody hears everything.
    Rest(Order),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let order = || prop_oneof![Just(Order::Forward), Just(Order::Backward)];
    let step = prop_oneof![
        8 => (1_u8..5, 0_u8..3, prop::option::weighted(0.85, specs())).prop_map(|(c, s, to)| Step::Change(c, s, to)),
        2 => (PEERS, lies()).prop_map(|(peer, lie)| Step::Lie(peer, lie)),
        1 => PEERS.prop_map(Step::Heal),
        1 => PEERS.prop_map(Step::Wipe),
        2 => (PEERS, prop_oneof![4 => Just(Some(true)), 1 => Just(Some(false)), 2 => Just(None)])
            .prop_map(|(peer, file)| Step::File(peer, file)),
        2 => Just(Step::ReadFolder),
        3 => Just(Step::Hear),
        6 => (PEERS, 1_usize..5, order()).prop_map(|(peer, count, order)| Step::Deliver(peer, count, order)),
        1 => (PEERS, 1_usize..5, order()).prop_map(|(peer, count, order)| Step::Repeat(peer, count, order)),
        2 => (PEERS, 0_usize..5, order()).prop_map(|(peer, broken, order)| Step::List(peer, broken, order)),
        6 => Just(Step::Settle),
        3 => Just(Step::Grace),
        1 => (0_usize..20).prop_map(Step::Fail),
        2 => prop::option::weighted(0.7, any::<u32>()).prop_map(Step::Refuse),
        2 => Just(Step::Retry),
        1 => Just(Step::Sweep),
        2 => (0_u8..10, any::<u16>()).prop_map(|(kind, seed)| Step::Damage(kind, seed)),
        1 => (0_usize..20).prop_map(Step::Crash),
        1 => order().prop_map(Step::Rest),
    ];
    prop::collection::vec(step, 1..60)
}

/// The whole mesh as one agent of cluster 1 meets it.
struct Mesh {
    clusters: BTreeMap<u8, Cluster>,
    disk: Disk,
    editions: u16,
    agent: Agent,
}

impl Mesh {
    fn new() -> Self {
        let clusters = (1..PEERS.end).map(|id| (id, Cluster::new(id))).collect();
        Self { clusters, disk: Disk::new(), editions: 0, agent: Agent::new() }
    }

    fn take(mut self, step: &Step) -> Self {
        match *step {
            Step::Change(id, service, ref spec) => self.cluster(id).change(service, spec.as_ref()),
            Step::Lie(peer, lie) => self.cluster(peer).lie(lie),
            Step::Heal(peer) => self.cluster(peer).heal(),
            Step::Wipe(peer) => self.cluster(peer).wipe(),
            Step::File(peer, None) => drop(self.disk.remove(&peer)),
            Step::File(peer, Some(good)) => {
                self.editions += 1;
                self.disk.insert(peer, File { edition: self.editions, good });
            }
            Step::ReadFolder => self.agent.read_folder(&self.disk),
            Step::Hear => self.agent.hear(&self.clusters[&1].truth),
            Step::Deliver(peer, count, order) => self.agent.deliver(&self.clusters[&peer], count, order),
            Step::Repeat(peer, count, order) => self.agent.repeat(&self.clusters[&peer], count, order),
            Step::List(peer, broken_off, order) => self.agent.list(&self.clusters[&peer], broken_off, order),
            Step::Settle => self.settle(),
            Step::Grace => self.agent.grace(),
            Step::Fail(writes) => {
                self.agent.kernel().budget = Some(writes);
                self.settle();
                self.agent.kernel().budget = None;
            }
            Step::Refuse(refusals) => self.agent.kernel().refusals = refusals,
            Step::Retry => self.agent.retry(),
            Step::Sweep => self.agent.sweep(),
            Step::Damage(kind, seed) => {
                let refusals = self.agent.kernel().refusals.take();
                self.agent.retry();
                self.agent.kernel().damage(kind, seed);
                self.agent.sweep();
                self.agent.kernel().refusals = refusals;
            }
            Step::Crash(writes) => self.agent = self.agent.settle_and_crash(writes),
            Step::Rest(order) => self.rest(order),
        }
        self
    }

    fn cluster(&mut self, id: u8) -> &mut Cluster {
        self.clusters.get_mut(&id).expect("the clusters are always the same")
    }

    fn settle(&mut self) {
        self.agent.settle();
        self.agent.assert_settled();
    }

    /// The maps of one who starts now and hears everything, in another order than the agent did.
    fn fresh(&self, order: Order) -> Agent {
        let mut fresh = Agent::new();
        fresh.hear(&self.clusters[&1].truth);
        fresh.read_folder(&self.disk);
        for id in PEERS.rev() {
            fresh.list(&self.clusters[&id], 0, order);
        }
        fresh.settle();
        fresh
    }

    /// Everybody hears everything, and what was refused is written.
    fn rest(&mut self, order: Order) {
        self.agent.kernel().refusals = None;
        self.disk.values_mut().for_each(|file| file.good = true);
        self.clusters.values_mut().for_each(Cluster::heal);
        self.agent.read_folder(&self.disk);
        self.agent.hear(&self.clusters[&1].truth);
        for id in PEERS {
            self.agent.deliver(&self.clusters[&id], usize::MAX, order);
        }
        assert!(self.agent.knows_all());
        self.settle();
        self.agent.retry();
        self.agent.grace();
        self.agent.sweep();
        let mut fresh = self.fresh(order);
        assert_eq!(self.agent.kernel().content(), fresh.kernel().content(), "incremental and full");
        let free_slots = self.agent.actual().free_slots();
        self.agent.kernel().assert_nothing_leaks(free_slots);
    }
}

fn histories() -> ProptestConfig {
    let asked = std::env::var("HISTORIES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { max_shrink_iters: 5000, ..ProptestConfig::with_cases(asked.unwrap_or(HISTORIES)) }
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn histories_end_as_if_they_had_never_been(steps in steps(), last in prop_oneof![Just(Order::Forward), Just(Order::Backward)]) {
        let mut mesh = Mesh::new();
        for step in &steps {
            mesh = mesh.take(step);
        }
        mesh.rest(last);
    }
}

/// Every cluster has these hosts behind each of three services, and the agent has heard all of them.
fn mesh_of(hosts: std::ops::Range<u8>) -> Mesh {
    let mut mesh = Mesh::new();
    for peer in PEERS {
        mesh = mesh.take(&Step::File(peer, Some(true)));
    }
    change_all(&mut mesh, &hosts);
    mesh.rest(Order::Forward);
    mesh
}

fn change_all(mesh: &mut Mesh, hosts: &std::ops::Range<u8>) {
    for (cluster, service) in (1..PEERS.end).flat_map(|cluster| (0..3).map(move |service| (cluster, service)))
    {
        mesh.cluster(cluster).change(service, Some(&Spec::of(service, hosts.clone())));
    }
}

/// The agent's maps say what counts in the middle of a write: see `Kernel::write_cell`.
#[test]
fn peers_that_change_between_two_wake_ups_are_one_entry() {
    let mut mesh = mesh_of(1..3);
    for hosts in [1..4, 1..2, 1..6] {
        for peer in PEERS {
            mesh.cluster(peer).change(0, Some(&Spec::of(0, hosts.clone())));
            mesh.agent.deliver(&mesh.clusters[&peer], usize::MAX, Order::Forward);
        }
        mesh.settle();
    }
    mesh.rest(Order::Backward);
}

#[test]
fn what_no_write_was_refused_of_is_as_if_none_had_been() {
    let mut refused = 0;
    for seed in 0..50 {
        let mut mesh = mesh_of(1..4);
        mesh.agent.kernel().refusals = Some(seed);
        change_all(&mut mesh, &(2..6));
        mesh.agent.hear(&mesh.clusters[&1].truth);
        for peer in PEERS {
            mesh.agent.deliver(&mesh.clusters[&peer], usize::MAX, Order::Forward);
        }
        mesh.agent.settle();
        let failed = mesh.agent.refused();
        let mut fresh = mesh.fresh(Order::Forward).kernel().content();
        let mut content = mesh.agent.kernel().content();
        refused += failed.len();
        for frontend in failed {
            fresh.remove(&frontend);
            content.remove(&frontend);
        }
        assert_eq!(content, fresh, "seed {seed}");
        mesh.rest(Order::Forward);
    }
    assert!(refused > 50, "{refused} of 150 were refused");
}

#[test]
fn one_element_that_is_always_refused_is_one_frontends_and_shown() {
    let mut mesh = mesh_of(1..4);
    let frontend = mesh.agent.kernel().content().into_keys().next().unwrap();
    mesh.agent.kernel().refused = Some(frontend);
    change_all(&mut mesh, &(2..6));
    mesh.agent.hear(&mesh.clusters[&1].truth);
    for peer in PEERS {
        mesh.agent.deliver(&mesh.clusters[&peer], usize::MAX, Order::Forward);
    }
    mesh.agent.settle();
    // The first attempt writes slots that nobody reads; however often it is tried after that, it costs nothing but the try.
    mesh.agent.try_again();
    let free = mesh.agent.actual().free_slots();
    for _ in 0..50 {
        mesh.agent.try_again();
        assert_eq!(mesh.agent.refused(), [frontend]);
        mesh.agent.grace();
    }
    assert_eq!(mesh.agent.actual().free_slots(), free);
    assert!(mesh.agent.is_settled_and_not_frozen(), "everything else goes on");
    mesh.agent.kernel().refused = None;
    mesh.rest(Order::Forward);
}

#[test]
fn an_agent_that_can_write_nothing_says_so_until_it_can() {
    let mut mesh = mesh_of(1..4);
    mesh.agent.kernel().budget = Some(0);
    mesh.cluster(1).change(0, Some(&Spec::of(0, 2..6)));
    mesh.agent.hear(&mesh.clusters[&1].truth);
    mesh.agent.settle();
    assert!(!mesh.agent.is_settled_and_not_frozen());
    mesh.agent.try_again();
    assert!(!mesh.agent.is_settled_and_not_frozen());
    mesh.agent.kernel().budget = None;
    mesh.agent.try_again();
    assert!(mesh.agent.is_settled_and_not_frozen());
}
