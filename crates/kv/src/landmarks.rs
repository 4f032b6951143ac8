//! What a reader remembers of an etcd's history, to tell whether it is still the same one.
//!
//! An etcd that was restored from a backup keeps its incarnation, and grows past every revision that readers know. What
//! it can't have is the same changes: the alive record at the known revision (rewritten every 2 s, never with the same
//! content) and the last change before it are compared with what was seen.

use crate::fault::CallError;
use crate::session::Session;

/// Changes that a reader has seen.
#[derive(Debug)]
pub(crate) struct Landmarks {
    alive_key: String,
    alive: Option<Landmark>,
    last: Option<Landmark>,
}

#[derive(Clone, Debug)]
struct Landmark {
    key: String,
    revision: i64,
    /// None where the key was deleted.
    value: Option<Vec<u8>>,
}

impl Landmarks {
    pub(crate) fn new(alive_key: String) -> Self {
        Self { alive_key, alive: None, last: None }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        (self.alive, self.last) = (None, None);
    }

    /// A key was listed or changed at a revision.
    pub(crate) fn see(&mut self, key: &str, revision: i64, value: Option<&[u8]>) {
        let landmark = || Some(Landmark { key: key.into(), revision, value: value.map(<[u8]>::to_vec) });
        if key == self.alive_key {
            self.alive = landmark();
        }
        if self.last.as_ref().is_none_or(|last| last.revision <= revision) {
            self.last = landmark();
        }
    }

    /// Whether everything stands in this etcd as it was seen, at the revision up to which all was seen.
    pub(crate) async fn stand_in(&self, session: &Session, revision: i64) -> Result<bool, CallError> {
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
