//! What a peer's records add up to, in whatever order they come.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod support;

use std::sync::Arc;

use mesh_model::address_policy::{AddressPolicy, OwnRanges, PeerRanges};
use mesh_model::desired::BackendState;
use mesh_model::export::{Entries, export};
use mesh_model::record::{AliveRecord, Reason};
use mesh_model::snapshot::{ClusterSnapshot, Condition, Protocol, Slice};
use mesh_model::view::{PeerPin, PeerSnapshot, PeerView};
use proptest::prelude::*;
use support::strategies::snapshots;
use support::*;

const SERVICE: &str = "clustermesh/v1/services/empire/default/base";
const SLICE: &str = "clustermesh/v1/endpoints/empire/default/base/s-1";

/// Everything but the counters, which depend on the way.
fn content(snapshot: &PeerSnapshot) -> PeerSnapshot {
    PeerSnapshot {
        rejected: Default::default(),
        recent_rejections: vec![],
        faults: Default::default(),
        ..snapshot.clone()
    }
}

fn base(endpoints: &[&str]) -> ClusterSnapshot {
    snapshot([(service_name("default/base"), http_service("10.102.0.1", ready(endpoints)))])
}

/// Puts and deletes that lead from one store to another.
fn changes(from: &Entries, to: &Entries) -> Vec<(String, Option<Vec<u8>>)> {
    let puts = to.iter().filter(|(key, value)| from.get(*key) != Some(*value));
    let puts = puts.map(|(key, value)| (key.clone(), Some(value.clone())));
    let deletes = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), None));
    puts.chain(deletes).collect()
}

fn apply(view: &mut PeerView, (key, value): &(String, Option<Vec<u8>>)) {
    match value {
        Some(value) => view.put(key, value),
        None => view.delete(key),
    }
}

/// How one step of a history reaches the view.
#[derive(Clone, Debug)]
enum Way {
    Watch { duplicated: bool, looked_at: bool },
    WatchWithGarbage,
    List { reversed: bool },
    ListAfterOneThatBroke,
}

fn ways() -> impl Strategy<Value = Way> {
    prop_oneof![
        3 => any::<(bool, bool)>().prop_map(|(duplicated, looked_at)| Way::Watch { duplicated, looked_at }),
        1 => Just(Way::WatchWithGarbage),
        1 => any::<bool>().prop_map(|reversed| Way::List { reversed }),
        1 => Just(Way::ListAfterOneThatBroke),
    ]
}

