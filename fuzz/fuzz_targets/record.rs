//! A record as it stands in a peer's etcd: the key in the first line, the value behind it. The value is also read under a
//! key of every kind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_model::record::{self, Record, RecordKey};

const KEYS: [&str; 6] = [
    "clustermesh/v1/clusters/empire",
    "clustermesh/v1/alive/empire",
    "clustermesh/v1/services/empire/default/rebel-base",
    "clustermesh/v1/endpoints/empire/default/rebel-base/s-1",
    "clustermesh/v1/nodes/empire/node-1",
    "clustermesh/v1/synced/empire/services",
];

fuzz_target!(|data: &[u8]| {
    let line = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (key, value) = data.split_at(line);
    let value = value.strip_prefix(b"\n").unwrap_or(value);
    let key = String::from_utf8_lossy(key);
    read(&key, value);
    KEYS.iter().for_each(|key| read(key, value));
});

fn read(key: &str, value: &[u8]) {
    match record::parse(key, value) {
        Ok((key, record)) => again(&key, record),
        // What is said of it is bounded and fits a log line.
        Err(rejection) => {
            let text = rejection.to_string();
            assert!(text.len() < 4000 && !text.contains('\n'), "{text}");
        }
    }
}

/// What was accepted is written and read back as the same.
fn again(key: &RecordKey, record: Record) {
    let (written, value) = match (key, &record) {
        (RecordKey::Cluster(cluster), Record::Cluster(record)) => record.entry(cluster),
        (RecordKey::Alive(cluster), Record::Alive(record)) => record.entry(cluster),
        (RecordKey::Service(cluster, name), Record::Service(record)) => record.entry(cluster, name),
        (RecordKey::Synced(cluster, kind), Record::Synced(record)) => record.entry(cluster, *kind),
        (RecordKey::Node(cluster, name), Record::Node(node)) => record::node_entry(cluster, name, node),
        _ => return,
    };
    assert_eq!(written, key.to_string());
    assert_eq!(record::parse_value(key, &value), Ok(record));
}
