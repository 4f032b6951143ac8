//! The cache and its watches against a model that keeps every revision whole.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mesh_kv::{RawChange, RawEntry, Revision};
use mesh_model::audience::Audience;
use mesh_model::name::ClusterName;
use proptest::prelude::*;
use prost::Message;

use super::cache::{Cache, Window};
use super::range::{Keys, RangeRefused, range};
use super::view::{Scope, View};
use super::watch::Watches;
use super::wire::{
    KeyValue, RangeRequest, WatchAsked, WatchCancelRequest, WatchCreateRequest, WatchFilter,
    WatchProgressRequest, WatchRequest, WatchResponse,
};

/// etcd's `Event`, as a client reads it.
#[derive(Clone, PartialEq, Eq, Message)]
struct Event {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
    #[prost(message, optional, tag = "3")]
    prev_kv: Option<KeyValue>,
}

const WIDE: Window = Window { revisions: usize::MAX, bytes: usize::MAX };
/// Where lists begin, so that there is something before.
const START: i64 = 5;

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

/// Values that begin with `y` are for yavin alone; keys that begin with `hidden` are for nobody.
fn audience(key: &[u8], value: &[u8]) -> Option<Audience> {
    if key.starts_with(b"hidden") {
        return None;
    }
    Some(match value.first() {
        Some(b'y') => Audience::Only(Arc::new([cluster("yavin")].into())),
        _ => Audience::Everybody,
    })
}

fn scope() -> Scope {
    Scope::of(|entry| audience(&entry.key, &entry.value))
}

fn views() -> [View; 3] {
    ["hoth", "yavin", "endor"].map(|reader| View::of(&cluster(reader), &cluster("hoth")))
}

fn sees(view: &View, pair: &KeyValue) -> bool {
    match (view, audience(&pair.key, &pair.value)) {
        (_, None) => false,
        (View::Own, _) | (_, Some(Audience::Everybody)) => true,
        (View::Peer(peer), Some(Audience::Only(peers))) => peers.contains(peer),
    }
}

type State = BTreeMap<Bytes, KeyValue>;

/// Every revision whole, as etcd counts.
struct Model {
    states: Vec<State>,
}

impl Model {
    fn head(&self) -> i64 {
        START + i64::try_from(self.states.len()).unwrap() - 1
    }

    fn at(&self, revision: i64) -> &State {
        &self.states[usize::try_from(revision - START).unwrap()]
    }

    /// Writes at the next revision, each key at most once; without a value it is deleted.
    fn write(&mut self, writes: &BTreeMap<String, Option<String>>) -> Option<Revision> {
        let mut state = self.states.last().unwrap().clone();
        let revision = self.head() + 1;
        let mut changes = Vec::new();
        for (key, value) in writes {
            let key = Bytes::from(key.clone());
            let Some(value) = value else {
                if state.remove(&key).is_some() {
                    changes.push(RawChange::Delete { key: key.to_vec() });
                }
                continue;
            };
            let before = state.get(&key);
            let pair = KeyValue {
                key: key.clone(),
                value: Bytes::from(value.clone()),
                create_revision: before.map_or(revision, |before| before.create_revision),
                mod_revision: revision,
                version: before.map_or(1, |before| before.version + 1),
                lease: 0,
            };
            changes.push(RawChange::Put(raw(&pair)));
            state.insert(key, pair);
        }
        (!changes.is_empty()).then(|| {
            self.states.push(state);
            Revision { revision, changes }
        })
    }

    fn seen(&self, revision: i64, view: &View) -> Vec<KeyValue> {
        self.at(revision).values().filter(|pair| sees(view, pair)).cloned().collect()
    }
}

fn raw(pair: &KeyValue) -> RawEntry {
    let KeyValue { key, value, create_revision, mod_revision, version, lease } = pair.clone();
    RawEntry { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease }
}

