//! What a reader remembers of an etcd's history, to tell whether it is still the same one.
//!
//! An etcd that was wiped has another incarnation in its cluster record. One that was restored from a backup keeps its
//! incarnation, and grows past every revision that readers know. What it can't have is the same changes: the alive record
//! at the known revision (rewritten every 2 s, never with the same content) and the last change before it are compared
//! with what was seen.

use mesh_model::name::ClusterName;
use mesh_model::record::RecordKey;
use serde::Deserialize;

use crate::fault::CallError;
use crate::session::Session;

/// What a reader has seen of one cluster's etcd.
#[derive(Debug)]
pub(crate) struct History {
    cluster_key: String,
    alive_key: String,
    /// Of the cluster record as last seen. Without one no history is recognised.
    incarnation: Option<String>,
    alive: Option<Landmark>,
    last: Option<Landmark>,
}

/// A change by which a history is recognised.
#[derive(Clone, Debug)]
struct Landmark {
    key: String,
    revision: i64,
    /// None where the key was deleted.
    value: Option<Vec<u8>>,
}

/// The one field of a cluster record that matters here: it must be readable whatever else a newer schema holds.
#[derive(Deserialize)]
struct Stamp {
    incarnation: String,
}

/// The incarnation that a cluster record names.
pub(crate) fn incarnation_of(record: &[u8]) -> Option<String> {
    serde_json::from_slice::<Stamp>(record).ok().map(|stamp| stamp.incarnation)
}

impl History {
    pub(crate) fn of(cluster: &ClusterName) -> Self {
        Self {
            cluster_key: RecordKey::Cluster(cluster.clone()).to_string(),
            alive_key: RecordKey::Alive(cluster.clone()).to_string(),
            incarnation: None,
            alive: None,
            last: None,
        }
    }

    /// The key whose record names the incarnation.
    pub(crate) fn cluster_key(&self) -> &str {
        &self.cluster_key
    }

    /// Whether an etcd with this incarnation may have this history.
    pub(crate) fn is_of(&self, incarnation: Option<&str>) -> bool {
        incarnation.is_some() && self.incarnation.as_deref() == incarnation
    }

    /// Forgets what was seen: another history begins.
    pub(crate) fn begin(&mut self, incarnation: Option<String>) {
        self.incarnation = incarnation;
        self.forget_changes();
    }

    /// Forgets the changes, before everything is listed again.
    pub(crate) fn forget_changes(&mut self) {
        (self.alive, self.last) = (None, None);
    }

    /// A key was listed or changed at a revision; without a value it was deleted.
    pub(crate) fn see(&mut self, key: &[u8], revision: i64, value: Option<&[u8]>) {
        if let Some(value) = value.filter(|_| key == self.cluster_key.as_bytes()) {
            self.incarnation = incarnation_of(value);
        }
        let landmark = || {
            let key = String::from_utf8_lossy(key).into_owned();
            Some(Landmark { key, revision, value: value.map(<[u8]>::to_vec) })
        };
        if key == self.alive_key.as_bytes() {
            self.alive = landmark();
        }
        if self.last.as_ref().is_none_or(|last| last.revision <= revision) {
            self.last = landmark();
        }
    }

    /// Whether everything stands in this etcd as it was seen, at the revision up to which all was seen.
    pub(crate) async fn stands_in(&self, session: &Session, revision: i64) -> Result<bool, CallError> {
        for landmark in self.alive.iter().chain(&self.last) {
            let found = session.read_at("comparing the history", &landmark.key, revision).await?;
            let found = found.map(|entry| (entry.mod_revision, entry.value));
            if found != landmark.value.clone().map(|value| (landmark.revision, value)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
