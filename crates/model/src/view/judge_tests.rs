//! What a change of ranges makes a view look at again.

use ipnet::IpNet;

use super::*;
use crate::address_policy::tests::CHECKS;
use crate::address_policy::{OwnRanges, PeerRanges, Ranges};

fn text(value: &str) -> IpNet {
    value.parse().expect("a range")
}

/// This cluster with so many Nodes, each with pods and an address of its own.
fn own(nodes: u32) -> OwnRanges {
    let pods = |n: u32| format!("10.{}.{}.0/24", n >> 7, (n << 1) & 0xff);
    let node = |n: u32| format!("172.16.{}.{}/32", n >> 7, (n << 1) & 0xff);
    OwnRanges {
        pods: (0..nodes).map(|n| text(&pods(n))).collect(),
        services: vec![text("192.168.0.0/16")],
        nodes: (0..nodes).map(|n| text(&node(n))).collect(),
    }
}

#[test]
fn a_change_of_one_node_checks_only_what_it_can_touch() {
    let agreed = PeerRanges::Agreed(Ranges { pods: vec![text("10.0.0.0/8")], nodes: Vec::new() });
    let pin = PeerPin {
        name: ClusterName::new("yavin").expect("a name"),
        id: ClusterId::new(2).expect("an id"),
        policy: AddressPolicy::new(agreed, own(5000)),
    };
    let mut view = PeerView::new(pin);
    fill(&mut view);
    let before = view.snapshot();
    assert_eq!(before.endpoints, 100_000);
    CHECKS.set(0);
    view.set_own_ranges(own(5001));
    let snapshot = view.snapshot();
    assert_eq!((CHECKS.get(), snapshot.endpoints), (0, 100_000), "no endpoint lies in the new node's ranges");

    let mut overlapping = own(5001);
    overlapping.pods.push(text("10.100.7.0/25"));
    view.set_own_ranges(overlapping);
    let snapshot = view.snapshot();
    assert_eq!(snapshot.endpoints, 100_000 - 100);
    assert!(CHECKS.get() <= 400, "one slice of 1,000: {}", CHECKS.get());
    view.set_own_ranges(own(5001));
    assert_eq!(view.snapshot().endpoints, 100_000, "and back");
}

/// A peer with one service of 1,000 slices of 100 endpoints.
fn fill(view: &mut PeerView) {
    view.begin_list();
    view.list_entry("clustermesh/v1/clusters/yavin", br#"{"id":2,"incarnation":"one"}"#);
    for slice in 0..1000 {
        let (third, fourth) = (100 + (slice >> 8), slice & 0xff);
        let all: Vec<String> =
            (1..=100).map(|host| format!(r#"{{"address":"10.{third}.{fourth}.{host}"}}"#)).collect();
        let ports = r#""ports":[{"name":"http","protocol":"TCP","port":8080}]"#;
        let value = format!(r#"{{{ports},"endpoints":[{}]}}"#, all.join(","));
        view.list_entry(&format!("clustermesh/v1/endpoints/yavin/ns/big/big-{slice:04}"), value.as_bytes());
    }
    let value =
        br#"{"ports":[{"name":"http","protocol":"TCP","port":80}],"created_at":"2026-01-01T00:00:00Z"}"#;
    view.list_entry("clustermesh/v1/services/yavin/ns/big", value);
    for kind in ["services", "endpoints", "nodes"] {
        view.list_entry(&format!("clustermesh/v1/synced/yavin/{kind}"), br#"{"revision":1}"#);
    }
    view.end_list();
}
