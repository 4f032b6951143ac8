//! What etcd holds, kept in memory with its recent past: the records as they are, and the changes that led there.
//!
//! A value: a clone costs next to nothing and never changes, so that readers answer from one without a lock while the next
//! one is made. Revisions are etcd's own. Knows nothing of connections, and never asks etcd.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, Vector};
use mesh_kv::{RawChange, RawEntry, Revision};

use super::range::{Keys, RangeRefused};
use super::record::{Stored, deletion};
use super::view::{Scope, View};

/// How much of the past is kept: whichever bound is met first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) revisions: usize,
    pub(crate) bytes: usize,
}

impl Default for Window {
    /// Nine hours of a cluster where nothing happens but the heartbeat; at a hundred changes a second, more than two minutes.
    fn default() -> Self {
        Self { revisions: 16_384, bytes: 64 << 20 }
    }
}

/// One changed key.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: Bytes,
    /// None where it was deleted.
    pub(crate) now: Option<Arc<Stored>>,
    /// What stood there before.
    pub(crate) before: Option<Arc<Stored>>,
    /// As it goes over the wire, to whoever sees the record.
    pub(crate) event: Bytes,
}

/// All changes of one revision, in etcd's order.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) revision: i64,
    pub(crate) changes: Vec<Change>,
    size: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Cache {
    scope: Scope,
    window: Window,
    records: OrdMap<Bytes, Arc<Stored>>,
    /// Bytes that the records take, about.
    records_size: usize,
    /// The changes of the revisions from `first` on that concern records.
    log: Vector<Arc<Logged>>,
    log_size: usize,
    /// Of the last change in etcd, also where it concerns nothing that is held.
    revision: i64,
    /// The oldest revision at which can be read.
    compacted: i64,
    /// The oldest revision of which every change is in the log.
    first: i64,
}

impl Cache {
    /// What a list at `revision` holds. Nothing is known of the time before.
    pub(crate) fn listed(scope: Scope, window: Window, entries: Vec<RawEntry>, revision: i64) -> Self {
        let stored = entries.into_iter().filter_map(|entry| {
            let audience = scope.admit(&entry)?;
            Some(Arc::new(Stored::new(entry, audience)))
        });
        let records: OrdMap<Bytes, Arc<Stored>> = stored.map(|record| (record.key.clone(), record)).collect();
        let records_size = records.values().map(|record| record.size()).sum();
        let (log, log_size) = (Vector::new(), 0);
        let (compacted, first) = (revision, revision + 1);
        Self { scope, window, records, records_size, log, log_size, revision, compacted, first }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    pub(crate) fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The oldest revision from which can be watched.
    pub(crate) fn first(&self) -> i64 {
        self.first
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes of records and changes, about.
    pub(crate) fn size(&self) -> usize {
        self.records_size + self.log_size
    }

    /// Applies a whole revision. One that is known already changes nothing.
    pub(crate) fn apply(&mut self, Revision { revision, changes }: Revision) {
        if revision <= self.revision {
            return;
        }
        let changes: Vec<Change> =
            changes.into_iter().filter_map(|change| self.change(change, revision)).collect();
        self.revision = revision;
        if changes.is_empty() {
            return;
        }
        let previous = |change: &Change| change.before.as_ref().map_or(0, |before| before.size());
        let size =
            changes.iter().map(|change| change.event.len() + size_of::<Change>() + previous(change)).sum();
        self.log_size += size;
        self.log.push_back(Arc::new(Logged { revision, changes, size }));
        self.slide();
    }

    /// None where it concerns nothing that is held.
    fn change(&mut self, raw: RawChange, revision: i64) -> Option<Change> {
        let (key, now) = match raw {
            RawChange::Put(entry) => match self.scope.admit(&entry) {
                Some(audience) => {
                    let record = Arc::new(Stored::new(entry, audience));
                    (record.key.clone(), Some(record))
                }
                None => (entry.key.into(), None),
            },
            RawChange::Delete { key } => (key.into(), None),
        };
        let before = match &now {
            Some(record) => self.records.insert(key.clone(), Arc::clone(record)),
            None => Some(self.records.remove(&key[..])?),
        };
        self.records_size += now.as_ref().map_or(0, |record| record.size());
        self.records_size -= before.as_ref().map_or(0, |record| record.size());
        let event = now.as_ref().map_or_else(|| deletion(&key, revision), |record| record.event());
        Some(Change { key, now, before, event })
    }

    /// Forgets what does not fit into the window.
    fn slide(&mut self) {
        let (mut kept, mut size) = (self.log.len(), self.log_size);
        let mut from = None;
        for (at, logged) in self.log.iter().enumerate() {
            if kept <= self.window.revisions && size <= self.window.bytes {
                break;
            }
            (kept, size) = (kept - 1, size - logged.size);
            from = Some(self.log.get(at + 1).map_or(self.revision, |next| next.revision));
        }
        if let Some(revision) = from {
            self.compact(revision);
        }
    }

    /// Forgets how it was before `revision`, as etcd's compaction does. The changes of `revision` itself stay.
    pub(crate) fn compact(&mut self, revision: i64) {
        if revision <= self.compacted {
            return;
        }
        while let Some(logged) = self.log.front().filter(|logged| logged.revision < revision) {
            self.log_size -= logged.size;
            self.log.pop_front();
        }
        self.compacted = revision;
        self.first = self.first.max(revision);
    }

    /// The changes of the revisions from `from` on, in order.
    pub(crate) fn changes_from(&self, from: i64) -> impl Iterator<Item = &Arc<Logged>> {
        let at = match self.log.binary_search_by(|logged| logged.revision.cmp(&from)) {
            Ok(at) | Err(at) => at,
        };
        (at..self.log.len()).map(|at| &self.log[at])
    }

    /// The records of a range that a reader sees, by key, as they were at a revision; 0 or less is the latest.
    pub(crate) fn records(
        &self,
        keys: &Keys,
        at: i64,
        view: &View,
    ) -> Result<Vec<Arc<Stored>>, RangeRefused> {
        let at = if at <= 0 { self.revision } else { at };
        if at > self.revision {
            return Err(RangeRefused::Future);
        }
        if at < self.compacted {
            return Err(RangeRefused::Compacted);
        }
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let since = self.undone(keys, at);
        let now = self.records.range::<_, [u8]>(keys.bounds()).map(|(_, record)| record);
        let unchanged = now.filter(|record| !since.contains_key(&record.key[..]));
        let were = since.values().copied().flatten();
        let seen = |record: &&Arc<Stored>| view.sees(record);
        let mut found: Vec<_> = unchanged.chain(were).filter(seen).map(Arc::clone).collect();
        if !since.is_empty() {
            found.sort_by(|one, other| one.key.cmp(&other.key));
        }
        Ok(found)
    }

    /// What the keys of a range that have changed behind a revision held at that revision.
    fn undone(&self, keys: &Keys, at: i64) -> BTreeMap<&[u8], Option<&Arc<Stored>>> {
        let mut held = BTreeMap::new();
        for logged in self.changes_from(at + 1) {
            for change in logged.changes.iter().filter(|change| keys.contains(&change.key)) {
                held.entry(&change.key[..]).or_insert(change.before.as_ref());
            }
        }
        held
    }
}
