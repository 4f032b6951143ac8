//! Affinity, weights and verdicts as connections feel them: 100,000 connects per setting through the real object,
//! from the annotation to the slots by the real selection and plan, counted by the servers and by the kernel.
//!
//! A share may be off by [`SIGMAS`] standard deviations of the binomial distribution: of the sixty shares that
//! this file looks at, one is off by that much in thirty thousand runs. The counters have to agree exactly.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use mesh_abi::{CLUSTER_DEMOTED, CLUSTER_USABLE, ClusterStates, MAX_CLUSTERS, Outcome};
use mesh_model::annotation::Affinity;
use mesh_model::desired::{BackendState, DesiredBackend, DesiredService, Frontend};
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::select::{Candidate, Choice};
use mesh_model::snapshot::Protocol;
use node_agent::datapath::actual::Actual;
use node_agent::datapath::apply::apply;
use node_agent::datapath::maps::Maps;
use socket2::{Domain, SockRef, Socket, Type};

use support::{CAPACITY, World, outcome, wait_until};

const CONNECTS: u32 = 100_000;
/// Connects before the servers take them; below a server's backlog, so that no handshake waits.
const BATCH: u32 = 500;
const SIGMAS: f64 = 5.0;
const OWN: u16 = 1;
/// How many servers the clusters 1, 2 and 3 have.
const SERVERS: [(u16, usize); 3] = [(OWN, 2), (2, 3), (3, 1)];

/// How often the program looks at each of three groups where nothing in the first tier is fit: 32 slots in turn, so that
/// the last group, whose turn comes once less, gets a little less than its weight says.
const LOOKS: [u32; 3] = [11, 11, 10];

/// A cluster and its odds.
type Odds = (u16, u32);

struct Setting {
    affinity: Affinity,
    /// Instead of the number of backends.
    weights: &'static [(u16, u32)],
    demoted: &'static [u16],
    /// All backends serve and terminate.
    terminating: bool,
    odds: &'static [Odds],
    last_resort: bool,
}

const PLAIN: Setting = Setting {
    affinity: Affinity::None,
    weights: &[],
    demoted: &[],
    terminating: false,
    odds: &[(OWN, 2), (2, 3), (3, 1)],
    last_resort: false,
};

#[test]
fn without_affinity_every_backend_gets_the_same() {
    PLAIN.check();
}

#[test]
fn with_local_affinity_the_own_cluster_gets_all() {
    Setting { affinity: Affinity::Local, odds: &[(OWN, 1)], ..PLAIN }.check();
}

#[test]
fn with_remote_affinity_the_others_share_all() {
    Setting { affinity: Affinity::Remote, odds: &[(2, 3), (3, 1)], ..PLAIN }.check();
}

#[test]
fn weights_decide_on_the_shares_and_zero_gets_nothing() {
    let weights = &[(OWN, 1), (2, 0), (3, 9)];
    Setting { weights, odds: &[(OWN, 1), (3, 9)], ..PLAIN }.check();
}

#[test]
fn a_demoted_cluster_gets_nothing_and_the_rest_keep_their_proportion() {
    Setting { demoted: &[2], odds: &[(OWN, 2), (3, 1)], ..PLAIN }.check();
}

#[test]
fn with_local_affinity_a_demoted_own_cluster_gives_way_to_the_others() {
    let odds = &[(2, LOOKS[1] * 3), (3, LOOKS[2])];
    Setting { affinity: Affinity::Local, demoted: &[OWN], odds, ..PLAIN }.check();
}

#[test]
fn where_all_terminate_all_are_used_and_counted_as_a_last_resort() {
    let odds = &[(OWN, LOOKS[0] * 2), (2, LOOKS[1] * 3), (3, LOOKS[2])];
    Setting { terminating: true, last_resort: true, odds, ..PLAIN }.check();
}