fn everything() -> Keys {
    Keys::From(Bytes::from_static(&[0]))
}

fn watch_all(start_revision: i64) -> WatchRequest {
    create(WatchCreateRequest { range_end: Bytes::from_static(&[0]), start_revision, ..Default::default() })
}

fn create(create: WatchCreateRequest) -> WatchRequest {
    WatchRequest { asked: Some(WatchAsked::Create(create)) }
}

fn drain(watches: &mut Watches, cache: &Cache) -> Vec<WatchResponse> {
    std::iter::from_fn(|| watches.next(cache)).collect()
}

fn events(answers: &[WatchResponse]) -> Vec<Event> {
    let all = answers.iter().flat_map(|answer| &answer.events);
    all.map(|event| Event::decode(event.clone()).unwrap()).collect()
}

/// What a reader makes of events.
fn follow(state: &mut State, events: Vec<Event>) {
    for event in events {
        let pair = event.kv.unwrap();
        match event.kind {
            0 => drop(state.insert(pair.key.clone(), pair)),
            _ => assert!(state.remove(&pair.key).is_some(), "deleted what was not there: {pair:?}"),
        }
    }
}

fn revision_of(answer: &WatchResponse) -> i64 {
    answer.header.unwrap().revision
}

/// Two keys, and numbers around every edge.
fn hostile() -> impl Strategy<Value = ([Vec<u8>; 2], [i64; 5])> {
    let key = || proptest::collection::vec(prop_oneof![Just(0_u8), Just(b'a'), Just(b'c'), Just(255)], 0..3);
    let number = || {
        prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(-1), 0..3_i64, START - 2..START + 40, any::<i64>()]
    };
    ([key(), key()], [number(), number(), number(), number(), number()])
}

fn writes() -> impl Strategy<Value = Vec<BTreeMap<String, Option<String>>>> {
    let key = prop_oneof!["[abc]{1,2}", "hidden[ab]"];
    let value = proptest::option::weighted(0.7, "[xy][0-9]");
    proptest::collection::vec(proptest::collection::btree_map(key, value, 1..4), 1..40)
}

/// Applies all writes; gives the model and the cache.
fn written(all: &[BTreeMap<String, Option<String>>], window: Window) -> (Model, Cache) {
    let mut model = Model { states: vec![State::new()] };
    let mut cache = Cache::listed(scope(), window, Vec::new(), START);
    for write in all {
        if let Some(revision) = model.write(write) {
            cache.apply(revision);
        }
    }
    (model, cache)
}

