//! The record that says that a kind is complete.

use serde::{Deserialize, Serialize};

use super::key::{RecordKey, SyncedKind};
use super::{Entry, entry};
use crate::name::ClusterName;

/// Written after the exporter's first full list. Without it a reader deletes nothing of the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncedRecord {
    /// etcd's revision before the marker was written.
    pub revision: u64,
}

impl SyncedRecord {
    pub fn entry(&self, cluster: &ClusterName, kind: SyncedKind) -> Entry {
        entry(&RecordKey::Synced(cluster.clone(), kind), self)
    }
}
