//! Golden scenarios: two clusters → the records of one → what the other's datapath shall hold.
//!
//! The files in `scenarios/` are contracts: keys and JSON that older and newer versions must read, and the
//! semantics of global services. `UPDATE_GOLDEN=1 cargo test -p mesh-model --test scenarios` writes them; look
//! at the difference before you commit it. Every scenario is also fed backwards, twice, and in two parts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use mesh_model::annotation::{Affinity, Scope};
use mesh_model::desired::{BackendState, DesiredService, Frontend};
use mesh_model::export::Entries;
use mesh_model::merge::{Merge, merge_reported};
use mesh_model::name::NodeName;
use mesh_model::record::AliveRecord;
use mesh_model::snapshot::{ClusterSnapshot, Condition, Node, Protocol, Service, Slice};
use mesh_model::view::{PeerSnapshot, PeerView};
use support::*;

/// What `rebels` (id 1) have and what stands in the etcd of `empire` (id 2).
struct Scenario {
    name: &'static str,
    rebels: ClusterSnapshot,
    empire: Entries,
}

fn base() -> mesh_model::name::ServiceName {
    service_name("default/rebel-base")
}

fn rebel_base(cluster_ip: &str, endpoints: Vec<mesh_model::snapshot::Endpoint>) -> Service {
    http_service(cluster_ip, endpoints)
}

/// Everything plain: one service in both clusters.
fn both_answer() -> Scenario {
    let theirs = ClusterSnapshot {
        nodes: [(
            NodeName::new("node-1").unwrap(),
            Arc::new(Node { addresses: vec![ip("192.168.2.1").into()], pod_cidrs: nets(&["10.2.1.0/24"]) }),
        )]
        .into_iter()
        .collect(),
        ..snapshot([(base(), rebel_base("10.102.0.1", ready(&["10.2.1.1", "10.2.1.2"])))])
    };
    let mut entries = store(&empire(), &theirs);
    let alive = AliveRecord { epoch: 4, counter: 17, source_age_ms: Some(120) };
    entries.extend([alive.entry(&empire().name)]);
    Scenario {
        name: "both_answer",
        rebels: snapshot([(base(), rebel_base("10.101.0.1", ready(&["10.1.1.1"])))]),
        empire: entries,
    }
}

/// The pods of one cluster end gracefully: terminating first, and nothing better is left there.
fn graceful_end() -> Scenario {
    let fading =
        vec![endpoint("10.1.1.1", Condition::TERMINATING), endpoint("10.1.1.2", Condition::NOT_READY)];
    let mut local = rebel_base("10.101.0.1", fading);
    local.scope.affinity = Affinity::Local;
    let remote = vec![
        endpoint("10.2.1.1", Condition::READY),
        endpoint("10.2.1.2", Condition::TERMINATING),
        endpoint("10.2.1.3", Condition { ready: false, serving: true, terminating: false }),
    ];
    Scenario {
        name: "graceful_end",
        rebels: snapshot([(base(), local)]),
        empire: store(&empire(), &snapshot([(base(), rebel_base("10.102.0.1", remote))])),
    }
}

/// Two families, two protocols, ports that match by name, by number and not at all.
fn ports_and_families() -> Scenario {
    use Protocol::{Tcp, Udp};
    let slice = |address: &str, ports: &[(&str, Protocol, u16)]| {
        let ports = ports.iter().map(|(name, protocol, number)| target(name, *protocol, *number)).collect();
        Arc::new(Slice { ports, endpoints: ready(&[address]) })
    };
    let own = [("web", Tcp, 8080), ("dns", Udp, 5353), ("only-here", Tcp, 9000)];
    let theirs = [("web", Tcp, 3000), ("name-server", Udp, 53)];
    let dual = |ips: [&str; 2]| ips.iter().map(|text| ip(text)).collect::<Vec<_>>();
    let local = Service {
        scope: Scope { shared: false, affinity: Affinity::Remote, ..Scope::GLOBAL },
        cluster_ips: dual(["10.101.0.1", "fd11::1"]),
        ports: vec![port("web", Tcp, 80), port("dns", Udp, 53), port("only-here", Tcp, 9000)],
        session_affinity_seconds: None,
        node_local: false,
        created_at: None,
        slices: [("v4", slice("10.1.1.1", &own)), ("v6", slice("fd01::1", &own))]
            .map(|(name, slice)| (slice_name(name), slice))
            .into(),
    };
    let remote = Service {
        scope: SHARED,
        cluster_ips: dual(["10.102.0.1", "fd12::1"]),
        ports: vec![port("web", Tcp, 8000), port("name-server", Udp, 53)],
        session_affinity_seconds: Some(10_800),
        node_local: false,
        created_at: Some("2026-11-24T18:00:00Z".into()),
        slices: [("v4", slice("10.2.1.1", &theirs)), ("v6", slice("fd02::1", &theirs))]
            .map(|(name, slice)| (slice_name(name), slice))
            .into(),
    };
    Scenario {
        name: "ports_and_families",
        rebels: snapshot([(base(), local)]),
        empire: store(&empire(), &snapshot([(base(), remote)])),
    }
}