proptest! {
    #[test]
    fn every_revision_within_the_window_is_read_as_it_was(all in writes(), from in "[abc]{0,2}", end in "[abcd]{1,2}", kept in 1..50usize) {
        let window = Window { revisions: kept, bytes: usize::MAX };
        let (model, cache) = written(&all, window);
        prop_assert_eq!(cache.revision(), model.head());
        let keys = Keys::Before { from: from.into(), end: end.into() };
        for view in views() {
            for revision in START..=model.head() {
                let found = cache.records(&keys, revision, &view);
                if revision < cache.compacted() {
                    prop_assert_eq!(found.unwrap_err(), RangeRefused::Compacted);
                    continue;
                }
                let found: Vec<KeyValue> =
                    found.unwrap().iter().map(|record| KeyValue::decode(record.record()).unwrap()).collect();
                let expected: Vec<KeyValue> =
                    model.seen(revision, &view).into_iter().filter(|pair| keys.contains(&pair.key)).collect();
                prop_assert_eq!(found, expected, "at {}", revision);
            }
            let future = cache.records(&keys, model.head() + 1, &view);
            prop_assert_eq!(future.unwrap_err(), RangeRefused::Future);
        }
    }

    /// Also where records go out of the reader's sight and come into it.
    #[test]
    fn a_list_and_the_events_behind_it_are_a_later_list(all in writes(), split in 0..40usize, reads in any::<u8>()) {
        for view in views() {
            let split = split.min(all.len());
            let (mut model, mut cache) = written(&all[..split], WIDE);
            let listed = model.head();
            let mut state: State =
                model.seen(listed, &view).into_iter().map(|pair| (pair.key.clone(), pair)).collect();
            let mut watches = Watches::new(view.clone());
            watches.request(&cache, watch_all(listed + 1));
            prop_assert!(watches.next(&cache).unwrap().created);
            for (at, write) in all[split..].iter().enumerate() {
                model.write(write).into_iter().for_each(|revision| cache.apply(revision));
                if reads & (1 << (at % 8)) != 0 {
                    follow(&mut state, events(&drain(&mut watches, &cache)));
                    prop_assert_eq!(state.values().cloned().collect::<Vec<_>>(), model.seen(model.head(), &view));
                }
            }
            follow(&mut state, events(&drain(&mut watches, &cache)));
            prop_assert_eq!(state.into_values().collect::<Vec<_>>(), model.seen(model.head(), &view));
        }
    }

    #[test]
    fn every_event_stands_at_its_revision_with_what_was_before(all in writes(), compacted in 0..20i64) {
        let (model, mut cache) = written(&all, WIDE);
        cache.compact((START + compacted).min(model.head()));
        for view in views() {
            let mut watches = Watches::new(view.clone());
            let request = WatchCreateRequest {
                range_end: Bytes::from_static(&[0]),
                start_revision: cache.first(),
                prev_kv: true,
                ..Default::default()
            };
            watches.request(&cache, create(request));
            let mut last = 0;
            for event in events(&drain(&mut watches, &cache)) {
                let pair = event.kv.unwrap();
                prop_assert!(pair.mod_revision >= last);
                last = pair.mod_revision;
                let before = model.at(last - 1).get(&pair.key).filter(|before| sees(&view, before));
                let expected = before.filter(|_| last > cache.compacted()).cloned();
                prop_assert_eq!(event.prev_kv, expected);
                if event.kind == 0 {
                    prop_assert_eq!(Some(&pair), model.at(last).get(&pair.key));
                }
            }
        }
    }

    /// Clients may be of any making.
    #[test]
    fn no_request_breaks_anything(all in writes(), asked in proptest::collection::vec(hostile(), 1..20)) {
        let (_, cache) = written(&all, Window { revisions: 5, bytes: usize::MAX });
        let mut watches = Watches::new(View::Own);
        for (bytes, numbers) in asked {
            let [key, end] = bytes.map(Bytes::from);
            let [revision, limit, id, order, bound] = numbers;
            let request = RangeRequest {
                key: key.clone(),
                range_end: end.clone(),
                limit,
                revision,
                sort_order: i32::try_from(order).unwrap_or(9),
                sort_target: i32::try_from(order).unwrap_or(9),
                min_mod_revision: bound,
                max_create_revision: bound,
                ..Default::default()
            };
            if let Ok(found) = range(&cache, &View::Own, &request) {
                prop_assert!(found.records.len() <= cache.len() || revision > 0);
            }
            watches.request(&cache, create(WatchCreateRequest {
                key,
                range_end: end,
                start_revision: revision,
                watch_id: id,
                prev_kv: order == 0,
                fragment: order == 1,
                filters: vec![i32::try_from(order).unwrap_or(9)],
                progress_notify: true,
            }));
            watches.request(&cache, WatchRequest { asked: None });
            watches.tick(&cache);
            prop_assert!(drain(&mut watches, &cache).len() < 1000);
        }
    }

    #[test]
    fn what_the_cache_says_of_its_size_does_not_drift(all in writes(), kept in 1..20usize) {
        let (_, mut cache) = written(&all, Window { revisions: kept, bytes: usize::MAX });
        prop_assert!(cache.changes_from(0).count() <= kept);
        let head = cache.revision();
        let mut model = Model { states: vec![State::new(); usize::try_from(head - START).unwrap() + 1] };
        model.states.last_mut().unwrap().extend(
            cache.records(&everything(), 0, &View::Own).unwrap().iter().map(|record| {
                let pair = KeyValue::decode(record.record()).unwrap();
                (pair.key.clone(), pair)
            }),
        );
        let deletes = model.at(head).keys().map(|key| (String::from_utf8(key.to_vec()).unwrap(), None)).collect();
        model.write(&deletes).into_iter().for_each(|revision| cache.apply(revision));
        cache.compact(head + 2);
        prop_assert_eq!((cache.size(), cache.len()), (0, 0));
    }
}

