//! The record that says who a cluster is. Read before anything else.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::key::RecordKey;
use super::rejection::Fault;
use super::{Entry, MAX_RANGES, agree, decode_json, entry};
use crate::address_policy::Ranges;
use crate::name::{ClusterId, ClusterName};

/// Version of the records' meaning. A field that old readers may ignore does not raise it.
pub(crate) const SCHEMA: u32 = 1;

/// Identifies one life of a cluster's etcd: random, created if absent, so that a wiped store shows. 1–64 ASCII
/// letters, digits and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(Arc<str>);

/// Why a text is no incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an incarnation has 1–64 ASCII letters, digits and '-'")]
pub struct IncarnationError;

impl Incarnation {
    pub fn new(text: &str) -> Result<Self, IncarnationError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(IncarnationError)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRecord {
    pub id: ClusterId,
    pub incarnation: Incarnation,
    /// Where its backends may lie; empty where it does not say.
    pub ranges: Ranges,
    /// What this cluster's exporter can do beyond schema 1; readers ignore words that they do not know.
    pub capabilities: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(default = "first_schema")]
    schema: u32,
    #[serde(default)]
    cluster: Option<String>,
    #[serde(default)]
    id: u64,
    #[serde(default)]
    incarnation: String,
    #[serde(default)]
    ranges: Ranges,
    #[serde(default)]
    capabilities: BTreeSet<String>,
}

/// Read first: the other fields may have changed their types in a later schema.
#[derive(Deserialize)]
struct SchemaOnly {
    #[serde(default = "first_schema")]
    schema: u32,
}

fn first_schema() -> u32 {
    SCHEMA
}

impl ClusterRecord {
    pub fn entry(&self, cluster: &ClusterName) -> Entry {
        let wire = Wire {
            schema: SCHEMA,
            cluster: Some(cluster.as_str().into()),
            id: self.id.into(),
            incarnation: self.incarnation.as_str().into(),
            ranges: self.ranges.clone(),
            capabilities: self.capabilities.clone(),
        };
        entry(&RecordKey::Cluster(cluster.clone()), &wire)
    }

    pub(super) fn decode(cluster: &ClusterName, value: &[u8]) -> Result<Self, Fault> {
        let SchemaOnly { schema } = decode_json(value)?;
        if schema != SCHEMA {
            return Err(Fault::Schema { found: schema });
        }
        let wire: Wire = decode_json(value)?;
        agree("cluster", wire.cluster.as_deref(), cluster.as_str())?;
        if wire.ranges.len() > MAX_RANGES {
            let detail =
                format!("{} ranges; at most {MAX_RANGES} are accepted, so join them", wire.ranges.len());
            return Err(Fault::field("ranges", &detail));
        }
        Ok(Self {
            id: ClusterId::new(wire.id).map_err(|error| Fault::field("id", &error))?,
            incarnation: Incarnation::new(&wire.incarnation)
                .map_err(|error| Fault::field("incarnation", &error))?,
            ranges: wire.ranges,
            capabilities: wire.capabilities,
        })
    }
}
