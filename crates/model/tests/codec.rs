//! Records and keys survive the way through bytes, and arbitrary bytes never panic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod support;

use mesh_model::export::{diff, diff_service, export, export_service};
use mesh_model::name::{ClusterName, ServiceName, SliceName};
use mesh_model::record::{
    AliveRecord, ClusterRecord, Incarnation, MAX_SLICE_ENDPOINTS, Record, RecordKey, ServiceRecord,
    SliceRecord, SyncedKind, SyncedRecord, node_entry, parse,
};
use mesh_model::view::PeerView;
use proptest::prelude::*;
use support::strategies::{endpoints, services, slices, snapshots};
use support::*;

const LABEL: &str = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?){0,3}";

fn keys() -> impl Strategy<Value = RecordKey> {
    let cluster = || LABEL.prop_map(|name| ClusterName::new(&name).unwrap());
    let service =
        || (LABEL, LABEL).prop_map(|(namespace, name)| ServiceName::new(&namespace, &name).unwrap());
    let kinds = proptest::sample::select(SyncedKind::ALL.to_vec());
    prop_oneof![
        cluster().prop_map(RecordKey::Cluster),
        cluster().prop_map(RecordKey::Alive),
        (cluster(), service()).prop_map(|(cluster, service)| RecordKey::Service(cluster, service)),
        (cluster(), service(), SUBDOMAIN).prop_map(|(cluster, service, slice)| RecordKey::Slice(
            cluster,
            service,
            slice.parse().unwrap()
        )),
        (cluster(), SUBDOMAIN).prop_map(|(cluster, node)| RecordKey::Node(cluster, node.parse().unwrap())),
        (cluster(), kinds).prop_map(|(cluster, kind)| RecordKey::Synced(cluster, kind)),
    ]
}

fn read(entry: &(String, Vec<u8>)) -> Record {
    parse(&entry.0, &entry.1).unwrap().1
}