impl Setting {
    fn check(&self) {
        let world = World::new();
        let mut maps = world.attached();
        let servers = Servers::new();
        let frontend = Frontend { address: [10, 96, 0, 1].into(), port: 80, protocol: Protocol::Tcp };
        let mut actual = Actual::new(CAPACITY);
        let plan = actual.plan(&[(frontend, Some(self.desired(&servers)))]);
        apply(&mut maps.services, &plan).unwrap();
        demote(&mut maps, self.demoted);

        let counts = servers.connect(SocketAddr::new(frontend.address.into(), frontend.port));
        let by_cluster =
            |cluster| counts.iter().filter(move |((of, _), _)| *of == cluster).map(|(_, count)| *count);
        for (cluster, servers) in SERVERS {
            let share = self.share(cluster);
            assert_share(&format!("cluster {cluster}"), by_cluster(cluster).sum(), share);
            for (index, count) in by_cluster(cluster).enumerate() {
                assert_share(&format!("server {index} of cluster {cluster}"), count, share / servers as f64);
            }
        }
        let held = actual.held(&frontend).unwrap();
        for group in &held.groups {
            let counter = maps.services.read_counters(&[group.counter]).unwrap()[0];
            let count = u64::from(by_cluster(group.cluster.value()).sum::<u32>());
            let last_resort = if self.last_resort { count } else { 0 };
            assert_eq!((counter.connections, counter.last_resort), (count, last_resort), "{}", group.cluster);
        }
        let outcomes = [Outcome::Translated, Outcome::NotAService, Outcome::NoBackend, Outcome::Retried];
        let outcomes = outcomes.map(|kind| outcome(&maps, kind));
        assert_eq!(outcomes, [u64::from(CONNECTS), 0, 0, 0]);
    }

    fn share(&self, cluster: u16) -> f64 {
        let all: u32 = self.odds.iter().map(|(_, odds)| odds).sum();
        let own = self.odds.iter().find(|(of, _)| *of == cluster).map_or(0, |(_, odds)| *odds);
        f64::from(own) / f64::from(all)
    }

    fn desired(&self, servers: &Servers) -> DesiredService {
        let state = if self.terminating { BackendState::Terminating } else { BackendState::Active };
        let candidates = SERVERS.into_iter().map(|(cluster, _)| {
            let backends =
                servers.of(cluster).map(|address| DesiredBackend::new(address.ip(), address.port(), state));
            let weight = self.weights.iter().find(|(of, _)| *of == cluster).map(|(_, weight)| *weight);
            (id(cluster), Candidate::new(backends.collect(), weight))
        });
        let service: ServiceName = "default/rebel-base".parse().unwrap();
        let choice = Choice { affinity: self.affinity, own: id(OWN), service: &service };
        let selected = choice.select(candidates.collect::<BTreeMap<_, _>>());
        DesiredService { service, port_name: None, plain_ok: false, groups: selected.groups }
    }
}

fn id(cluster: u16) -> ClusterId {
    ClusterId::new(cluster.into()).unwrap()
}

fn demote(maps: &mut Maps, clusters: &[u16]) {
    let mut states = ClusterStates { state: [CLUSTER_USABLE; MAX_CLUSTERS] };
    clusters.iter().for_each(|cluster| states.state[usize::from(*cluster)] = CLUSTER_DEMOTED);
    maps.clusters.write(&states).unwrap();
}

fn assert_share(what: &str, count: u32, share: f64) {
    let total = f64::from(CONNECTS);
    let bound = SIGMAS * (total * share * (1.0 - share)).sqrt();
    let off = f64::from(count) - total * share;
    assert!(off.abs() <= bound, "{what} got {count} of {total}; {:.0} ± {bound:.0} were due", total * share);
}

/// The servers of all clusters, by cluster and number.
struct Servers(BTreeMap<(u16, usize), TcpListener>);

impl Servers {
    fn new() -> Self {
        let numbers = SERVERS.into_iter().flat_map(|(cluster, count)| (0..count).map(move |n| (cluster, n)));
        Self(
            numbers
                .map(|(cluster, n)| ((cluster, n), listener(&format!("127.0.{cluster}.{}:0", n + 1))))
                .collect(),
        )
    }

    fn of(&self, cluster: u16) -> impl Iterator<Item = SocketAddr> + '_ {
        let own = self.0.iter().filter(move |((of, _), _)| *of == cluster);
        own.map(|(_, listener)| listener.local_addr().unwrap())
    }

    /// Dials the frontend [`CONNECTS`] times, and says which server got how many.
    fn connect(&self, frontend: SocketAddr) -> BTreeMap<(u16, usize), u32> {
        let mut counts: BTreeMap<_, u32> = self.0.keys().map(|server| (*server, 0)).collect();
        for batch in 1..=CONNECTS / BATCH {
            for _ in 0..BATCH {
                let connection = TcpStream::connect(frontend).unwrap();
                // A reset leaves no socket behind that waits for a minute with its port.
                SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap();
            }
            let arrived = wait_until(Duration::from_secs(30), || {
                for (server, listener) in &self.0 {
                    let taken = std::iter::from_fn(|| listener.accept().ok()).count();
                    *counts.get_mut(server).unwrap() += u32::try_from(taken).unwrap();
                }
                counts.values().sum::<u32>() == batch * BATCH
            });
            assert!(arrived, "of {} connections these arrived: {counts:?}", batch * BATCH);
        }
        counts
    }
}

fn listener(address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1024).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}