fn put(model: &mut Model, cache: &mut Cache, key: &str, value: &str) -> i64 {
    let write = BTreeMap::from([(key.to_owned(), Some(value.to_owned()))]);
    cache.apply(model.write(&write).unwrap());
    model.head()
}

fn fresh(window: Window) -> (Model, Cache) {
    written(&[], window)
}

#[test]
fn a_slow_watch_is_cancelled_with_the_revision_to_go_on_from_and_the_others_go_on() {
    let (mut model, mut cache) = fresh(Window { revisions: 10, bytes: usize::MAX });
    let (mut slow, mut fast) = (Watches::new(View::Own), Watches::new(View::Own));
    for watches in [&mut slow, &mut fast] {
        watches.request(&cache, watch_all(0));
        assert!(watches.next(&cache).unwrap().created);
    }
    let mut heard = 0;
    for number in 0..100 {
        put(&mut model, &mut cache, "a", &format!("x{number}"));
        heard += events(&drain(&mut fast, &cache)).len();
    }
    assert_eq!(heard, 100);
    let answers = drain(&mut slow, &cache);
    let [cancelled] = &answers[..] else { panic!("{answers:?}") };
    assert!(cancelled.canceled && cancelled.cancel_reason.is_empty());
    assert_eq!(cancelled.compact_revision, cache.first());
    assert_eq!(slow.len(), 0);
    slow.request(&cache, watch_all(cancelled.compact_revision));
    assert_eq!(events(&drain(&mut slow, &cache)).len(), 10);
}

#[test]
fn changes_of_one_revision_are_not_forgotten_however_big() {
    let (mut model, mut cache) = fresh(Window { revisions: 100, bytes: 1000 });
    for number in 0..5 {
        put(&mut model, &mut cache, "a", &"x".repeat(5000 + number));
    }
    assert_eq!(cache.changes_from(0).count(), 1);
    assert_eq!((cache.first(), cache.compacted()), (cache.revision(), cache.revision()));
}

#[test]
fn ids_are_chosen_by_the_server_or_by_the_client_and_never_twice() {
    let (_, cache) = fresh(WIDE);
    let mut watches = Watches::new(View::Own);
    let mut answer = |watch_id: i64, key: &'static str, end: &'static str| {
        let (key, range_end) = (key.into(), end.into());
        watches
            .request(&cache, create(WatchCreateRequest { key, range_end, watch_id, ..Default::default() }));
        let answer = watches.next(&cache).unwrap();
        (answer.watch_id, answer.canceled, answer.cancel_reason)
    };
    assert_eq!(answer(0, "a", ""), (0, false, String::new()));
    assert_eq!(answer(1, "a", ""), (1, false, String::new()));
    assert_eq!(answer(0, "a", ""), (2, false, String::new()));
    let duplicate = "mvcc: duplicate watch ID provided on the WatchStream";
    assert_eq!(answer(1, "a", ""), (-1, true, duplicate.into()));
    assert_eq!(answer(0, "b", "a"), (-1, true, "mvcc: watcher range is empty".into()));
    watches.request(
        &cache,
        WatchRequest { asked: Some(WatchAsked::Cancel(WatchCancelRequest { watch_id: 1 })) },
    );
    let cancelled = watches.next(&cache).unwrap();
    assert_eq!((cancelled.watch_id, cancelled.canceled, cancelled.created), (1, true, false));
    // One that is not there is not answered.
    watches.request(
        &cache,
        WatchRequest { asked: Some(WatchAsked::Cancel(WatchCancelRequest { watch_id: 1 })) },
    );
    assert_eq!(watches.next(&cache), None);
}

