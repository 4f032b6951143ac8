//! What is told to be left out, against what a merge uses; and the document of reasons.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::desired::Frontend;
use mesh_model::explain::explain;
use mesh_model::merge::{CarriedGroup, Merge, merge};
use mesh_model::name::ClusterId;
use mesh_model::reason::{Omission, Reason};
use mesh_model::snapshot::Service;
use mesh_model::view::PeerService;
use proptest::prelude::*;
use support::strategies::services;
use support::*;

type Peers = Vec<(ClusterId, Arc<PeerService>)>;

fn nothing_carried(_: &Frontend) -> Vec<CarriedGroup> {
    Vec::new()
}

fn as_peer(service: &Service) -> Option<Arc<PeerService>> {
    let name = service_name("default/base");
    listed(&snapshot([(name.clone(), service.clone())])).snapshot().services.get(&name).cloned()
}

/// Each cluster with the frontends that lead to it, all frontends, and what is left out.
fn told(local: &Service, peers: &Peers) -> (Vec<(ClusterId, usize)>, usize, Vec<Omission>) {
    let name = service_name("default/base");
    let input =
        Merge { own: id(1), plain_ok_allowed: false, name: &name, local, peers, carried: &nothing_carried };
    let merged = merge(&input);
    let clusters: BTreeSet<ClusterId> = peers.iter().map(|(cluster, _)| *cluster).chain([id(1)]).collect();
    let takes_part = |cluster: ClusterId| {
        let groups = merged.iter().map(|(_, desired)| &desired.groups);
        groups.filter(|groups| groups.iter().any(|group| group.cluster == cluster)).count()
    };
    let parts = clusters.into_iter().map(|cluster| (cluster, takes_part(cluster))).collect();
    (parts, merged.len(), explain(&input))
}

/// As Kubernetes has it: no two ports of one name, or of one number and protocol.
fn is_valid(service: &Service) -> bool {
    let names: BTreeSet<_> = service.ports.iter().map(|port| &port.name).collect();
    let numbers: BTreeSet<_> = service.ports.iter().map(|port| (port.port, port.protocol)).collect();
    names.len() == service.ports.len() && numbers.len() == service.ports.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_cluster_that_takes_no_part_in_some_frontend_is_told(
        local in services(), peers in proptest::collection::vec(services(), 0..3),
    ) {
        prop_assume!(is_valid(&local));
        let peers: Peers = (2..).zip(&peers)
            .filter_map(|(number, service)| Some((id(number), as_peer(service)?)))
            .collect();
        let (parts, frontends, left_out) = told(&local, &peers);
        for (cluster, takes_part) in parts {
            let of_cluster = left_out.iter().any(|omission| omission.cluster == Some(cluster));
            if takes_part < frontends {
                prop_assert!(of_cluster, "cluster {cluster} takes no part, and nobody says why: {left_out:?}");
            }
        }
    }
}

#[test]
fn what_is_in_use_is_not_told() {
    let local = http_service("10.101.0.1", ready(&["10.1.0.1"]));
    let peers =
        vec![(id(2), as_peer(&http_service("10.102.0.1", ready(&["10.2.0.1", "10.2.0.2"]))).unwrap())];
    assert_eq!(told(&local, &peers).2, []);
}

#[test]
fn the_reasons_are_documented_as_the_code_has_them() {
    let document = include_str!("../../../docs/services.md");
    let table: Vec<&str> =
        document.lines().skip_while(|line| !line.starts_with("| reason |")).skip(2).collect();
    let rows: Vec<&str> = table.into_iter().take_while(|line| line.starts_with('|')).collect();
    let wanted = |reason: &Reason| {
        format!("| `{reason}` | {} | {} | {} |", reason.actor(), reason.teller(), reason.meaning())
    };
    assert_eq!(rows, Reason::ALL.iter().map(wanted).collect::<Vec<_>>());
}
