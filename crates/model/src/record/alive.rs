//! The record that shows that a cluster's exporter is alive.

use serde::{Deserialize, Serialize};

use super::key::RecordKey;
use super::{Entry, entry};
use crate::name::ClusterName;

/// Rewritten every 2 s without a lease. What counts is the reader's own monotonic time since `counter` moved
/// within an `epoch`; its absence means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AliveRecord {
    /// Changes with every start of the exporter.
    pub epoch: u64,
    /// Goes up with every rewrite.
    pub counter: u64,
    /// Milliseconds since the exporter last heard from its own source; `None` where it cannot tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_age_ms: Option<u64>,
}

impl AliveRecord {
    pub fn entry(&self, cluster: &ClusterName) -> Entry {
        entry(&RecordKey::Alive(cluster.clone()), self)
    }
}