#[test]
fn the_number_of_watches_and_the_length_of_their_keys_are_bounded() {
    let (_, cache) = fresh(WIDE);
    let mut watches = Watches::new(View::Own);
    for _ in 0..300 {
        watches.request(&cache, watch_all(0));
        drain(&mut watches, &cache);
    }
    assert_eq!(watches.len(), 256);
    let mut watches = Watches::new(View::Own);
    watches.request(&cache, create(WatchCreateRequest { key: vec![1; 2000].into(), ..Default::default() }));
    assert!(watches.next(&cache).unwrap().canceled);
}

#[test]
fn progress_is_told_when_asked_for_but_only_behind_all_events() {
    let (mut model, mut cache) = fresh(WIDE);
    let mut watches = Watches::new(View::Own);
    watches.request(&cache, watch_all(0));
    put(&mut model, &mut cache, "a", "x");
    put(&mut model, &mut cache, "hidden", "x");
    watches.request(&cache, WatchRequest { asked: Some(WatchAsked::Progress(WatchProgressRequest {})) });
    let answers = drain(&mut watches, &cache);
    let seen: Vec<_> =
        answers.iter().map(|it| (it.watch_id, it.created, it.events.len(), revision_of(it))).collect();
    assert_eq!(seen, [(0, true, 0, START), (0, false, 1, START + 2), (-1, false, 0, START + 2)]);
}

#[test]
fn progress_is_told_to_idle_watches_that_want_it() {
    let (mut model, mut cache) = fresh(WIDE);
    let mut watches = Watches::new(View::Own);
    let key = Bytes::from_static(b"a");
    watches.request(&cache, create(WatchCreateRequest { key, progress_notify: true, ..Default::default() }));
    watches.request(&cache, watch_all(0));
    drain(&mut watches, &cache);
    watches.tick(&cache);
    let told = |watches: &mut Watches, cache: &Cache| {
        watches.tick(cache);
        drain(watches, cache).iter().map(|it| (it.watch_id, revision_of(it))).collect::<Vec<_>>()
    };
    put(&mut model, &mut cache, "b", "x");
    drain(&mut watches, &cache);
    assert_eq!(told(&mut watches, &cache), [(0, START + 1)]);
    put(&mut model, &mut cache, "a", "x");
    drain(&mut watches, &cache);
    assert_eq!(told(&mut watches, &cache), []);
    assert_eq!(told(&mut watches, &cache), [(0, START + 2)]);
}

#[test]
fn filters_leave_out_puts_or_deletions() {
    let (mut model, mut cache) = fresh(WIDE);
    for filter in [WatchFilter::NoPut, WatchFilter::NoDelete] {
        let mut watches = Watches::new(View::Own);
        let request = watch_all(0).asked.unwrap();
        let WatchAsked::Create(mut request) = request else { panic!() };
        request.filters = vec![filter as i32];
        watches.request(&cache, create(request));
        put(&mut model, &mut cache, "a", "x");
        cache.apply(model.write(&BTreeMap::from([("a".to_owned(), None)])).unwrap());
        let kinds: Vec<i32> = events(&drain(&mut watches, &cache)).iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [i32::from(filter == WatchFilter::NoPut)]);
    }
}

