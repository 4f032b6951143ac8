//! A peer keeps to its quota, and costs nothing for what nobody here asks for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use mesh_model::address_policy::{AddressPolicy, OwnRanges, PeerRanges, Ranges};
use mesh_model::annotation::Scope;
use mesh_model::name::{ClusterId, ClusterName, ServiceName};
use mesh_model::snapshot::{Protocol, Service, ServicePort};
use mesh_model::view::{Excess, Interest, PeerPin, PeerSnapshot, PeerView, Quota};
use proptest::prelude::*;

const PREFIX: &str = "clustermesh/v1/";

fn pin() -> PeerPin {
    let pods = vec!["10.0.0.0/8".parse().unwrap()];
    let policy =
        AddressPolicy::new(PeerRanges::Agreed(Ranges { pods, nodes: Vec::new() }), OwnRanges::default());
    PeerPin { name: ClusterName::new("peer").unwrap(), id: ClusterId::new(2).unwrap(), policy }
}

fn name(service: u8) -> ServiceName {
    format!("ns/s-{service:03}").parse().unwrap()
}

/// What the own cluster has: each service with so many ports.
fn asked(services: impl IntoIterator<Item = u8>, ports: u16) -> Interest {
    let port = |number| ServicePort {
        name: Some(format!("p{number}").parse().unwrap()),
        protocol: Protocol::Tcp,
        port: number,
    };
    let service = Arc::new(Service {
        scope: Scope::GLOBAL,
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        ports: (1..=ports).map(port).collect(),
        session_affinity_seconds: None,
        node_local: false,
        created_at: None,
        slices: BTreeMap::new(),
    });
    Interest::Services(services.into_iter().map(|n| (name(n), service.clone())).collect::<OrdMap<_, _>>())
}

type Entries = BTreeMap<String, String>;