/// A peer that points a service at what it must not, and writes below another's name.
fn hostile_peer() -> Scenario {
    let bad = ["169.254.169.254", "127.0.0.1", "::1", "10.1.1.1", "10.101.0.1", "192.168.1.1", "10.9.9.9"];
    let mut endpoints = ready(&bad);
    endpoints.extend(ready(&["10.2.1.1"]));
    let mut entries = store(&empire(), &snapshot([(base(), rebel_base("10.102.0.1", endpoints))]));
    for key in ["services/rebels/default/rebel-base", "services/empire/default/other", "secrets/empire"] {
        entries.insert(format!("clustermesh/v1/{key}"), b"{]".to_vec());
    }
    Scenario {
        name: "hostile_peer",
        rebels: snapshot([(base(), rebel_base("10.101.0.1", ready(&["10.1.1.1"])))]),
        empire: entries,
    }
}

fn records_text(entries: &Entries) -> String {
    let mut text = String::from("# records of empire\n");
    for (key, value) in entries {
        writeln!(text, "{key} {}", String::from_utf8_lossy(value)).unwrap();
    }
    text
}

fn view_text(peer: &PeerSnapshot) -> String {
    let mut text = String::from("\n# empire as rebels see it\n");
    writeln!(text, "synced={} endpoints={}", peer.synced, peer.endpoints).unwrap();
    for (name, service) in &peer.services {
        for (slice, number) in service.slices().iter().zip(1..) {
            let endpoints: Vec<_> = slice.endpoints().collect();
            writeln!(text, "{name} slice {number}: {endpoints:?}").unwrap();
        }
    }
    // Each once: how often it was seen depends on the way.
    for rejection in &peer.recent_rejections {
        writeln!(text, "rejected: {rejection}").unwrap();
    }
    text
}

fn desired_text(rebels: &ClusterSnapshot, peer: &PeerSnapshot) -> String {
    let mut text = String::from("\n# desired at rebels\n");
    for (name, local) in &rebels.services {
        let peers: Vec<_> =
            peer.services.get(name).map(|service| (id(2), service.clone())).into_iter().collect();
        let merged = merge_reported(&Merge {
            own: id(1),
            plain_ok_allowed: true,
            name,
            local,
            peers: &peers,
            carried: &|_| Vec::new(),
        });
        let mut services = merged.services;
        services.sort_by_key(|(frontend, _)| *frontend);
        for (frontend, service) in services {
            text.push_str(&service_text(&frontend, &service));
        }
        for left_out in merged.left_out {
            writeln!(text, "left out: {left_out}").unwrap();
        }
    }
    text
}

fn service_text(frontend: &Frontend, service: &DesiredService) -> String {
    let Frontend { address, port, protocol } = frontend;
    let name = service.port_name.as_ref().map_or("", |name| name.as_str());
    let plain = if service.plain_ok { " plain_ok" } else { "" };
    let mut text = format!("{protocol} {address} {port} {} {name:?}{plain}\n", service.service);
    for group in &service.groups {
        write!(text, "  cluster {} tier {} weight {}:", group.cluster, group.tier, group.weight).unwrap();
        for backend in &group.backends {
            let state = if backend.state == BackendState::Active { "" } else { " terminating" };
            write!(text, " [{} {}{state}]", backend.address, backend.port).unwrap();
        }
        text.push('\n');
    }
    text
}

/// The same records on other ways.
fn other_ways(entries: &Entries) -> Vec<PeerView> {
    let mut backwards = PeerView::new(empire_pin());
    list(&mut backwards, entries.iter().rev());

    let mut twice = PeerView::new(empire_pin());
    list(&mut twice, entries.iter().chain(entries));
    list(&mut twice, entries);

    let mut in_parts = PeerView::new(empire_pin());
    list(&mut in_parts, entries.iter().step_by(2));
    in_parts.snapshot();
    for (key, value) in entries.iter().skip(1).step_by(2) {
        in_parts.put(key, value);
        in_parts.snapshot();
    }

    let mut one_by_one = PeerView::new(empire_pin());
    list(&mut one_by_one, &Entries::new());
    for (key, value) in entries.iter().rev() {
        one_by_one.put(key, value);
    }
    vec![backwards, twice, in_parts, one_by_one]
}

fn check(scenario: &Scenario) {
    let mut view = PeerView::new(empire_pin());
    list(&mut view, &scenario.empire);
    let peer = view.snapshot();
    let desired = desired_text(&scenario.rebels, &peer);
    for mut other in other_ways(&scenario.empire) {
        assert_eq!(desired_text(&scenario.rebels, &other.snapshot()), desired, "{}", scenario.name);
    }
    let text = records_text(&scenario.empire) + &view_text(&peer) + &desired;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/scenarios/{}.txt", scenario.name));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", path.display()));
    assert!(golden == text, "{} differs; it holds\n{golden}\nbut now it is\n{text}", path.display());
}

#[test]
fn both_clusters_answer() {
    check(&both_answer());
}

#[test]
fn terminating_pods_hand_over_to_the_other_cluster() {
    check(&graceful_end());
}

#[test]
fn ports_and_families_find_each_other() {
    check(&ports_and_families());
}

#[test]
fn a_hostile_peer_reaches_nothing_but_its_own() {
    check(&hostile_peer());
}
