use mesh_model::snapshot::Protocol;
use serde_json::{Value, json};

use super::*;

fn convert(more: Value) -> Converted<OwnedSlice> {
    let mut object = json!({
        "metadata": {"name": "s-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "endpoints": [], "ports": [],
    });
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value::<EndpointSlice>(object).unwrap().convert()
}

fn used(more: Value) -> (OwnedSlice, Vec<Note>) {
    match convert(more) {
        Converted { verdict: Verdict::Use(slice), notes } => (slice, notes),
        other => panic!("{other:?}"),
    }
}

fn conditions(conditions: Value) -> Condition {
    let (slice, notes) = used(json!({"endpoints": [{"addresses": ["10.1.0.1"], "conditions": conditions}]}));
    assert_eq!(notes, []);
    slice.slice.endpoints[0].condition
}

#[test]
fn a_slice_belongs_to_the_service_of_its_label_and_namespace() {
    let (slice, _) = used(json!({}));
    assert_eq!(slice.service.as_str(), "ns/s");
}

#[test]
fn a_slice_without_the_label_is_no_services_whatever_it_holds() {
    for labels in [json!(null), json!({}), json!({"multicluster.kubernetes.io/service-name": "s"})] {
        let metadata = json!({"name": "s-1", "labels": labels});
        let converted = convert(json!({"metadata": metadata, "addressType": "FQDN"}));
        assert_eq!(converted, Converted::leave(vec![]));
    }
}

#[test]
fn conditions_have_kubernetes_defaults() {
    let condition = |ready, serving, terminating| Condition { ready, serving, terminating };
    assert_eq!(conditions(json!(null)), condition(true, true, false));
    assert_eq!(conditions(json!({})), condition(true, true, false));
    assert_eq!(conditions(json!({"ready": false})), condition(false, false, false));
    let draining = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(conditions(draining), condition(false, true, true));
}

#[test]
fn the_first_address_counts() {
    let (slice, _) =
        used(json!({"endpoints": [{"addresses": ["10.1.0.1", "10.1.0.2"], "nodeName": "n1", "zone": "z"}]}));
    let endpoint = &slice.slice.endpoints[0];
    assert_eq!(endpoint.address, "10.1.0.1".parse().unwrap());
    assert_eq!(endpoint.node, Some(NodeName::new("n1").unwrap()));
    assert_eq!(endpoint.zone.as_deref(), Some("z"));
}

#[test]
fn bad_endpoints_are_left_out_one_by_one_and_told_once() {
    let bad = [
        json!({"addresses": []}),
        json!({"addresses": ["pod-1"]}),
        json!({"addresses": ["fd00::1"]}),
        json!({"addresses": ["127.0.0.1"]}),
        json!({"addresses": ["169.254.169.254"]}),
        json!({"addresses": ["10.1.0.9"], "nodeName": "N 1"}),
        json!({"addresses": ["10.1.0.9"], "zone": "z".repeat(64)}),
    ];
    let mut endpoints = bad.to_vec();
    endpoints.push(json!({"addresses": ["10.1.0.1"]}));
    let (slice, notes) = used(json!({"endpoints": endpoints}));
    assert_eq!(slice.slice.endpoints.len(), 1);
    assert_eq!(notes.len(), 1);
    assert!(notes[0].message.starts_with("7 endpoints ignored, the first: it has no address"), "{notes:?}");
}

#[test]
fn ports_without_a_number_are_ignored_and_told() {
    let ports = json!([
        {"name": "a"}, {"name": "b", "port": 0}, {"name": "c", "port": 70_000}, {"name": "C", "port": 80},
        {"name": "d", "port": 80}, {"name": "d", "port": 81}, {"name": "e", "port": 53, "protocol": "UDP"},
    ]);
    let (slice, notes) = used(json!({"ports": ports}));
    let ports: Vec<_> = slice.slice.ports.iter().map(|port| (port.protocol, port.port)).collect();
    assert_eq!(ports, [(Protocol::Tcp, 80), (Protocol::Udp, 53)]);
    assert!(notes[0].message.starts_with("5 ports ignored"), "{notes:?}");
}

#[test]
fn sctp_and_fqdn_are_ignored_and_told() {
    let (slice, notes) = used(json!({"ports": [{"port": 80, "protocol": "SCTP"}]}));
    assert_eq!((slice.slice.ports.len(), notes[0].reason), (0, Reason::Unsupported));
    let converted = convert(json!({"addressType": "FQDN"}));
    assert_eq!((converted.verdict, converted.notes[0].reason), (Verdict::Leave, Reason::Unsupported));
    let converted = convert(json!({"addressType": "ipv4"}));
    assert_eq!((converted.verdict, converted.notes[0].reason), (Verdict::Keep, Reason::Slice));
}

#[test]
fn more_endpoints_than_kubernetes_allows_are_rejected() {
    let endpoints = vec![json!({"addresses": ["10.1.0.1"]}); 1001];
    let converted = convert(json!({"endpoints": endpoints}));
    assert_eq!((converted.verdict, converted.notes[0].reason), (Verdict::Keep, Reason::Slice));
}