fn head() -> Entries {
    let mut entries = Entries::new();
    entries.insert(format!("{PREFIX}clusters/peer"), r#"{"id":2,"incarnation":"one"}"#.into());
    for kind in ["services", "endpoints", "nodes"] {
        entries.insert(format!("{PREFIX}synced/peer/{kind}"), r#"{"revision":1}"#.into());
    }
    entries
}

fn slice_key(service: u8, slice: u8) -> String {
    format!("{PREFIX}endpoints/peer/{}/slice-{slice:03}", name(service))
}

fn slice(service: u8, slice: u8, endpoints: u8) -> (String, String) {
    let all: Vec<String> =
        (0..endpoints).map(|host| format!(r#"{{"address":"10.{service}.{slice}.{host}"}}"#)).collect();
    let ports: Vec<String> =
        (1..=3).map(|n| format!(r#"{{"name":"p{n}","protocol":"TCP","port":{}}}"#, 8000 + n)).collect();
    let value = format!(r#"{{"ports":[{}],"endpoints":[{}]}}"#, ports.join(","), all.join(","));
    (slice_key(service, slice), value)
}

/// A service with so many slices of so many endpoints.
fn service(entries: &mut Entries, number: u8, slices: u8, endpoints: u8) {
    let ports: Vec<String> =
        (1..=3).map(|n| format!(r#"{{"name":"p{n}","protocol":"TCP","port":{n}}}"#)).collect();
    let value = format!(r#"{{"ports":[{}]}}"#, ports.join(","));
    entries.insert(format!("{PREFIX}services/peer/{}", name(number)), value);
    entries.extend((0..slices).map(|n| slice(number, n, endpoints)));
}

fn list<'a>(view: &mut PeerView, entries: impl IntoIterator<Item = (&'a String, &'a String)>) {
    view.begin_list();
    entries.into_iter().for_each(|(key, value)| view.list_entry(key, value.as_bytes()));
    view.end_list();
}

fn listed(entries: &Entries, interest: Interest, quota: Quota) -> PeerSnapshot {
    let mut view = PeerView::bounded(pin(), interest, quota);
    list(&mut view, entries);
    (*view.snapshot()).clone()
}

/// Service, and how many of its endpoints are used.
fn sizes(snapshot: &PeerSnapshot) -> Vec<(String, usize)> {
    let services = snapshot.services.iter();
    services.map(|(name, service)| (name.name().to_owned(), service.endpoint_count())).collect()
}

#[test]
fn what_nobody_asks_for_is_not_kept_and_read_when_somebody_does() {
    let mut entries = head();
    (0..50).for_each(|number| service(&mut entries, number, 2, 10));
    let mut view = PeerView::bounded(pin(), asked([3], 1), Quota::NONE);
    list(&mut view, &entries);
    let snapshot = view.snapshot();
    assert!(snapshot.synced);
    assert_eq!(sizes(&snapshot), [("s-003".into(), 20)]);
    assert!(snapshot.bytes < 2000, "{}", snapshot.bytes);
    assert!(view.unread().is_empty());

    // Changes of others cost nothing either, readable or not.
    view.put(&slice_key(4, 0), b"no JSON");
    assert_eq!((view.snapshot().rejected_total(), view.snapshot().bytes), (0, snapshot.bytes));

    // Nothing is said of a service before it was read.
    assert!(view.set_interest(asked([3, 7], 1)));
    assert_eq!(view.unread(), &BTreeSet::from([name(7)]));
    let before = view.snapshot();
    assert!(!before.tracked.as_ref().unwrap().contains(&name(7)));
    let read = entries.iter().filter(|(key, _)| key.contains("s-007"));
    view.read(&BTreeSet::from([name(7)]), read.map(|(key, value)| (key.as_str(), value.as_bytes())));
    let after = view.snapshot();
    assert_eq!(sizes(&after), [("s-003".into(), 20), ("s-007".into(), 20)]);
    assert!(after.tracked.as_ref().unwrap().contains(&name(7)) && view.unread().is_empty());
    let (key, value) = slice(7, 0, 9);
    view.put(&key, value.as_bytes());
    assert_eq!(sizes(&view.snapshot())[1].1, 19, "and is followed");

    // A Service that goes and comes back need not be read again.
    view.set_interest(asked([3], 1));
    view.set_interest(asked([3, 7], 1));
    assert!(view.unread().is_empty());
    assert_eq!(sizes(&view.snapshot())[1].1, 19);
}

#[test]
fn a_peer_is_not_synced_before_it_is_known_what_is_asked() {
    let mut entries = head();
    service(&mut entries, 1, 1, 5);
    let mut view = PeerView::bounded(pin(), Interest::Unknown, Quota::NONE);
    list(&mut view, &entries);
    assert!(!view.snapshot().synced);
    view.set_interest(asked([1], 1));
    assert!(!view.snapshot().synced, "nothing of the service has been read");
    let read = entries.iter().filter(|(key, _)| key.contains("s-001"));
    view.read(&BTreeSet::from([name(1)]), read.map(|(key, value)| (key.as_str(), value.as_bytes())));
    assert_eq!((view.snapshot().synced, sizes(&view.snapshot())), (true, vec![("s-001".into(), 5)]));
}

#[test]
fn a_share_is_filled_in_the_order_of_names() {
    let mut entries = head();
    (1..=4).for_each(|number| service(&mut entries, number, 3, 10));
    let everything = asked(1..=4, 3);
    // 30 endpoints with 3 ports each are 90 backends, and 3 times 32 slots.
    let whole = listed(&entries, everything.clone(), Quota { backends: 360, slots: 384, ..Quota::NONE });
    assert_eq!((whole.endpoints, whole.cuts.len()), (120, 0));
    let cut = listed(&entries, everything.clone(), Quota { backends: 200, ..Quota::NONE });
    assert_eq!(sizes(&cut), [("s-001".into(), 30), ("s-002".into(), 30), ("s-003".into(), 6)]);
    assert_eq!(cut.endpoints, 66);
    assert_eq!(
        cut.cuts[0].to_string(),
        "it has more than 200 backends: service ns/s-003 is not used wholly, and none behind it by name; ask the peer \
         whether it should have so many, else raise --max-backends or --max-peer-backends"
    );
    let cut = listed(&entries, everything, Quota { slots: 150, ..Quota::NONE });
    assert_eq!(sizes(&cut), [("s-001".into(), 30), ("s-002".into(), 16)], "a group takes a power of two");
    assert_eq!(cut.cuts[0].excess, Excess::Slots);
    // What has fewer ports here takes less.
    let one_port = listed(&entries, asked(1..=4, 1), Quota { backends: 200, ..Quota::NONE });
    assert_eq!(one_port.endpoints, 120);
}

#[test]
fn memory_is_filled_in_the_order_of_names_whatever_the_order_of_arrival() {
    let mut entries = head();
    (1..=40).for_each(|number| service(&mut entries, number, 3, 50));
    let quota = Quota { bytes: 30_000, ..Quota::NONE };
    let first = listed(&entries, asked(1..=40, 1), quota);
    assert!(first.bytes <= 30_000 && first.bytes > 28_000, "{}", first.bytes);
    assert_eq!(first.cuts[0].excess, Excess::Memory);
    let count = first.services.len();
    assert!((8..20).contains(&count), "{count}");
    assert!(first.services.keys().eq((1..=40).map(name).collect::<Vec<_>>().iter().take(count)));

    let mut backwards = PeerView::bounded(pin(), asked(1..=40, 1), quota);
    list(&mut backwards, entries.iter().rev());
    assert_eq!(backwards.snapshot().services, first.services);
    // One after the other, as changes.
    let mut late = PeerView::bounded(pin(), asked(1..=40, 1), quota);
    list(&mut late, &head());
    for (key, value) in entries.iter().rev().chain(&entries) {
        late.put(key, value.as_bytes());
    }
    assert_eq!((&late.snapshot().services, late.is_cut()), (&first.services, true));
    // What goes makes room that a list fills.
    let mut fewer = entries.clone();
    fewer.retain(|key, _| !key.contains("s-001"));
    for key in entries.keys().filter(|key| !fewer.contains_key(*key)) {
        late.delete(key);
    }
    list(&mut late, &fewer);
    assert_eq!(late.snapshot().services, listed(&fewer, asked(1..=40, 1), quota).services);
    fewer.retain(|key, _| !key.contains("/s-01") && !key.contains("/s-02") && !key.contains("/s-03"));
    list(&mut late, &fewer);
    assert!(late.snapshot().cuts.is_empty());
}

#[test]
fn a_list_that_was_cut_is_told_of_until_one_is_whole() {
    let mut entries = head();
    service(&mut entries, 1, 1, 5);
    let mut view = PeerView::new(pin());
    view.begin_list();
    entries.iter().for_each(|(key, value)| view.list_entry(key, value.as_bytes()));
    view.cut_list(6);
    view.end_list();
    assert_eq!(
        view.snapshot().cuts[0].to_string(),
        "it has more than 6 records: what lies beyond is not read; ask the peer whether it should have so many, else \
         raise --max-peer-records"
    );
    list(&mut view, &entries);
    assert!(view.snapshot().cuts.is_empty());
}

/// Service, slice, endpoints; none deletes the slice, and slice 0 the service.
fn steps() -> impl Strategy<Value = Vec<(u8, u8, Option<u8>)>> {
    prop::collection::vec((0_u8..6, 0_u8..4, prop::option::of(0_u8..40)), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_share_after_any_changes_is_that_of_a_list(
        steps in steps(), backends in 0_u64..300, slots in 0_u64..300, turn in 0_u64..300,
    ) {
        let quota = Quota { backends, slots, ..Quota::NONE };
        let mut entries = head();
        let mut view = PeerView::bounded(pin(), asked([0, 1, 2, 4, 5], 2), quota);
        list(&mut view, &entries);
        for (number, at, endpoints) in steps {
            let before = entries.clone();
            match endpoints {
                Some(endpoints) => {
                    service(&mut entries, number, 0, 0);
                    entries.extend([slice(number, at, endpoints)]);
                }
                None if at == 0 => entries.retain(|key, _| !key.contains(name(number).as_str())),
                None => drop(entries.remove(&slice_key(number, at))),
            }
            before.keys().filter(|key| !entries.contains_key(*key)).for_each(|key| view.delete(key));
            for (key, value) in entries.iter().filter(|(key, value)| before.get(*key) != Some(*value)) {
                view.put(key, value.as_bytes());
            }
            let snapshot = view.snapshot();
            let fresh = listed(&entries, asked([0, 1, 2, 4, 5], 2), quota);
            prop_assert_eq!(&snapshot.services, &fresh.services);
            prop_assert_eq!((snapshot.endpoints, &snapshot.cuts, snapshot.bytes), (fresh.endpoints, &fresh.cuts, fresh.bytes));
            let (mut used_backends, mut used_slots) = (0, 0);
            for service in snapshot.services.values() {
                let endpoints = service.endpoint_count() as u64;
                used_backends += endpoints * 2;
                used_slots += if endpoints == 0 { 0 } else { endpoints.next_power_of_two() * 2 };
            }
            prop_assert!(used_backends <= backends && used_slots <= slots);
        }
        // Another number of peers, another share.
        view.set_share(turn, turn);
        let fresh = listed(&entries, asked([0, 1, 2, 4, 5], 2), Quota { backends: turn, slots: turn, ..quota });
        prop_assert_eq!(&view.snapshot().services, &fresh.services);
    }
}
