//! The incremental result equals the full one, whatever the history; and ignorance removes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use mesh_model::address::Address;
use mesh_model::address_policy::{AddressPolicy, OwnRanges, PeerRanges, Ranges};
use mesh_model::annotation::{Affinity, Scope};
use mesh_model::desired::Frontend;
use mesh_model::export::{Identity, export};
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::record::{RecordKey, SyncedKind, SyncedRecord};
use mesh_model::snapshot::{
    ClusterSnapshot, Condition, Endpoint, Protocol, Service, ServicePort, Slice, SlicePort, Unread,
};
use mesh_model::view::{PeerPin, PeerService, PeerView};
use proptest::prelude::*;

use super::merger::{Merger, PeerInputs};
use crate::datapath::actual::{Actual, Capacity};

const CAPACITY: Capacity = Capacity { services: 64, slots: 1024, backends: 256, counters: 64 };

pub(super) fn id(cluster: u8) -> ClusterId {
    ClusterId::new(cluster.into()).unwrap()
}

pub(super) fn name(index: u8) -> ServiceName {
    format!("ns/svc-{index}").parse().unwrap()
}

/// A service of `cluster` whose ClusterIP ends with `ip`; one endpoint per host.
pub(super) fn service(cluster: u8, ip: u8, affinity: Affinity, hosts: &[u8]) -> Arc<Service> {
    let endpoints = hosts.iter().map(|host| Endpoint::new([10, cluster, 0, *host], Condition::READY));
    let slice = Slice {
        ports: vec![SlicePort { name: None, protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.collect(),
    };
    Arc::new(Service {
        scope: Scope { affinity, ..Scope::GLOBAL },
        cluster_ips: vec![Address::from([10, 96, cluster, ip])],
        ports: vec![ServicePort { name: None, protocol: Protocol::Tcp, port: 80 }],
        session_affinity_seconds: None,
        node_local: false,
        created_at: None,
        slices: BTreeMap::from([("s".parse().unwrap(), Arc::new(slice))]),
    })
}

pub(super) fn snapshot(services: impl IntoIterator<Item = (ServiceName, Arc<Service>)>) -> ClusterSnapshot {
    ClusterSnapshot { services: services.into_iter().collect(), ..ClusterSnapshot::default() }
}

/// What a reader gets of a peer's snapshot, through its records.
pub(super) fn seen(cluster: u8, snapshot: &ClusterSnapshot) -> OrdMap<ServiceName, Arc<PeerService>> {
    let name = format!("c{cluster}").parse().unwrap();
    let identity = Identity { name, id: id(cluster), ranges: OwnRanges::default() };
    let policy = AddressPolicy::new(PeerRanges::DECLARED, OwnRanges::default());
    let mut view = PeerView::new(PeerPin { name: identity.name.clone(), id: identity.id, policy });
    view.begin_list();
    let key = RecordKey::Cluster(identity.name.clone()).to_string();
    let record = serde_json::json!({
        "schema": 1, "id": cluster, "incarnation": "incarnation-1",
        "ranges": {"pods": [format!("10.{cluster}.0.0/16")], "nodes": []},
    });
    view.list_entry(&key, record.to_string().as_bytes());
    for (key, value) in export(&identity, snapshot, 0) {
        view.list_entry(&key, &value);
    }
    for kind in SyncedKind::ALL {
        let (key, value) = SyncedRecord { revision: 1 }.entry(&identity.name, kind);
        view.list_entry(&key, &value);
    }
    view.end_list();
    let snapshot = view.snapshot();
    assert!(snapshot.synced, "{:?}", snapshot.recent_rejections);
    snapshot.services.clone()
}

/// Tier, weight and backends of every group of every frontend.
type Content = BTreeMap<Frontend, BTreeMap<u16, (u8, u32, BTreeSet<(Address, u16)>)>>;

fn content(merger: &Merger) -> Content {
    let actual = merger.actual();
    let frontends = actual.frontends().map(|(frontend, held)| {
        let groups = held.groups.iter().map(|group| {
            let backends = actual.members(group).map(|(key, _)| (key.address.into(), key.port));
            (group.cluster.value(), (group.tier, group.weight, backends.collect()))
        });
        (*frontend, groups.collect())
    });
    frontends.collect()
}

fn settle(merger: &mut Merger, local: &ClusterSnapshot, peers: &PeerInputs) {
    merger.observe(Some(&Arc::new(local.clone())), peers);
    while let Some(mut planned) = merger.next_plan() {
        let retired = merger.actual_mut().written(&mut planned.plan);
        merger.actual_mut().release(retired);
    }
}

fn fresh() -> Merger {
    Merger::new(id(1), false, Actual::new(CAPACITY))
}

fn inputs(claimed: &[u8], synced: &[(u8, &ClusterSnapshot)]) -> PeerInputs {
    PeerInputs {
        claimed: Some(claimed.iter().map(|cluster| id(*cluster)).collect()),
        synced: synced.iter().map(|(cluster, snapshot)| (id(*cluster), seen(*cluster, snapshot))).collect(),
        policies: BTreeMap::new(),
        tracked: BTreeMap::new(),
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Cluster, service, and its ClusterIP's last byte, affinity and hosts; none deletes it.
    Service(u8, u8, Option<(u8, u8, Vec<u8>)>),
    /// A peer's file is there or not.
    Peer(u8, bool),
    /// The agent is killed and restarted: only the maps survive.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hosts = prop::collection::vec(1_u8..6, 0..4);
    let change = prop::option::weighted(0.8, (0_u8..3, 0_u8..3, hosts));
    let step = prop_oneof![
        6 => (1_u8..4, 0_u8..3, change).prop_map(|(cluster, service, to)| Step::Service(cluster, service, to)),
        2 => (2_u8..4, any::<bool>()).prop_map(|(peer, there)| Step::Peer(peer, there)),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..30)
}

fn restart(merger: &Merger) -> Merger {
    // Names, claims and what was observed are gone; the mirror is what restoring gives.
    let (moved, _) = merger.actual().moved_to(CAPACITY);
    Merger::new(id(1), false, moved)
}

proptest! {
    #[test]
    fn incremental_equals_full_whatever_the_history(steps in steps()) {
        let mut clusters: BTreeMap<u8, ClusterSnapshot> =
            (1..4).map(|cluster| (cluster, snapshot([]))).collect();
        let mut files = BTreeSet::new();
        let mut merger = fresh();
        for step in steps {
            match step {
                Step::Service(cluster, service_index, to) => {
                    let services = &mut clusters.get_mut(&cluster).unwrap().services;
                    match to {
                        Some((ip, affinity, mut hosts)) => {
                            hosts.sort_unstable();
                            hosts.dedup();
                            let affinity =
                                [Affinity::None, Affinity::Local, Affinity::Remote][usize::from(affinity)];
                            services.insert(name(service_index), service(cluster, ip, affinity, &hosts));
                        }
                        None => drop(services.remove(&name(service_index))),
                    }
                }
                Step::Peer(peer, true) => drop(files.insert(peer)),
                Step::Peer(peer, false) => drop(files.remove(&peer)),
                Step::Restart => merger = restart(&merger),
            }
            let claimed: Vec<u8> = files.iter().copied().collect();
            let synced: Vec<_> = files.iter().map(|peer| (*peer, &clusters[peer])).collect();
            let peers = inputs(&claimed, &synced);
            settle(&mut merger, &clusters[&1], &peers);
            let mut full = fresh();
            settle(&mut full, &clusters[&1], &peers);
            prop_assert_eq!(content(&merger), content(&full));
        }
    }
}

#[test]
fn nothing_is_planned_before_the_own_source_is_synced() {
    let local = snapshot([(name(0), service(1, 0, Affinity::None, &[1]))]);
    let mut merger = fresh();
    settle(&mut merger, &local, &inputs(&[], &[]));
    let before = content(&merger);
    let mut restarted = restart(&merger);
    restarted.observe(None, &inputs(&[], &[]));
    assert!(restarted.next_plan().is_none());
    assert_eq!(content(&restarted), before);
}

#[test]
fn a_restart_keeps_the_groups_of_peers_that_are_not_synced() {
    let local = snapshot([(name(0), service(1, 0, Affinity::Local, &[1]))]);
    let remote = snapshot([(name(0), service(2, 0, Affinity::None, &[1, 2]))]);
    let mut merger = fresh();
    settle(&mut merger, &local, &inputs(&[2], &[(2, &remote)]));
    let before = content(&merger);
    assert_eq!(before.values().next().unwrap()[&2].0, 1, "the remote tier");

    let mut restarted = restart(&merger);
    settle(&mut restarted, &local, &inputs(&[2], &[]));
    assert_eq!(content(&restarted), before, "the peer's file is there, the peer is silent");

    let unread = PeerInputs::default();
    let mut restarted = restart(&merger);
    settle(&mut restarted, &local, &unread);
    assert_eq!(content(&restarted), before, "the folder could not be read");

    let mut restarted = restart(&merger);
    settle(&mut restarted, &local, &inputs(&[], &[]));
    let drained = content(&restarted);
    assert!(!drained.values().next().unwrap().contains_key(&2), "no file claims the peer");

    let mut restarted = restart(&merger);
    let empty = snapshot([]);
    settle(&mut restarted, &local, &inputs(&[2], &[(2, &empty)]));
    assert_eq!(content(&restarted), drained, "the peer is synced and does not have the service");
}

#[test]
fn a_peer_that_falls_silent_keeps_its_groups_when_the_service_changes() {
    let local = |hosts: &[u8]| snapshot([(name(0), service(1, 0, Affinity::None, hosts))]);
    let remote = snapshot([(name(0), service(2, 0, Affinity::None, &[1, 2]))]);
    let mut merger = fresh();
    settle(&mut merger, &local(&[1]), &inputs(&[2], &[(2, &remote)]));
    settle(&mut merger, &local(&[1, 2]), &inputs(&[2], &[]));
    let groups = content(&merger).into_values().next().unwrap();
    assert_eq!((groups[&1].2.len(), groups[&2].2.len()), (2, 2));
}

#[test]
fn a_service_deleted_while_the_agent_was_down_goes() {
    let local = snapshot([(name(0), service(1, 0, Affinity::None, &[1]))]);
    let mut merger = fresh();
    settle(&mut merger, &local, &inputs(&[], &[]));
    let mut restarted = restart(&merger);
    settle(&mut restarted, &snapshot([]), &inputs(&[], &[]));
    assert!(content(&restarted).is_empty());
}

#[test]
fn an_unchanged_world_plans_nothing() {
    let local = snapshot([(name(0), service(1, 0, Affinity::None, &[1]))]);
    let remote = snapshot([(name(0), service(2, 0, Affinity::None, &[1]))]);
    let peers = inputs(&[2], &[(2, &remote)]);
    let mut merger = fresh();
    settle(&mut merger, &local, &peers);
    let mut restarted = restart(&merger);
    restarted.observe(Some(&Arc::new(local)), &peers);
    while let Some(planned) = restarted.next_plan() {
        assert!(planned.plan.is_empty(), "{:?}", planned.plan);
    }
}

/// A source that can't read what a Service or a slice is, and remembers nothing of it.
fn unread(mut snapshot: ClusterSnapshot, change: impl FnOnce(&mut Unread)) -> ClusterSnapshot {
    change(&mut snapshot.unread);
    snapshot
}

#[test]
fn what_the_own_source_cannot_read_stays_in_the_maps_over_a_restart() {
    let [a, b] = [0, 1].map(|index| (name(index), service(1, index, Affinity::None, &[1, 2])));
    let mut merger = fresh();
    settle(&mut merger, &snapshot([a.clone(), b]), &inputs(&[], &[]));
    let before = content(&merger);
    for what in ["by name", "nobody knows what"] {
        let mut restarted = restart(&merger);
        let change = |unread: &mut Unread| match what {
            "by name" => drop(unread.services.insert(name(1), BTreeMap::new())),
            _ => unread.anything = true,
        };
        settle(&mut restarted, &unread(snapshot([a.clone()]), change), &inputs(&[], &[]));
        assert_eq!(content(&restarted), before, "{what}");
        settle(&mut restarted, &snapshot([a.clone()]), &inputs(&[], &[]));
        assert_eq!(content(&restarted).len(), 1, "{what}: it can be read, and the Service is not there");
    }
}

#[test]
fn backends_in_slices_that_cannot_be_read_stay_beside_those_that_can() {
    let all = snapshot([(name(0), service(1, 0, Affinity::None, &[1, 2]))]);
    let mut merger = fresh();
    settle(&mut merger, &all, &inputs(&[], &[]));
    let hosts = |merger: &Merger| content(merger).values().next().map_or(0, |groups| groups[&1].2.len());
    let read = |hosts: &[u8]| snapshot([(name(0), service(1, 0, Affinity::None, hosts))]);
    let slice = |unread: &mut Unread| drop(unread.slices.insert(("ns".into(), "other".parse().unwrap())));
    let mut restarted = restart(&merger);
    settle(&mut restarted, &unread(read(&[3]), slice), &inputs(&[], &[]));
    assert_eq!(hosts(&restarted), 3, "one was read, two may be in the other slice");
    settle(&mut restarted, &read(&[3]), &inputs(&[], &[]));
    assert_eq!(hosts(&restarted), 1);
    // What becomes unreadable now holds nothing that was there before.
    settle(&mut restarted, &unread(read(&[4]), slice), &inputs(&[], &[]));
    assert_eq!(hosts(&restarted), 1);
}

#[test]
fn what_cannot_be_read_holds_nothing_else_up() {
    let local = |hosts: &[u8]| {
        let both =
            [(name(0), service(1, 0, Affinity::None, hosts)), (name(1), service(1, 1, Affinity::None, &[1]))];
        snapshot(both)
    };
    let mut merger = fresh();
    settle(&mut merger, &local(&[1, 2]), &inputs(&[], &[]));
    let mut restarted = restart(&merger);
    let change = |unread: &mut Unread| drop(unread.services.insert(name(7), BTreeMap::new()));
    settle(&mut restarted, &unread(local(&[3]), change), &inputs(&[], &[]));
    let mut full = fresh();
    settle(&mut full, &local(&[3]), &inputs(&[], &[]));
    assert_eq!(content(&restarted), content(&full));
}

#[test]
fn carried_backends_outside_of_the_peers_ranges_go_though_the_peer_is_silent() {
    let local = snapshot([(name(0), service(1, 0, Affinity::None, &[1]))]);
    let remote = snapshot([(name(0), service(2, 0, Affinity::None, &[1, 2]))]);
    let mut merger = fresh();
    settle(&mut merger, &local, &inputs(&[2], &[(2, &remote)]));
    let hosts = |merger: &Merger| {
        content(merger).into_values().next().unwrap().get(&2).map_or(0, |group| group.2.len())
    };
    let first = content(&merger).into_values().next().unwrap()[&2].2.first().copied();
    let address = first.unwrap().0;
    let silent = |ranges: Option<PeerRanges>| {
        let policy = ranges.map(|ranges| (id(2), AddressPolicy::new(ranges, OwnRanges::default())));
        PeerInputs { policies: policy.into_iter().collect(), ..inputs(&[2], &[]) }
    };
    let one = Ranges { pods: vec![std::net::IpAddr::from(address).into()], nodes: Vec::new() };
    let elsewhere = Ranges { pods: vec!["203.0.113.0/24".parse().unwrap()], nodes: Vec::new() };

    let mut restarted = restart(&merger);
    settle(&mut restarted, &local, &silent(Some(PeerRanges::DECLARED)));
    assert_eq!(hosts(&restarted), 2, "what its record declares is not known yet");
    settle(&mut restarted, &local, &silent(Some(PeerRanges::Agreed(one.clone()))));
    assert_eq!(hosts(&restarted), 1, "narrowed while it runs");
    settle(&mut restarted, &local, &silent(Some(PeerRanges::Agreed(elsewhere))));
    assert_eq!(hosts(&restarted), 0);

    let mut restarted = restart(&merger);
    settle(&mut restarted, &local, &silent(Some(PeerRanges::Agreed(one))));
    assert_eq!(hosts(&restarted), 1, "narrowed before the start");
}

#[test]
fn who_finds_no_room_beside_the_own_cluster_is_known_until_there_is_room() {
    let local = snapshot([(name(1), service(20, 1, Affinity::Remote, &[1]))]);
    let peers = |last: u8| PeerInputs {
        claimed: Some((1..=last).map(id).collect()),
        synced: (1..=last)
            .map(|n| (id(n), seen(n, &snapshot([(name(1), service(n, 1, Affinity::None, &[n]))]))))
            .collect(),
        policies: BTreeMap::new(),
        tracked: BTreeMap::new(),
    };
    let mut merger = Merger::new(id(20), false, Actual::new(CAPACITY));
    settle(&mut merger, &local, &peers(19));
    let left_out: Vec<_> = merger.left_out().values().cloned().collect();
    let (_, groups) = content(&merger).pop_first().unwrap();
    assert!(groups.contains_key(&20), "the only fallback, and the own cluster");
    assert_eq!((groups.len(), left_out.len(), left_out[0].len()), (16, 1, 4));
    assert!(left_out[0].iter().all(|cluster| !groups.contains_key(&cluster.value())));

    let mut restarted = Merger::new(id(20), false, Actual::new(CAPACITY));
    settle(&mut restarted, &local, &peers(15));
    assert!(restarted.left_out().is_empty());
    settle(&mut restarted, &local, &peers(19));
    assert_eq!(
        (content(&restarted), restarted.left_out()),
        (content(&merger), merger.left_out()),
        "whoever came first"
    );

    settle(&mut merger, &local, &peers(15));
    assert!(merger.left_out().is_empty());
    settle(&mut merger, &local, &peers(19));
    settle(&mut merger, &snapshot([]), &peers(19));
    assert!(merger.left_out().is_empty(), "the service has gone");
}

#[test]
fn services_of_one_peer_that_would_fill_the_maps_leave_its_neighbours_alone() {
    // The same three services everywhere; peer 4 has so many backends for each that the maps would be full.
    let hosts = |first: u8| (first..first + 20).collect::<Vec<u8>>();
    let of = |cluster: u8, hosts: &dyn Fn(u8) -> Vec<u8>| {
        snapshot((1..=3).map(|n| (name(n), service(cluster, n, Affinity::None, &hosts(n)))))
    };
    let many = |_: u8| (0..=254).collect::<Vec<u8>>();
    let peers = |first: u8| PeerInputs {
        claimed: Some([2, 3, 4].map(id).into()),
        synced: [
            (id(2), seen(2, &of(2, &|n| hosts(first + n)))),
            (id(3), seen(3, &of(3, &|n| hosts(first + n)))),
            (id(4), seen(4, &of(4, &many))),
        ]
        .into(),
        policies: BTreeMap::new(),
        tracked: BTreeMap::new(),
    };
    let mut merger = fresh();
    settle(&mut merger, &of(1, &hosts), &peers(1));
    // All pods of the neighbours and of the own cluster are replaced.
    settle(&mut merger, &of(1, &|n| hosts(100 + n)), &peers(100));
    for (frontend, groups) in content(&merger) {
        let n = frontend_number(&frontend);
        for cluster in [1, 2, 3] {
            let expected =
                hosts(100 + n).into_iter().map(|host| (Address::from([10, cluster, 0, host]), 8080));
            assert_eq!(
                groups[&cluster.into()].2,
                expected.collect(),
                "cluster {cluster} behind {frontend:?}"
            );
        }
        assert!(groups[&4].2.len() < 64, "its share of 255");
    }
    assert!(
        merger
            .refused()
            .all()
            .values()
            .all(|refusal| refusal.to_string().starts_with("cluster 4 has no room left"))
    );
    assert_eq!(merger.refused().all().len(), 3);
}

fn frontend_number(frontend: &Frontend) -> u8 {
    frontend.address.octets()[15]
}

#[test]
fn what_was_not_read_of_a_peer_stays_until_it_was() {
    let local = snapshot([
        (name(1), service(1, 1, Affinity::None, &[])),
        (name(2), service(1, 2, Affinity::None, &[])),
    ]);
    let peer = |hosts: &[u8]| snapshot([(name(1), service(2, 1, Affinity::None, hosts))]);
    let mut before = fresh();
    settle(&mut before, &local, &inputs(&[2], &[(2, &peer(&[1, 2]))]));
    let expected = content(&before);
    // A restarted agent: the peer is synced, but of no service yet.
    let (moved, _) = before.actual().moved_to(CAPACITY);
    let mut merger = Merger::new(id(1), false, moved);
    let reading = |tracked: &[u8], peer: &ClusterSnapshot| PeerInputs {
        tracked: [(id(2), tracked.iter().map(|n| name(*n)).collect())].into(),
        ..inputs(&[2], &[(2, peer)])
    };
    settle(&mut merger, &local, &reading(&[], &snapshot([])));
    assert_eq!(content(&merger), expected);
    settle(&mut merger, &local, &reading(&[2], &snapshot([])));
    assert_eq!(content(&merger), expected, "the other service was read");
    settle(&mut merger, &local, &reading(&[1, 2], &snapshot([])));
    assert!(content(&merger).values().all(BTreeMap::is_empty), "the peer has it no more");
}
