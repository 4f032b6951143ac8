//! The records that clusters publish in etcd: keys, JSON values, limits, and the door at which foreign bytes
//! become validated types or a rejection.
//!
//! Values are JSON objects in snake_case. Unknown fields are ignored and missing ones defaulted, then
//! everything is validated. Fields that repeat the key (`cluster`, `service`, `slice`, `node`) may be missing,
//! but must agree with it. The goldens in `tests/scenarios` are the contract.

mod alive;
mod cluster;
mod key;
pub mod limits;
mod node;
mod port;
mod rejection;
mod service;
mod slice;
mod synced;

use serde::{Deserialize, Serialize};

pub use alive::AliveRecord;
pub(crate) use cluster::SCHEMA;
pub use cluster::{ClusterRecord, Incarnation};
pub use key::{KeyError, KeyRange, Kind, PREFIX, RecordKey, SyncedKind};
pub(crate) use limits::MAX_RANGES;
pub use limits::{MAX_PORTS, MAX_SERVICE_ENDPOINTS, MAX_SLICE_ENDPOINTS, MAX_VALUE_BYTES};
pub use node::node_entry;
pub(crate) use rejection::shorten;
pub use rejection::{Fault, Reason, Rejection};
pub use service::ServiceRecord;
pub use slice::SliceRecord;
pub(crate) use slice::{Chunk, still_listed};
pub use synced::SyncedRecord;

use crate::snapshot::Node;

/// A key and its value, as written to etcd.
pub type Entry = (String, Vec<u8>);

/// A valid value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Cluster(ClusterRecord),
    Alive(AliveRecord),
    Service(ServiceRecord),
    Slice(SliceRecord),
    Node(Node),
    Synced(SyncedRecord),
}

/// Parses one entry as it stands in etcd.
///
/// In a slice one bad endpoint is refused alone, and [`SliceRecord::refused`] counts it; the others stay. Any
/// other fault refuses the whole value.
pub fn parse(key: &str, value: &[u8]) -> Result<(RecordKey, Record), Rejection> {
    let parsed: RecordKey = key.parse().map_err(|error| Rejection::new(key, Fault::Key(error)))?;
    let record = parse_value(&parsed, value).map_err(|fault| Rejection::new(key, fault))?;
    Ok((parsed, record))
}

/// Parses the value of a known key.
pub fn parse_value(key: &RecordKey, value: &[u8]) -> Result<Record, Fault> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Fault::TooLarge { bytes: value.len() });
    }
    Ok(match key {
        RecordKey::Cluster(name) => Record::Cluster(ClusterRecord::decode(name, value)?),
        RecordKey::Alive(_) => Record::Alive(decode_json(value)?),
        RecordKey::Service(cluster, name) => Record::Service(ServiceRecord::decode(cluster, name, value)?),
        RecordKey::Slice(cluster, service, slice) => {
            Record::Slice(SliceRecord::decode(cluster, service, slice, value)?)
        }
        RecordKey::Node(cluster, name) => Record::Node(node::decode(cluster, name, value)?),
        RecordKey::Synced(..) => Record::Synced(decode_json(value)?),
    })
}

/// Reads a JSON object. Serde would also take an array for a struct, field by field.
fn decode_json<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, Fault> {
    if value.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Fault::WrongType { detail: "an array where an object is expected".into() });
    }
    serde_json::from_slice(value).map_err(|error| Fault::from_json(&error))
}

fn entry(key: &RecordKey, value: &impl Serialize) -> Entry {
    let value = serde_json::to_vec(value).expect("records have string keys only, so they always serialise");
    (key.to_string(), value)
}

/// Checks a field that repeats a part of the key.
fn agree(field: &'static str, written: Option<&str>, key: &str) -> Result<(), Fault> {
    match written {
        Some(found) if found != key => {
            Err(Fault::Disagrees { field, found: rejection::shorten(found), key: key.to_owned() })
        }
        _ => Ok(()),
    }
}
