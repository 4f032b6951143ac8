//! What a peer must not get away with: for each kind of bad record the message names the key, the reason and
//! the remedy, a counter goes up, and the last good state stays.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod support;

use mesh_model::reason::Reason as OutOfService;
use mesh_model::record::{MAX_PORTS, MAX_SERVICE_ENDPOINTS, MAX_SLICE_ENDPOINTS, Reason, RecordKey};
use mesh_model::snapshot::{Condition, Endpoint};
use mesh_model::view::{PeerSnapshot, PeerView, RECENT_REJECTIONS};
use support::*;

const SERVICE: &str = "clustermesh/v1/services/empire/default/base";
const SLICE: &str = "clustermesh/v1/endpoints/empire/default/base/s-1";
const CLUSTER: &str = "clustermesh/v1/clusters/empire";

/// A view that holds one good service with two endpoints.
fn good() -> PeerView {
    let service = http_service("10.102.0.1", ready(&["10.2.0.1", "10.2.0.2"]));
    let mut view = listed(&snapshot([(service_name("default/base"), service)]));
    view.snapshot();
    view
}

/// Writes a bad value and expects the old state, one more count and a message with these parts.
#[track_caller]
fn keeps_good(key: &str, value: &[u8], reason: Reason, parts: &[&str]) {
    let mut view = good();
    let before = view.snapshot();
    view.put(key, value);
    let after = view.snapshot();
    assert_eq!(after.services, before.services, "the last good state stays");
    assert_eq!(after.endpoints, 2);
    assert_eq!(after.rejected.get(&reason), Some(&1), "{:?}", after.recent_rejections);
    assert_eq!(after.rejected_total(), 1);
    let message = after.recent_rejections.last().expect("a message");
    for part in std::iter::once(&key).chain(parts) {
        assert!(message.contains(part), "{part:?} is missing in {message:?}");
    }
    // The same in a list, which also must not take the bad entry for a deletion.
    let mut entries = store(&empire(), &snapshot([]));
    entries.extend([
        (SERVICE.to_owned(), br#"{"ports":[{"name":"http","port":80}]}"#.to_vec()),
        (SLICE.to_owned(), br#"{"ports":[{"name":"http","port":8080}],"endpoints":[{"address":"10.2.0.1"},{"address":"10.2.0.2"}]}"#.to_vec()),
        (key.to_owned(), value.to_vec()),
    ]);
    let mut view = good();
    list(&mut view, &entries);
    let after = view.snapshot();
    assert_eq!(after.services, before.services, "a list keeps the last good state, too");
    assert_eq!(after.rejected.get(&reason), Some(&1));
}

#[test]
fn not_json() {
    for value in [&b"rebel"[..], b"", b"{", b"{\"ports\":[}", b"\xff\xfe", b"{} {}", b"\0"] {
        keeps_good(SLICE, value, Reason::NotJson, &["not JSON", "write it again"]);
    }
    keeps_good(SERVICE, b"<xml/>", Reason::NotJson, &["not JSON"]);
    keeps_good(CLUSTER, b"<xml/>", Reason::NotJson, &["not JSON"]);
}

#[test]
fn deep_json() {
    let deep = "[".repeat(500_000);
    keeps_good(SLICE, deep.as_bytes(), Reason::WrongType, &["wrong shape"]);
    let known = format!("{{\"endpoints\":{deep}");
    keeps_good(SLICE, known.as_bytes(), Reason::WrongType, &["wrong shape"]);
    let unknown = format!("{{\"future\":{deep}");
    keeps_good(SLICE, unknown.as_bytes(), Reason::NotJson, &["not JSON"]);
    let objects = "{\"ports\":".repeat(100_000);
    keeps_good(SERVICE, objects.as_bytes(), Reason::WrongType, &["wrong shape"]);
}

#[test]
fn wrong_types() {
    for value in [
        "42",
        "null",
        "\"text\"",
        "[]",
        r#"{"ports":{}}"#,
        r#"{"ports":[7]}"#,
        r#"{"ports":[{"port":"80"}]}"#,
        r#"{"ports":[{"port":65536}]}"#,
        r#"{"ports":[{"port":-1}]}"#,
        r#"{"ports":[{"port":1.5}]}"#,
        r#"{"endpoints":[3]}"#,
        r#"{"endpoints":[{"address":1}]}"#,
        r#"{"endpoints":[{"address":"10.2.0.1","ready":"yes"}]}"#,
        r#"{"ports":null}"#,
        r#"{"ports":[],"ports":[]}"#,
    ] {
        keeps_good(SLICE, value.as_bytes(), Reason::WrongType, &["wrong shape", "compatible exporter"]);
    }
    // Serde takes an array for a struct whose fields come in order, and all of ours have defaults.
    keeps_good(SERVICE, b" \n[]", Reason::WrongType, &["object"]);
    keeps_good(SERVICE, br#"{"shared":1}"#, Reason::WrongType, &["wrong shape"]);
    keeps_good(SERVICE, br#"{"affinity":"sideways"}"#, Reason::WrongType, &["sideways"]);
    keeps_good(CLUSTER, br#"{"id":"2"}"#, Reason::WrongType, &["wrong shape"]);
    keeps_good(CLUSTER, br#"{"id":2,"incarnation":"a","ranges":{"pods":["x"]}}"#, Reason::WrongType, &[]);
}

#[test]
fn a_message_never_quotes_a_huge_or_dirty_value() {
    let value = format!("\"{}\\n\\u0000\"", "x".repeat(100_000));
    let mut view = good();
    view.put(SLICE, value.as_bytes());
    view.put(&format!("{SLICE}\n\x1b[2J{}", "y".repeat(100_000)), b"{}");
    for message in &view.snapshot().recent_rejections {
        assert!(message.len() < 1000, "{} bytes", message.len());
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }
    assert_eq!(view.snapshot().rejected_total(), 2);
}

#[test]
fn unknown_fields_are_ignored() {
    let mut view = good();
    let before = view.snapshot();
    view.put(
        SLICE,
        br#"{"ports":[{"name":"http","port":8080,"app":"h2c"}],"future":{"a":[1,{"b":null}]},
            "endpoints":[{"address":"10.2.0.1","weight":3},{"address":"10.2.0.2"}]}"#,
    );
    view.put(SERVICE, br#"{"ports":[{"name":"http","port":80}],"future":[]}"#);
    view.put(CLUSTER, br#"{"schema":1,"id":2,"incarnation":"0f3a","future":1,
                          "ranges":{"pods":["10.2.0.0/16","fd02::/64"],"nodes":["192.168.2.0/24"],"pigeons":[]}}"#);
    let after = view.snapshot();
    assert_eq!(after.services, before.services);
    assert_eq!(after.cluster, before.cluster);
    assert_eq!(after.rejected_total(), 0, "{:?}", after.recent_rejections);
}

#[test]
fn missing_fields_are_defaulted_then_validated() {
    keeps_good(CLUSTER, b"{}", Reason::InvalidField, &["id is invalid", "1–4095"]);
    keeps_good(CLUSTER, br#"{"id":2}"#, Reason::InvalidField, &["incarnation is invalid"]);
    keeps_good(CLUSTER, br#"{"id":4096,"incarnation":"a"}"#, Reason::InvalidField, &["id is invalid"]);
    let mut view = good();
    view.put(SLICE, b"{}");
    assert_eq!(view.snapshot().endpoints, 0, "a slice that says nothing has no endpoints");
    assert_eq!(view.snapshot().rejected_total(), 0);
}

#[test]
fn key_and_content_disagree() {
    let remedy = "only the peer can correct it";
    keeps_good(SERVICE, br#"{"service":"default/other"}"#, Reason::Disagrees, &["default/other", remedy]);
    keeps_good(SERVICE, br#"{"cluster":"rebels"}"#, Reason::Disagrees, &["rebels", remedy]);
    keeps_good(SLICE, br#"{"service":"other/base"}"#, Reason::Disagrees, &["other/base", remedy]);
    keeps_good(SLICE, br#"{"slice":"s-2"}"#, Reason::Disagrees, &["s-2", remedy]);
    let node = "clustermesh/v1/nodes/empire/n1";
    keeps_good(node, br#"{"node":"n2"}"#, Reason::Disagrees, &["n2", remedy]);
}

#[test]
fn keys_that_are_no_keys() {
    for key in
        ["clustermesh/v1/services/empire/base", "clustermesh/v1/secrets/empire/x", "clustermesh/v2/x", ""]
    {
        keeps_good(key, b"{}", Reason::BadKey, &[]);
    }
}

#[test]
fn another_clusters_name() {
    for key in [
        "clustermesh/v1/services/rebels/default/base",
        "clustermesh/v1/endpoints/rebels/default/base/s-1",
        "clustermesh/v1/clusters/rebels",
        "clustermesh/v1/synced/rebels/services",
    ] {
        keeps_good(
            key,
            b"{}",
            Reason::ForeignCluster,
            &["rebels", "empire", "below its own name", "peer's file"],
        );
    }
    let mut view = good();
    let before = view.snapshot();
    view.delete("clustermesh/v1/services/rebels/default/base");
    view.delete("nonsense");
    assert_eq!(view.snapshot(), before);
}

#[test]
fn an_endpoint_that_serves_another_cluster_is_refused() {
    let mut rebels = empire();
    rebels.name = cluster("rebels");
    let mut view = good();
    let before = view.snapshot();
    list(&mut view, &store(&rebels, &snapshot([])));
    let after = view.snapshot();
    assert_eq!(after.services, before.services);
    let refused = after.refused.as_ref().expect("refused").to_string();
    assert!(refused.contains("rebels") && refused.contains("check the endpoints"), "{refused}");
}

/// A cluster record that refuses the peer: nothing is used until a good one comes.
#[track_caller]
fn refuses_peer(record: &str, reason: Reason, parts: &[&str]) {
    let mut view = good();
    let before = view.snapshot();
    view.put(CLUSTER, record.as_bytes());
    view.delete(SERVICE);
    view.put(SLICE, b"{}");
    let refused = view.snapshot();
    assert_eq!(refused.services, before.services, "what was published stays");
    assert_eq!(refused.cluster, before.cluster);
    let rejection = refused.refused.as_ref().expect("the peer is refused");
    assert_eq!(rejection.reason(), reason);
    for part in parts.iter().chain(&[CLUSTER]) {
        assert!(rejection.to_string().contains(part), "{part:?} is missing in {rejection}");
    }
    assert_eq!(refused.rejected.get(&reason), Some(&1));
    let (key, value) = cluster_record(&empire()).entry(&cluster("empire"));
    view.put(&key, &value);
    let healed = view.snapshot();
    assert_eq!(healed.refused, None);
    assert!(healed.services.is_empty(), "what came meanwhile counts once the peer is believed again");
}

#[test]
fn wrong_id() {
    let record = r#"{"id":7,"incarnation":"a"}"#;
    refuses_peer(record, Reason::WrongId, &["its id is 7", "says 2", "correct `id`"]);
}

#[test]
fn id_or_name_clash() {
    // The record that stands under the peer's name is another cluster's.
    let record = r#"{"cluster":"rebels","id":2,"incarnation":"a"}"#;
    refuses_peer(record, Reason::Disagrees, &["rebels", "empire"]);
    let record = r#"{"cluster":"rebels","id":1,"incarnation":"a"}"#;
    refuses_peer(record, Reason::Disagrees, &["rebels"]);
}

#[test]
fn a_later_schema_refuses_the_peer() {
    let record = r#"{"schema":2,"id":{"new":"shape"}}"#;
    refuses_peer(record, Reason::Schema, &["schema 2", "upgrade"]);
}

#[test]
fn a_refused_peer_is_never_synced() {
    let mut view = PeerView::new(empire_pin());
    let mut entries =
        store(&empire(), &snapshot([(service_name("a/b"), http_service("10.102.0.1", vec![]))]));
    entries.insert(CLUSTER.into(), br#"{"id":3,"incarnation":"a"}"#.to_vec());
    list(&mut view, &entries);
    let seen = view.snapshot();
    assert!(!seen.synced && seen.services.is_empty() && seen.refused.is_some());
}

/// One bad endpoint among good ones is refused alone.
#[track_caller]
fn refuses_endpoint(address: &str, parts: &[&str]) {
    let mut view = good();
    let value = format!(
        r#"{{"ports":[{{"name":"http","port":8080}}],"endpoints":[{{"address":"10.2.0.1"}},{{"address":"{address}"}},{{"address":"10.2.0.2"}}]}}"#
    );
    view.put(SLICE, value.as_bytes());
    let after = view.snapshot();
    assert_eq!(after.services, good().snapshot().services, "{address}");
    assert_eq!(after.rejected.get(&Reason::AddressRefused), Some(&1), "{address}");
    let message = after.recent_rejections.last().expect("a message");
    for part in parts.iter().chain(&[SLICE]) {
        assert!(message.contains(part), "{part:?} is missing in {message:?}");
    }
}

#[test]
fn address_outside_the_policy() {
    refuses_endpoint("169.254.169.254", &["169.254.169.254", "link-local", "no backend may have"]);
    refuses_endpoint("127.0.0.1", &["loopback"]);
    refuses_endpoint("::1", &["loopback"]);
    refuses_endpoint("0.0.0.0", &["unspecified"]);
    refuses_endpoint("224.0.0.1", &["multicast"]);
    refuses_endpoint("fe80::1", &["link-local"]);
    refuses_endpoint("255.255.255.255", &["broadcast"]);
    refuses_endpoint("::ffff:10.2.0.3", &["v4-mapped"]);
    refuses_endpoint("10.1.0.1", &["10.1.0.0/16", "this cluster's own pod range"]);
    refuses_endpoint("fd01::1", &["own pod range"]);
    refuses_endpoint("10.101.0.1", &["own service range"]);
    refuses_endpoint("192.168.1.1", &["own node range"]);
    refuses_endpoint("10.3.0.1", &["outside the ranges agreed", "`ranges`"]);
}

#[test]
fn an_address_that_is_none_refuses_that_endpoint_alone() {
    for bad in ["", "pod-1", "10.2.0.300", "10.2.0.1/32", "fe80::1%eth0", " 10.2.0.3", "10.2.0.3:80"] {
        let mut view = good();
        let value = format!(
            r#"{{"ports":[{{"name":"http","port":8080}}],"endpoints":[{{"address":"10.2.0.1"}},{{"address":"10.2.0.2"}},{{"address":"{bad}"}},{{"address":"{bad}"}},{{}}]}}"#
        );
        view.put(SLICE, value.as_bytes());
        let after = view.snapshot();
        assert_eq!(after.services, good().snapshot().services);
        assert_eq!(after.rejected.get(&Reason::BadEndpoint), Some(&3));
        assert!(after.recent_rejections[0].contains("and 2 more"), "{:?}", after.recent_rejections);
    }
}

#[test]
fn a_cluster_record_that_narrows_takes_endpoints_out_and_one_that_widens_adds_none() {
    let mut view = good();
    view.put(CLUSTER, br#"{"id":2,"incarnation":"0f3a","ranges":{"pods":["10.2.0.2/32","10.3.0.0/16"]}}"#);
    let narrowed = view.snapshot();
    assert_eq!(narrowed.endpoints, 1);
    assert_eq!(narrowed.rejected.get(&Reason::AddressRefused), Some(&1));
    view.put(SLICE, br#"{"ports":[{"name":"http","port":8080}],"endpoints":[{"address":"10.2.0.2"},{"address":"10.3.0.1"}]}"#);
    assert_eq!(view.snapshot().endpoints, 1, "what the record adds was not agreed");
    let (key, value) = cluster_record(&empire()).entry(&cluster("empire"));
    view.put(&key, &value);
    assert_eq!(view.snapshot().endpoints, 1);
}

#[test]
fn port_0() {
    keeps_good(
        SLICE,
        br#"{"ports":[{"name":"http","port":0}]}"#,
        Reason::PortZero,
        &["\"http\"", "use 1–65535"],
    );
    keeps_good(SERVICE, br#"{"ports":[{"name":"http"}]}"#, Reason::PortZero, &["\"http\""]);
}

#[test]
fn a_bad_port_name_or_too_many_ports() {
    keeps_good(
        SERVICE,
        br#"{"ports":[{"name":"H T","port":1}]}"#,
        Reason::InvalidField,
        &["ports is invalid"],
    );
}

/// A slice of these endpoints with more ports than count.
fn with_many_ports(endpoints: &str) -> String {
    let more = vec![r#"{"port":1}"#; MAX_PORTS + 4].join(",");
    format!(r#"{{"ports":[{{"name":"http","port":8080}},{more}],"endpoints":[{endpoints}]}}"#)
}

#[test]
fn of_too_many_ports_the_first_count_and_the_endpoints_follow() {
    let mut view = good();
    view.put(SLICE, with_many_ports(r#"{"address":"10.2.0.2"}"#).as_bytes());
    let seen = view.snapshot();
    assert_eq!((seen.endpoints, seen.rejected.get(&Reason::TooManyPorts)), (1, Some(&5)));
    let faults = seen.faults.of(&service_name("default/base"));
    assert_eq!(faults.iter().map(|fault| fault.reason).collect::<Vec<_>>(), [OutOfService::TooManyPorts]);
    view.put(SLICE, with_many_ports("").as_bytes());
    assert_eq!(view.snapshot().endpoints, 0, "what is gone is gone");
    view.put(SERVICE, with_many_ports("").replace(r#""endpoints":[]"#, r#""shared":true"#).as_bytes());
    assert!(view.snapshot().services.contains_key(&service_name("default/base")));
}

/// One slice that is refused and lists 10.2.0.2 only, as terminating.
#[track_caller]
fn withdraws(value: &str, reason: Reason) {
    let only = ["10.2.0.2 Terminating"];
    let mut view = good();
    view.put(SLICE, value.as_bytes());
    let seen = view.snapshot();
    assert_eq!(seen.rejected.get(&reason), Some(&1), "{:?}", seen.recent_rejections);
    let endpoints = |seen: &PeerSnapshot| {
        let slices = seen.services[&service_name("default/base")].slices().to_vec();
        slices
            .iter()
            .flat_map(|slice| slice.endpoints().map(|it| format!("{it:?}")).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    assert_eq!(endpoints(&seen), only);
    // The same in a list.
    let mut entries = store(&empire(), &snapshot([]));
    entries.insert(SERVICE.to_owned(), br#"{"ports":[{"name":"http","port":80}]}"#.to_vec());
    entries.insert(SLICE.to_owned(), value.as_bytes().to_vec());
    let mut view = good();
    list(&mut view, &entries);
    assert_eq!(endpoints(&view.snapshot()), only);
}

#[test]
fn a_refused_slice_keeps_no_endpoint_that_it_no_longer_lists() {
    let endpoints = r#""endpoints":[{"address":"10.2.0.2","ready":false,"serving":true,"terminating":true},{"address":"10.2.0.3"}]"#;
    withdraws(&format!(r#"{{"ports":[{{"name":"http"}}],{endpoints}}}"#), Reason::PortZero);
    withdraws(&format!(r#"{{"ports":[{{"name":"H T","port":1}}],{endpoints}}}"#), Reason::InvalidField);
    withdraws(&format!(r#"{{"ports":7,{endpoints}}}"#), Reason::WrongType);
    let padding = "x".repeat(1 << 20);
    withdraws(&format!(r#"{{"future":"{padding}",{endpoints}}}"#), Reason::TooLarge);
}

#[test]
fn a_port_of_an_unknown_protocol_is_ignored_like_an_unknown_field() {
    let mut view = good();
    view.put(
        SLICE,
        br#"{"ports":[{"name":"x","protocol":"SCTP","port":1},{"name":"http","port":8080}],
            "endpoints":[{"address":"10.2.0.1"},{"address":"10.2.0.2"}]}"#,
    );
    assert_eq!(view.snapshot().services, good().snapshot().services);
}

#[test]
fn a_value_of_2_mb() {
    // It does not say which endpoints there are.
    let mut value = br#"{"ports":[]}"#.to_vec();
    value.resize(2_000_000, b' ');
    keeps_good(SLICE, &value, Reason::TooLarge, &["2000000 bytes", "1048576", "smaller slices"]);
    keeps_good(CLUSTER, &value, Reason::TooLarge, &[]);
}

fn many_endpoints(count: usize) -> Vec<Endpoint> {
    let address = |n: usize| format!("10.2.{}.{}", n / 256 % 256, n % 256);
    // 65,536 addresses in the agreed IPv4 range; the rest in the IPv6 one.
    let text = |n: usize| if n < 65_536 { address(n) } else { format!("fd02::1:{:x}", n - 65_536) };
    (0..count).map(|n| Endpoint { node: None, zone: None, ..endpoint(&text(n), Condition::READY) }).collect()
}

#[test]
fn a_hundred_thousand_endpoints_in_one_value_are_too_large() {
    let list: Vec<String> =
        many_endpoints(100_000).iter().map(|e| format!(r#"{{"address":"{}"}}"#, e.address)).collect();
    let value = format!(r#"{{"endpoints":[{}]}}"#, list.join(","));
    keeps_good(SLICE, value.as_bytes(), Reason::TooLarge, &[]);
}

#[test]
fn a_hundred_thousand_endpoints_in_slices_are_used_and_more_are_left_out() {
    let name = service_name("default/base");
    let exactly = http_service("10.102.0.1", many_endpoints(MAX_SERVICE_ENDPOINTS));
    let seen = listed(&snapshot([(name.clone(), exactly)])).snapshot();
    assert_eq!((seen.endpoints, seen.rejected_total()), (MAX_SERVICE_ENDPOINTS, 0));

    let more = http_service("10.102.0.1", many_endpoints(MAX_SERVICE_ENDPOINTS + 150));
    let seen = listed(&snapshot([(name, more)])).snapshot();
    assert_eq!(seen.rejected.get(&Reason::TooManyEndpoints), Some(&2));
    assert!(
        seen.endpoints <= MAX_SERVICE_ENDPOINTS
            && seen.endpoints >= MAX_SERVICE_ENDPOINTS - MAX_SLICE_ENDPOINTS
    );
    let key = RecordKey::Service(cluster("empire"), service_name("default/base")).to_string();
    let message = &seen.recent_rejections[0];
    assert!(message.contains(&key) && message.contains("split the service"), "{message}");
}

#[test]
fn messages_are_bounded_in_number_and_each_fault_shows_once() {
    let mut view = good();
    for n in 0..100 {
        view.put(&format!("clustermesh/v1/services/empire/default/s{n}"), b"x");
        view.put(SLICE, b"x");
    }
    let seen = view.snapshot();
    assert_eq!(seen.recent_rejections.len(), RECENT_REJECTIONS);
    assert_eq!(seen.recent_rejections.iter().filter(|text| text.contains(SLICE)).count(), 1);
    assert_eq!(seen.rejected_total(), 200);
}