proptest! {
    #[test]
    fn a_key_survives_the_way_through_text(key in keys()) {
        prop_assert_eq!(key.to_string().parse(), Ok(key.clone()));
        prop_assert!(key.kind().range(key.cluster()).contains(&key.to_string()));
    }

    #[test]
    fn arbitrary_keys_and_values_never_panic(key in ".{0,80}", value in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut view = PeerView::new(empire_pin());
        let _ = parse(&key, &value);
        view.put(&key, &value);
        view.delete(&key);
        let _ = view.snapshot();
    }

    #[test]
    fn arbitrary_values_under_good_keys_never_panic(
        key in keys(),
        value in proptest::collection::vec(any::<u8>(), 0..200),
        json in "[\\[\\]{}\":,0-9a-z ]{0,60}",
    ) {
        let _ = parse(&key.to_string(), &value);
        let _ = parse(&key.to_string(), json.as_bytes());
    }

    #[test]
    fn a_damaged_record_never_panics(snapshot in snapshots(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (key, mut value) in store(&empire(), &snapshot) {
            let place = place.index(value.len());
            value[place] = byte;
            let _ = parse(&key, &value);
            let _ = parse(&key, &value[..place]);
        }
    }

    #[test]
    fn cluster_records_survive(id in 1_u64..4096, incarnation in "[a-zA-Z0-9-]{1,64}", words in proptest::collection::btree_set("[a-z-]{1,9}", 0..3)) {
        let record = ClusterRecord {
            id: support::id(id),
            incarnation: Incarnation::new(&incarnation).unwrap(),
            ranges: empire().ranges.exported(),
            capabilities: words,
        };
        prop_assert_eq!(read(&record.entry(&cluster("empire"))), Record::Cluster(record));
    }

    #[test]
    fn alive_and_synced_records_survive(epoch: u64, counter: u64, source_age_ms: Option<u64>, revision: u64) {
        let record = AliveRecord { epoch, counter, source_age_ms };
        prop_assert_eq!(read(&record.entry(&cluster("empire"))), Record::Alive(record));
        let record = SyncedRecord { revision };
        prop_assert_eq!(read(&record.entry(&cluster("empire"), SyncedKind::Nodes)), Record::Synced(record));
    }

    #[test]
    fn service_records_survive(service in services()) {
        let record = ServiceRecord::from(&service);
        let entry = record.entry(&cluster("empire"), &service_name("default/base"));
        prop_assert_eq!(read(&entry), Record::Service(record));
    }

    #[test]
    fn slice_records_survive_but_for_endpoints_that_none_may_have(slice in slices(), changed_unix_us: u64) {
        let mut record = SliceRecord { ports: slice.ports, endpoints: slice.endpoints, changed_unix_us, ..SliceRecord::default() };
        let entry = record.entry(&cluster("empire"), &service_name("default/base"), &slice_name("s"));
        let Record::Slice(mut parsed) = read(&entry) else { panic!("a slice's key") };
        let all = record.endpoints.len();
        record.endpoints.retain(|endpoint| mesh_model::address_policy::forbidden(endpoint.address.into()).is_none());
        prop_assert_eq!(parsed.refused, all - record.endpoints.len());
        (parsed.refused, parsed.first_refused) = (0, None);
        prop_assert_eq!(parsed, record);
    }

    #[test]
    fn node_records_survive(snapshot in snapshots()) {
        for (name, node) in &snapshot.nodes {
            let entry = node_entry(&cluster("empire"), name, node);
            prop_assert_eq!(read(&entry), Record::Node((**node).clone()));
        }
    }

    #[test]
    fn every_exported_record_is_valid_small_and_below_the_own_name(snapshot in snapshots()) {
        let identity = empire();
        for (key, value) in export(&identity, &snapshot, 1) {
            let (parsed, record) = parse(&key, &value).unwrap();
            prop_assert_eq!(parsed.cluster(), &identity.name);
            prop_assert!(value.len() < 100_000);
            if let Record::Slice(slice) = record {
                prop_assert!(slice.endpoints.len() + slice.refused <= MAX_SLICE_ENDPOINTS);
            }
        }
    }

    #[test]
    fn a_diff_that_is_applied_gives_what_was_wanted(before in snapshots(), after in snapshots(), stamps: (u64, u64)) {
        let identity = empire();
        let mut actual = store(&identity, &before);
        let foreign = ("clustermesh/v1/services/rebels/default/base".to_owned(), b"{}".to_vec());
        let junk = "clustermesh/v1/services/empire/Junk".to_owned();
        actual.extend([foreign.clone(), (junk.clone(), vec![])]);
        let wanted = export(&identity, &after, stamps.0);
        for ops in diff(&identity.name, &actual, &wanted) {
            for (key, value) in ops.puts {
                actual.insert(key, value);
            }
            for key in ops.deletes {
                prop_assert!(actual.remove(&key).is_some());
            }
        }
        prop_assert_eq!(actual.get(&foreign.0), Some(&foreign.1), "another's key is left alone");
        prop_assert!(!actual.contains_key(&junk), "junk below the own name goes");
        for (key, value) in store(&identity, &snapshot([])) {
            prop_assert_eq!(actual.get(&key), Some(&value), "cluster and synced records are left alone");
        }
        prop_assert_eq!(diff(&identity.name, &actual, &export(&identity, &after, stamps.1)), vec![]);
    }

    #[test]
    fn the_diff_of_one_service_is_its_part_of_the_whole(before in snapshots(), after in snapshots()) {
        let identity = empire();
        let actual = store(&identity, &before);
        let wanted = export(&identity, &after, 9);
        let mut whole = diff(&identity.name, &actual, &wanted);
        whole.retain(|ops| matches!(ops.subject, mesh_model::export::Subject::Service(_)));
        let names: std::collections::BTreeSet<_> =
            before.services.keys().chain(after.services.keys()).cloned().collect();
        let parts: Vec<_> = names
            .iter()
            .filter_map(|name| {
                let service = after.services.get(name);
                let wanted = service.map(|service| export_service(&identity, name, service, 9));
                diff_service(&identity.name, name, &actual, &wanted.unwrap_or_default())
            })
            .collect();
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn one_endpoint_more_rewrites_one_slice(mut service in services(), endpoint in endpoints()) {
        service.scope.shared = true;
        let slice = mesh_model::snapshot::Slice { endpoints: vec![], ports: vec![] };
        service.slices = [(slice_name("s"), slice.clone().into()), (slice_name("t"), slice.into())].into();
        let before = support::snapshot([(service_name("a/b"), service.clone())]);
        let grown = mesh_model::snapshot::Slice { endpoints: vec![endpoint], ports: vec![] };
        service.slices.insert(slice_name("s"), grown.into());
        let after = support::snapshot([(service_name("a/b"), service)]);
        let name = cluster("empire");
        let ops = diff(&name, &export(&empire(), &before, 1), &export(&empire(), &after, 2));
        prop_assert_eq!(ops.len(), 1);
        prop_assert_eq!((ops[0].puts.len(), ops[0].deletes.len()), (1, 0));
    }
}

#[test]
fn names_of_further_chunks_never_clash_and_stay_valid() {
    let long = format!("{}.{}", ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join("."), "d".repeat(61));
    assert_eq!(long.len(), 253);
    let dashed = format!("{}-{}", &long[..250], "ee");
    let endpoint = endpoint("10.2.0.1", mesh_model::snapshot::Condition::READY);
    let mut service = http_service("10.102.0.1", vec![endpoint; 250]);
    let large = service.slices.pop_first().unwrap().1;
    for name in ["s", "s.1", "s.3", &long, &dashed] {
        service.slices.insert(SliceName::new(name).unwrap(), large.clone());
    }
    let entries = export_service(&empire(), &service_name("a/b"), &service, 1);
    let keys: std::collections::BTreeSet<_> = entries.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys.len(), 1 + 5 * 3, "250 endpoints make three chunks each");
    assert!(keys.iter().all(|key| key.parse::<RecordKey>().is_ok()));
}

#[test]
fn a_service_that_is_not_shared_is_not_exported() {
    let mut service = http_service("10.102.0.1", ready(&["10.2.0.1"]));
    service.scope.shared = false;
    assert_eq!(export_service(&empire(), &service_name("a/b"), &service, 1), vec![]);
}