#[test]
fn a_watch_from_a_revision_to_come_begins_there() {
    let (mut model, mut cache) = fresh(WIDE);
    let mut watches = Watches::new(View::Own);
    watches.request(&cache, watch_all(START + 3));
    for number in 0..4 {
        put(&mut model, &mut cache, "a", &format!("x{number}"));
        drain(&mut watches, &cache).iter().for_each(|it| assert!(it.events.is_empty() || number >= 2));
    }
    let mut again = Watches::new(View::Own);
    again.request(&cache, watch_all(START + 3));
    let revisions: Vec<_> =
        events(&drain(&mut again, &cache)).into_iter().map(|it| it.kv.unwrap().mod_revision).collect();
    assert_eq!(revisions, [START + 3, START + 4]);
}

#[test]
fn a_big_past_is_told_in_parts_of_whole_revisions_and_big_revisions_in_fragments() {
    let (mut model, mut cache) = fresh(WIDE);
    for number in 0..40 {
        put(&mut model, &mut cache, &format!("a{number:02}"), &"x".repeat(100_000));
    }
    let mut watches = Watches::new(View::Own);
    watches.request(&cache, watch_all(START + 1));
    let answers = drain(&mut watches, &cache);
    assert_eq!(events(&answers).len(), 40);
    assert!(answers.iter().all(|answer| answer.encoded_len() < 700_000 && !answer.fragment));

    let all = (0..40).map(|number| (format!("a{number:02}"), Some("x".repeat(100_000)))).collect();
    cache.apply(model.write(&all).unwrap());
    let WatchAsked::Create(mut request) = watch_all(model.head()).asked.unwrap() else { panic!() };
    request.fragment = true;
    let mut watches = Watches::new(View::Own);
    watches.request(&cache, create(request));
    let parts = drain(&mut watches, &cache).split_off(1);
    assert_eq!(parts.iter().map(|part| part.fragment).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(events(&parts).len(), 40);
    assert!(parts.iter().all(|part| part.encoded_len() < 1_600_000 && revision_of(part) == model.head()));
}

#[test]
fn many_watches_of_one_stream_are_told_in_turn() {
    let (mut model, mut cache) = fresh(WIDE);
    let mut watches = Watches::new(View::Own);
    for _ in 0..3 {
        watches.request(&cache, watch_all(0));
    }
    drain(&mut watches, &cache);
    let mut told = Vec::new();
    for number in 0..6 {
        put(&mut model, &mut cache, "a", &format!("x{number}"));
        told.push(watches.next(&cache).unwrap().watch_id);
    }
    assert_eq!(told, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_range_without_a_key_or_with_an_unknown_order_is_refused() {
    let (_, cache) = fresh(WIDE);
    let refused = |request: RangeRequest| range(&cache, &View::Own, &request).unwrap_err();
    assert_eq!(refused(RangeRequest::default()), RangeRefused::NoKey);
    let key = Bytes::from_static(b"a");
    assert_eq!(refused(RangeRequest { key, sort_target: 9, ..Default::default() }), RangeRefused::Sort);
}

#[test]
fn only_records_of_the_serving_cluster_are_held() {
    let scope = Scope::of_cluster(&cluster("hoth"));
    let admitted = |key: &str| {
        let pair = KeyValue { key: Bytes::copy_from_slice(key.as_bytes()), ..KeyValue::default() };
        scope.admit(&raw(&pair)).is_some()
    };
    for key in [
        "clusters/hoth",
        "alive/hoth",
        "services/hoth/a/b",
        "endpoints/hoth/a/b/c",
        "nodes/hoth/n",
        "synced/hoth/services",
    ] {
        assert!(admitted(&format!("clustermesh/v1/{key}")), "{key}");
    }
    for key in ["clusters/hoth-2", "clusters/yavin", "services/yavin/a/b", "standby/hoth/1", "invites/hoth/1"]
    {
        assert!(!admitted(&format!("clustermesh/v1/{key}")), "{key}");
    }
    for key in ["clustermesh/leader/hoth", "health", "clustermesh/v2/clusters/hoth"] {
        assert!(!admitted(key), "{key}");
    }
}
