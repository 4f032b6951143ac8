//! Whatever a cluster has, its peers take what its exporter writes; and the document of limits.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod support;

use std::sync::Arc;

use mesh_model::audience::Audience;
use mesh_model::export::{export, readdressed, withdrawn};
use mesh_model::name::NodeName;
use mesh_model::record::limits::{BeyondLimit, DOCUMENTED, beyond_limits};
use mesh_model::record::{MAX_PORTS, Record, parse};
use mesh_model::snapshot::{Condition, Endpoint, Protocol, Service, Slice};
use support::*;

/// A Service of so many ports, with names of about this length, and one slice of 1,000 endpoints.
fn wide(ports: u16, name: usize) -> Service {
    let named = |number: u16| format!("p{number:0width$x}", width = name - 1);
    let mut service = http_service("10.102.0.1", vec![]);
    service.ports = (1..=ports).map(|number| port(&named(number), Protocol::Tcp, number)).collect();
    let endpoints = (0..1000_u16)
        .map(|number| endpoint(&format!("10.2.{}.{}", number >> 8, number & 255), Condition::READY));
    let slice = Slice {
        ports: (1..=ports).map(|number| target(&named(number), Protocol::Tcp, number)).collect(),
        endpoints: endpoints.collect(),
    };
    service.slices.insert(slice_name("s-1"), Arc::new(slice));
    service
}

/// Everything as long as it may be.
fn full() -> Service {
    let mut service = wide(20_000, 5);
    let names: Vec<String> = (0..64).map(|number| format!("c{number:062}")).collect();
    service.scope.audience = Audience::parse(&names.join(",")).unwrap();
    let mut slice = (*service.slices[&slice_name("s-1")]).clone();
    for (number, endpoint) in slice.endpoints.iter_mut().enumerate() {
        let text = |letter: &str| Some(letter.repeat(253));
        let node = NodeName::new(&["n".repeat(63), "o".repeat(63), "d".repeat(63), "e".repeat(61)].join("."));
        let address = ip(&format!("fd02::1111:2222:3333:{number:x}"));
        let condition = Condition { ready: false, serving: true, terminating: true };
        let (node, zone, hostname) = (node.ok(), text("z"), text("h"));
        *endpoint = Endpoint { node, zone, hostname, ..Endpoint::new(address, condition) };
    }
    service.slices = [(slice_name(&"s".repeat(63)), Arc::new(slice))].into();
    service
}

#[test]
fn what_an_exporter_writes_its_peers_take_whole() {
    let mut long = wide(1, 5);
    long.created_at = Some("x".repeat(1000));
    let mut slice = (*long.slices[&slice_name("s-1")]).clone();
    slice.endpoints.iter_mut().for_each(|endpoint| {
        endpoint.zone = Some("z".repeat(1000));
        endpoint.hostname = Some("h".repeat(1000));
    });
    long.slices.insert(slice_name("s-1"), Arc::new(slice));
    let full = full();
    for service in
        [full, wide(405, 10), wide(20_000, 5), wide(20_001, 5), wide(65_535, 5), wide(20_000, 63), long]
    {
        let beyond = beyond_limits(&service);
        let entries = export(&empire(), &snapshot([(service_name("default/base"), service.clone())]), 1);
        let mut endpoints = 0;
        for (key, value) in &entries {
            match parse(key, value).unwrap().1 {
                Record::Slice(slice) => {
                    assert_eq!((slice.refused, slice.ports_left_out), (0, 0), "{key}");
                    assert_eq!(
                        slice.ports.len() < service.ports.len(),
                        !beyond.is_empty(),
                        "{key}: {beyond:?}"
                    );
                    endpoints += slice.endpoints.len();
                }
                Record::Service(record) => assert_eq!(record.ports_left_out, 0),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(endpoints, 1000);
    }
}

#[test]
fn the_owner_is_told_what_is_beyond_a_limit() {
    assert_eq!(beyond_limits(&wide(20_000, 5)), []);
    let mut service = wide(20_003, 5);
    let left_out = 20_003 - MAX_PORTS;
    let of = ["the Service", "slice s-1"].map(|of| BeyondLimit::Ports { of: of.into(), left_out });
    assert_eq!(beyond_limits(&service), of);
    assert!(of[0].to_string().contains("3 ports of the Service"), "{}", of[0]);
    service.scope.shared = false;
    assert_eq!(beyond_limits(&service), [], "nobody else gets to see it");
    let mut many = wide(1, 5);
    let slice = many.slices[&slice_name("s-1")].clone();
    // 101 slices of 1,000 are more than 100,000.
    many.slices = (0..101).map(|number| (slice_name(&format!("s-{number}")), slice.clone())).collect();
    assert_eq!(beyond_limits(&many), [BeyondLimit::Endpoints { count: 101_000 }]);
}

#[test]
fn a_record_that_can_not_be_written_withdraws_what_it_no_longer_lists() {
    let record_for = |addresses: &[&str], audience: &Audience| {
        let mut service = http_service("10.102.0.1", ready(addresses));
        service.scope.audience = audience.clone();
        let entries = export(&empire(), &snapshot([(service_name("default/base"), service)]), 1);
        entries.into_iter().find(|(key, _)| key.contains("/endpoints/")).unwrap()
    };
    let record = |addresses: &[&str]| record_for(addresses, &Audience::Everybody);
    let (key, stored) = record(&["10.2.0.1", "10.2.0.2"]);
    let (_, wanted) = record(&["10.2.0.2", "10.2.0.3"]);
    let (_, rest) = record(&["10.2.0.2"]);
    assert_eq!(withdrawn(&key, &stored, &wanted), Some((key.clone(), rest.clone())));
    assert_eq!(withdrawn(&key, &rest, &wanted), None, "nothing of it is gone");
    let rebels = Audience::parse("rebels").unwrap();
    let (_, wanted) = record_for(&["10.2.0.2", "10.2.0.3"], &rebels);
    let (_, rest_for_rebels) = record_for(&["10.2.0.2"], &rebels);
    assert_eq!(withdrawn(&key, &stored, &wanted), Some((key.clone(), rest_for_rebels.clone())));
    assert_eq!(withdrawn(&key, &rest, &wanted), Some((key.clone(), rest_for_rebels.clone())));
    let stands = [(key.clone(), rest)].into();
    let for_rebels = |audience| readdressed(&empire().name, &service_name("default/base"), &stands, audience);
    assert_eq!(for_rebels(&rebels), [(key, rest_for_rebels)]);
    assert_eq!(for_rebels(&Audience::Everybody), []);
}

#[test]
fn the_limits_are_documented_as_the_code_has_them() {
    let document = include_str!("../../../docs/records.md");
    let (_, section) = document.split_once("## Limits").unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let wanted =
        |(what, most, beyond): &(&str, usize, &str)| format!("| {what} | {} | {beyond} |", thousands(*most));
    assert_eq!(rows.collect::<Vec<_>>(), DOCUMENTED.iter().map(wanted).collect::<Vec<_>>());
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap());
    groups.collect::<Vec<_>>().join(",")
}