fn advance(view: &mut PeerView, from: &Entries, to: &Entries, way: &Way) {
    let changes = changes(from, to);
    match way {
        Way::Watch { duplicated, looked_at } => {
            for change in &changes {
                apply(view, change);
                if *duplicated {
                    apply(view, change);
                }
                if *looked_at {
                    view.snapshot();
                }
            }
        }
        Way::WatchWithGarbage => {
            for change in &changes {
                view.put(&change.0, b"garbage");
                apply(view, change);
                view.put(SERVICE, b"garbage");
            }
        }
        Way::List { reversed: false } => list(view, to),
        Way::List { reversed: true } => list(view, to.iter().rev()),
        Way::ListAfterOneThatBroke => {
            view.begin_list();
            view.list_entry(SLICE, b"{}");
            view.snapshot();
            list(view, to);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_way_to_a_state_gives_what_a_first_list_gives(
        history in proptest::collection::vec((snapshots(), ways()), 1..6),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let mut from = store(&empire(), &ClusterSnapshot::default());
        let mut view = PeerView::new(empire_pin());
        list(&mut view, &from);
        for (snapshot, way) in &history {
            let to = store(&empire(), snapshot);
            advance(&mut view, &from, &to, way);
            let seen = view.snapshot();
            let mut fresh = PeerView::new(empire_pin());
            // In another order than that of the keys.
            let entries: Vec<_> = to.iter().collect();
            let cut = shuffled.index(entries.len());
            list(&mut fresh, entries[cut..].iter().chain(&entries[..cut]).copied());
            prop_assert_eq!(content(&seen), content(&fresh.snapshot()), "{:?}", way);
            from = to;
        }
    }

    #[test]
    fn what_does_not_change_keeps_its_identity(before in snapshots(), after in snapshots()) {
        let mut view = listed(&before);
        let old = view.snapshot();
        list(&mut view, &store(&empire(), &after));
        let new = view.snapshot();
        for (name, service) in &new.services {
            if let Some(known) = old.services.get(name).filter(|known| *known == service) {
                prop_assert!(Arc::ptr_eq(known, service));
            }
        }
    }

    #[test]
    fn nothing_is_deleted_while_the_markers_are_missing_and_all_that_is_stale_goes_when_they_come(
        before in snapshots(), after in snapshots(),
    ) {
        let mut view = listed(&before);
        let old = view.snapshot();
        // The peer's etcd was wiped: first it is empty, then its exporter writes everything again.
        list(&mut view, &Entries::new());
        prop_assert_eq!(content(&view.snapshot()), content(&old));
        for (key, value) in export(&empire(), &after, 2) {
            view.put(&key, &value);
        }
        let partial = view.snapshot();
        prop_assert!(old.services.keys().all(|name| partial.services.contains_key(name)));
        for (key, value) in markers(&empire().name) {
            view.put(&key, &value);
        }
        prop_assert_eq!(content(&view.snapshot()), content(&listed(&after).snapshot()));
    }
}

#[test]
fn a_peer_is_not_synced_before_its_markers() {
    let mut view = PeerView::new(empire_pin());
    let mut entries = store(&empire(), &base(&["10.2.0.1"]));
    entries.retain(|key, _| !key.contains("/synced/"));
    list(&mut view, &entries);
    let seen = view.snapshot();
    assert!(!seen.synced && seen.services.is_empty());
    assert_eq!(seen.incarnation(), Some("0f3a"));
    let markers = markers(&empire().name);
    view.put(&markers[0].0, &markers[0].1);
    assert!(!view.snapshot().synced, "one kind is not all");
    view.put(&markers[1].0, &markers[1].1);
    let seen = view.snapshot();
    assert!(seen.synced);
    assert_eq!((seen.services.len(), seen.endpoints), (1, 1));
}

#[test]
fn a_peer_is_not_synced_before_its_list_ends() {
    let mut view = PeerView::new(empire_pin());
    view.begin_list();
    for (key, value) in store(&empire(), &base(&["10.2.0.1"])) {
        view.list_entry(&key, &value);
    }
    assert_eq!(*view.snapshot(), PeerSnapshot::default());
    view.end_list();
    assert!(view.snapshot().synced);
}

#[test]
fn without_a_cluster_record_nothing_is_used() {
    let mut entries = store(&empire(), &base(&["10.2.0.1"]));
    let (key, record) = entries.pop_first().unwrap();
    assert!(key.contains("/clusters/"));
    let mut view = PeerView::new(empire_pin());
    list(&mut view, &entries);
    assert_eq!(view.snapshot().services.len(), 0);
    assert!(!view.snapshot().synced);
    view.put(&key, &record);
    assert_eq!(view.snapshot().services.len(), 1);
    view.delete(&key);
    list(&mut view, &entries);
    assert_eq!(view.snapshot().services.len(), 1, "a record that vanished changes nothing");
}

#[test]
fn a_list_of_an_empty_store_deletes_nothing() {
    let mut view = listed(&base(&["10.2.0.1"]));
    list(&mut view, &Entries::new());
    let seen = view.snapshot();
    assert!(seen.synced);
    assert_eq!(seen.endpoints, 1);
}

fn at_once(view: &mut PeerView, changes: &[(String, Option<Vec<u8>>)]) {
    view.apply(changes.iter().map(|(key, value)| (key.as_str(), value.as_deref())));
}

#[test]
fn a_deletion_of_everything_at_once_deletes_nothing_whatever_the_order() {
    let all = store(&empire(), &base(&["10.2.0.1"]));
    let mut deletions = changes(&all, &Entries::new());
    for _ in 0..2 {
        let mut view = listed(&base(&["10.2.0.1"]));
        at_once(&mut view, &deletions);
        assert_eq!(view.snapshot().endpoints, 1);
        // The exporter writes everything again, and says so at the end.
        let again = base(&["10.2.0.2"]);
        at_once(&mut view, &changes(&Entries::new(), &store(&empire(), &again)));
        assert_eq!(content(&view.snapshot()), content(&listed(&again).snapshot()));
        deletions.reverse();
    }
}

#[test]
fn what_is_missing_when_the_marker_comes_back_goes() {
    let all = store(&empire(), &base(&["10.2.0.1"]));
    let mut all_changes = changes(&all, &Entries::new());
    all_changes.extend(changes(&Entries::new(), &store(&empire(), &ClusterSnapshot::default())));
    let mut view = listed(&base(&["10.2.0.1"]));
    // Both within what one message of etcd holds.
    at_once(&mut view, &all_changes);
    assert_eq!((view.snapshot().services.len(), view.snapshot().endpoints), (0, 0));
    // A marker that comes and goes again within it does not count.
    let mut view = listed(&base(&["10.2.0.1"]));
    all_changes.extend(changes(&all, &Entries::new()));
    at_once(&mut view, &all_changes);
    assert_eq!(view.snapshot().endpoints, 1);
}

#[test]
fn a_marker_that_was_deleted_puts_deletions_off() {
    let mut view = listed(&base(&["10.2.0.1"]));
    for (key, _) in markers(&empire().name) {
        view.delete(&key);
    }
    view.delete(SLICE);
    view.delete(SERVICE);
    assert_eq!(view.snapshot().endpoints, 1);
    for (key, value) in markers(&empire().name) {
        view.put(&key, &value);
    }
    assert_eq!(view.snapshot().services.len(), 0);
}

#[test]
fn a_new_incarnation_under_the_same_id_is_a_replacement() {
    let mut view = listed(&base(&["10.2.0.1"]));
    let mut entries = store(&empire(), &base(&["10.2.0.9"]));
    let mut record = cluster_record(&empire());
    record.incarnation = mesh_model::record::Incarnation::new("other").unwrap();
    entries.extend([record.entry(&empire().name)]);
    list(&mut view, &entries);
    let seen = view.snapshot();
    assert_eq!((seen.incarnation(), seen.endpoints, seen.refused.as_ref()), (Some("other"), 1, None));
}

#[test]
fn an_endpoint_in_two_slices_counts_once() {
    let mut service = http_service("10.102.0.1", ready(&["10.2.0.1", "10.2.0.2"]));
    let moved = Slice {
        ports: vec![target("http", Protocol::Tcp, 8080)],
        endpoints: vec![endpoint("10.2.0.2", Condition::TERMINATING), endpoint("10.2.0.3", Condition::READY)],
    };
    service.slices.insert(slice_name("s-2"), Arc::new(moved));
    assert_eq!(listed(&snapshot([(service_name("a/b"), service)])).snapshot().endpoints, 3);
}

#[test]
fn an_endpoint_twice_in_a_slice_counts_once_in_its_better_state() {
    let endpoints = [Condition::TERMINATING, Condition::READY, Condition::NOT_READY];
    let endpoints = endpoints.map(|condition| endpoint("10.2.0.1", condition)).to_vec();
    let service = http_service("10.102.0.1", endpoints);
    let seen = listed(&snapshot([(service_name("a/b"), service)])).snapshot();
    let service = &seen.services[&service_name("a/b")];
    let kept: Vec<_> = service.slices()[0].endpoints().map(|it| (it.address, it.state)).collect();
    assert_eq!(kept, [(ip("10.2.0.1"), BackendState::Active)]);
}

#[test]
fn slices_without_their_service_show_once_the_service_comes() {
    let mut view = listed(&ClusterSnapshot::default());
    let entries = store(&empire(), &base(&["10.2.0.1"]));
    view.put(SLICE, &entries[SLICE]);
    assert_eq!(view.snapshot().services.len(), 0);
    view.put(SERVICE, &entries[SERVICE]);
    assert_eq!(view.snapshot().endpoints, 1);
}

#[test]
fn a_record_that_is_not_shared_offers_nothing() {
    let mut view = listed(&base(&["10.2.0.1"]));
    view.put(SERVICE, br#"{"ports":[{"name":"http","port":80}],"shared":false}"#);
    let seen = view.snapshot();
    assert_eq!((seen.services.len(), seen.endpoints), (0, 0));
}

#[test]
fn the_last_alive_record_is_shown_and_its_absence_means_nothing() {
    let mut view = listed(&base(&["10.2.0.1"]));
    let record = AliveRecord { epoch: 1, counter: 2, source_age_ms: Some(5) };
    let (key, value) = record.entry(&empire().name);
    view.put(&key, &value);
    assert_eq!(view.snapshot().alive, Some(record));
    view.delete(&key);
    list(&mut view, &store(&empire(), &base(&["10.2.0.1"])));
    assert_eq!(view.snapshot().alive, Some(record));
}

#[test]
fn an_endpoint_outside_the_fence_counts_once_however_often_its_service_changes() {
    let mut view = listed(&base(&["10.2.0.1", "10.9.0.1"]));
    for second in ["10.2.0.2", "10.2.0.3"] {
        let ports = r#""ports":[{"name":"http","port":8080}]"#;
        view.put(
            &SLICE.replace("s-1", "s-2"),
            format!(r#"{{{ports},"endpoints":[{{"address":"{second}"}}]}}"#).as_bytes(),
        );
        assert_eq!(view.snapshot().endpoints, 2);
    }
    assert_eq!(view.snapshot().rejected.get(&Reason::AddressRefused), Some(&1));
}

#[test]
fn endpoints_are_held_against_the_fence_once_the_cluster_record_is_there() {
    let mut entries = store(&empire(), &base(&["10.2.0.1", "10.9.0.1"]));
    entries.pop_first();
    let mut view = PeerView::new(empire_pin());
    list(&mut view, &entries);
    assert_eq!(view.snapshot().rejected_total(), 0, "the record might have said more");
    // It narrows nothing, so the policy stays what it was.
    view.put("clustermesh/v1/clusters/empire", br#"{"id":2,"incarnation":"a"}"#);
    let seen = view.snapshot();
    assert_eq!((seen.endpoints, seen.rejected.get(&Reason::AddressRefused)), (1, Some(&1)));
}

#[test]
fn a_service_of_which_nothing_usable_changed_keeps_its_identity() {
    let mut view = listed(&base(&["10.2.0.1"]));
    let before = view.snapshot();
    let ports = r#""ports":[{"name":"http","port":8080}]"#;
    let outside = r#"[{"address":"10.2.0.1"},{"address":"10.9.0.1"}]"#;
    view.put(SLICE, format!(r#"{{{ports},"endpoints":{outside}}}"#).as_bytes());
    let after = view.snapshot();
    assert_eq!(after.rejected_total(), 1);
    let name = service_name("default/base");
    assert!(Arc::ptr_eq(&before.services[&name], &after.services[&name]));
}

#[test]
fn declared_ranges_are_taken_from_the_cluster_record() {
    let policy = AddressPolicy::new(PeerRanges::DECLARED, OwnRanges::default());
    let pin = PeerPin { policy, ..empire_pin() };
    let mut view = PeerView::new(pin.clone());
    list(&mut view, &store(&empire(), &base(&["10.2.0.1", "10.3.0.1"])));
    let seen = view.snapshot();
    assert_eq!((seen.endpoints, seen.rejected.get(&Reason::AddressRefused)), (1, Some(&1)));

    let mut silent = empire();
    silent.ranges = OwnRanges::default();
    let mut view = PeerView::new(pin);
    list(&mut view, &store(&silent, &base(&["10.2.0.1"])));
    let seen = view.snapshot();
    assert_eq!(seen.endpoints, 0);
    assert!(seen.recent_rejections[0].contains("--pod-cidr"), "{:?}", seen.recent_rejections);
}
