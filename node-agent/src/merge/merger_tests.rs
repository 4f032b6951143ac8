//! The incremental result equals the full one, whatever the history; and ignorance removes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use mesh_model::annotation::{Affinity, Scope};
use mesh_model::desired::Frontend;
use mesh_model::export::{Identity, export};
use mesh_model::fence::{Fence, OwnRanges, PeerRanges};
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::record::{RecordKey, SyncedKind, SyncedRecord};
use mesh_model::snapshot::{
    ClusterSnapshot, Condition, Endpoint, Protocol, Service, ServicePort, Slice, SlicePort,
};
use mesh_model::view::{PeerPin, PeerService, PeerView};
use proptest::prelude::*;

use super::merger::{Merger, PeerInputs};
use crate::datapath::actual::{Actual, Capacity, unmapped};

const CAPACITY: Capacity = Capacity { services: 64, slots: 1024, backends: 256, counters: 64 };

fn id(cluster: u8) -> ClusterId {
    ClusterId::new(cluster.into()).unwrap()
}

fn name(index: u8) -> ServiceName {
    format!("ns/svc-{index}").parse().unwrap()
}

/// A service of `cluster` whose ClusterIP ends with `ip`; one endpoint per host.
fn service(cluster: u8, ip: u8, affinity: Affinity, hosts: &[u8]) -> Arc<Service> {
    let endpoints = hosts.iter().map(|host| Endpoint {
        address: IpAddr::from([10, cluster, 0, *host]),
        condition: Condition::READY,
        node: None,
        zone: None,
        hostname: None,
        hinted_away: false,
    });
    let slice = Slice {
        ports: vec![SlicePort { name: None, protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.collect(),
    };
    Arc::new(Service {
        scope: Scope { shared: true, affinity },
        cluster_ips: vec![IpAddr::from([10, 96, cluster, ip])],
        ports: vec![ServicePort { name: None, protocol: Protocol::Tcp, port: 80 }],
        session_affinity_seconds: None,
        node_local: false,
        created_at: None,
        slices: BTreeMap::from([("s".parse().unwrap(), Arc::new(slice))]),
    })
}

fn snapshot(services: impl IntoIterator<Item = (ServiceName, Arc<Service>)>) -> ClusterSnapshot {
    ClusterSnapshot { services: services.into_iter().collect(), nodes: OrdMap::new() }
}

/// What a reader gets of a peer's snapshot, through its records.
fn seen(cluster: u8, snapshot: &ClusterSnapshot) -> OrdMap<ServiceName, Arc<PeerService>> {
    let name = format!("c{cluster}").parse().unwrap();
    let identity = Identity { name, id: id(cluster), ranges: OwnRanges::default() };
    let fence = Fence::new(PeerRanges::DECLARED, OwnRanges::default());
    let mut view = PeerView::new(PeerPin { name: identity.name.clone(), id: identity.id, fence });
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
type Content = BTreeMap<Frontend, BTreeMap<u16, (u8, u32, BTreeSet<(IpAddr, u16)>)>>;

fn content(merger: &Merger) -> Content {
    let actual = merger.actual();
    let frontends = actual.frontends().map(|(frontend, held)| {
        let groups = held.groups.iter().map(|group| {
            let backends = actual.members(group).map(|(key, _)| (unmapped(key.address), key.port));
            (group.cluster.value(), (group.tier, group.weight, backends.collect()))
        });
        (*frontend, groups.collect())
    });
    frontends.collect()
}

fn settle(merger: &mut Merger, local: &ClusterSnapshot, peers: &PeerInputs) {
    merger.observe(Some(&Arc::new(local.clone())), peers);
    while let Some(planned) = merger.next_plan() {
        merger.actual_mut().release(planned.plan.freed);
    }
}

fn fresh() -> Merger {
    Merger::new(id(1), false, Actual::new(CAPACITY))
}

fn inputs(claimed: &[u8], synced: &[(u8, &ClusterSnapshot)]) -> PeerInputs {
    PeerInputs {
        claimed: Some(claimed.iter().map(|cluster| id(*cluster)).collect()),
        synced: synced.iter().map(|(cluster, snapshot)| (id(*cluster), seen(*cluster, snapshot))).collect(),
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
fn nothing_is_planned_before_the_own_source_has_spoken() {
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
fn a_restart_keeps_the_groups_of_peers_that_have_not_spoken() {
    let local = snapshot([(name(0), service(1, 0, Affinity::Local, &[1]))]);
    let remote = snapshot([(name(0), service(2, 0, Affinity::None, &[1, 2]))]);
    let mut merger = fresh();
    settle(&mut merger, &local, &inputs(&[2], &[(2, &remote)]));
    let before = content(&merger);
    assert_eq!(before.values().next().unwrap()[&2].0, 1, "the remote tier");

    let mut restarted = restart(&merger);
    settle(&mut restarted, &local, &inputs(&[2], &[]));
    assert_eq!(content(&restarted), before, "the peer's file is there, the peer is silent");

    let unread = PeerInputs { claimed: None, synced: BTreeMap::new() };
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
    assert_eq!(content(&restarted), drained, "the peer has spoken and does not have the service");
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
