use mesh_model::annotation::Affinity;
use serde_json::{Value, json};

use super::*;

fn object(spec: Value) -> Object {
    let annotations = json!({"clustermesh.io/global": "true"});
    serde_json::from_value(json!({"metadata": {"name": "s", "annotations": annotations}, "spec": spec}))
        .unwrap()
}

fn used(spec: Value) -> Service {
    match object(spec).convert() {
        Converted { verdict: Verdict::Use(service), notes } if notes.is_empty() => service,
        other => panic!("{other:?}"),
    }
}

/// The verdict on a spec that is refused, and the only note's reason.
fn refused(spec: Value) -> (Verdict<Service>, Reason) {
    let converted = object(spec).convert();
    assert_eq!(converted.notes.len(), 1, "{converted:?}");
    (converted.verdict, converted.notes[0].reason)
}

fn with_ports(ports: Value) -> Value {
    json!({"clusterIP": "10.96.0.1", "ports": ports})
}

#[test]
fn a_service_without_the_annotation_is_left_alone_whatever_it_holds() {
    let object: Object =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "None"}})).unwrap();
    assert_eq!(object.convert(), Converted::leave(vec![]));
}

#[test]
fn an_unknown_annotation_value_means_the_default_and_is_told() {
    let mut object = object(with_ports(json!([{"port": 80}])));
    object.metadata.annotations.insert("clustermesh.io/affinity".into(), "near".into());
    let converted = object.convert();
    assert_eq!(converted.notes[0].reason, Reason::Annotation);
    let Verdict::Use(service) = converted.verdict else { panic!("{converted:?}") };
    assert_eq!(service.scope.affinity, Affinity::None);
}

#[test]
fn addresses_and_ports_are_taken_over() {
    let service = used(json!({
        "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    }));
    assert_eq!(service.cluster_ips, ["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
    let ports: Vec<_> = service.ports.iter().map(|port| (port.protocol, port.port)).collect();
    assert_eq!(ports, [(Protocol::Tcp, 80), (Protocol::Udp, 53)]);
    assert_eq!(service.session_affinity_seconds, None);
}

#[test]
fn the_creation_time_is_rfc_3339() {
    let mut object = object(with_ports(json!([{"port": 80}])));
    object.metadata.creation_timestamp = serde_json::from_value(json!("2026-01-02T03:04:05Z")).unwrap();
    let Verdict::Use(service) = object.convert().verdict else { panic!() };
    assert_eq!(service.created_at.as_deref(), Some("2026-01-02T03:04:05Z"));
}

#[test]
fn headless_and_external_name_services_are_left_and_told() {
    assert_eq!(
        refused(json!({"clusterIP": "None", "ports": [{"port": 80}]})),
        (Verdict::Leave, Reason::Headless)
    );
    assert_eq!(refused(json!({"clusterIPs": ["None"]})), (Verdict::Leave, Reason::Headless));
    let external = json!({"type": "ExternalName", "externalName": "example.com"});
    assert_eq!(refused(external), (Verdict::Leave, Reason::ExternalName));
}

#[test]
fn a_service_without_a_cluster_ip_is_rejected() {
    for spec in [json!({"ports": [{"port": 80}]}), json!({"clusterIP": "", "ports": [{"port": 80}]})] {
        assert_eq!(refused(spec), (Verdict::Keep, Reason::NoClusterIp));
    }
}

#[test]
fn bad_cluster_ips_are_rejected() {
    let bad = [
        json!(["10.96.0.300"]),
        json!(["127.0.0.1"]),
        json!(["0.0.0.0"]),
        json!(["224.0.0.1"]),
        json!(["::1"]),
        json!(["169.254.169.254"]),
        json!(["fe80::1"]),
        json!(["255.255.255.255"]),
        json!(["ff02::1"]),
        json!(["::ffff:10.96.0.1"]),
        json!(["10.96.0.1", "10.96.0.2"]),
        json!(["x".repeat(10_000)]),
    ];
    for ips in bad {
        let spec = json!({"clusterIPs": ips, "ports": [{"port": 80}]});
        assert_eq!(refused(spec.clone()), (Verdict::Keep, Reason::Service), "{spec}");
        assert!(object(spec).convert().notes[0].message.len() < 400);
    }
}

#[test]
fn bad_ports_are_rejected() {
    let bad = [
        json!([]),
        json!([{"port": 0}]),
        json!([{"port": 65_536}]),
        json!([{"port": -1}]),
        json!([{"port": 80, "name": "Http"}]),
        json!([{"port": 80, "protocol": "tcp"}]),
        json!([{"port": 80}, {"port": 81}]),
        json!([{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]),
        json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]),
    ];
    for ports in bad {
        assert_eq!(refused(with_ports(ports.clone())), (Verdict::Keep, Reason::Service), "{ports}");
    }
}

#[test]
fn sctp_ports_are_ignored_and_told() {
    let ports = json!([{"port": 80, "name": "http"}, {"port": 81, "name": "s", "protocol": "SCTP"}]);
    let converted = object(with_ports(ports)).convert();
    let Verdict::Use(service) = converted.verdict else { panic!("{converted:?}") };
    assert_eq!(service.ports.len(), 1);
    assert_eq!(converted.notes[0].reason, Reason::Unsupported);
}

#[test]
fn a_service_with_nothing_but_sctp_is_left_and_told() {
    let ports =
        json!([{"port": 80, "name": "a", "protocol": "SCTP"}, {"port": 81, "name": "b", "protocol": "SCTP"}]);
    assert_eq!(refused(with_ports(ports)), (Verdict::Leave, Reason::Unsupported));
}

#[test]
fn session_affinity_has_kubernetes_default_and_is_told_not_to_be_honoured() {
    let seconds = |spec: Value| {
        let Converted { verdict, notes } = object(spec).convert();
        assert_eq!(notes.iter().map(|note| note.reason).collect::<Vec<_>>(), [Reason::SessionAffinity]);
        let Verdict::Use(service) = verdict else { panic!("{verdict:?}") };
        service.session_affinity_seconds
    };
    let spec = |more: Value| {
        let mut spec = with_ports(json!([{"port": 80}]));
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let client_ip = json!({"sessionAffinity": "ClientIP"});
    assert_eq!(seconds(spec(client_ip)), Some(10_800));
    let config =
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    assert_eq!(seconds(spec(config)), Some(60));
    assert_eq!(used(spec(json!({"sessionAffinity": "None"}))).session_affinity_seconds, None);
}
