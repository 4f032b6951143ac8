//! Writes a cluster's records, and nothing but its own.
//!
//! Every transaction compares the leader key's and the cluster record's create revision: one of a leader that was
//! replaced, or to an etcd that was wiped meanwhile, changes nothing. Knows what stands in etcd by having read or
//! written it; never decides what shall stand there.

mod writes;

use std::collections::{BTreeMap, VecDeque};

use etcd_client::{Compare, CompareOp, Txn, TxnOp, WatchResponse, WatchStream};
use mesh_model::export::Entries;
use mesh_model::name::ClusterName;
use mesh_model::record::{Entry as Record, KeyError, Kind, PREFIX, RecordKey};

use crate::election::Leadership;
use crate::entry::{Entry, text_of};
use crate::fault::{CallError, CallReason};
use crate::session::Session;

pub(crate) use self::writes::MAX_OPERATIONS;
pub use self::writes::{MAX_BYTES, Oversized, Write, transactions};

/// What stands in etcd, read at one revision.
#[derive(Clone, Debug, Default)]
pub struct StoredRecords {
    pub revision: i64,
    /// The own cluster record.
    pub cluster: Option<Entry>,
    /// All other records below the own name.
    pub own: Entries,
    /// Other clusters that have a cluster record here.
    pub others: Vec<String>,
}

/// Reads everything that stands below `cluster`'s name.
pub async fn read_back(session: &Session, cluster: &ClusterName) -> Result<StoredRecords, CallError> {
    let own: Vec<_> = Kind::ALL.iter().map(|kind| kind.range(cluster)).collect();
    let own_key = RecordKey::Cluster(cluster.clone()).to_string();
    let mut stored = StoredRecords::default();
    let mut pages = session.list("reading back what stands in etcd", PREFIX);
    while let Some(page) = pages.next().await? {
        stored.revision = page.revision;
        for entry in page.entries {
            if entry.key == own_key {
                stored.cluster = Some(entry);
            } else if own.iter().any(|range| range.contains(&entry.key)) {
                stored.own.insert(entry.key, entry.value);
            } else if let Ok(RecordKey::Cluster(other)) = entry.key.parse() {
                stored.others.push(other.to_string());
            }
        }
    }
    Ok(stored)
}

/// Why nothing was written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("another process leads now, or etcd was wiped: nothing was written")]
    Fenced,
    #[error("key {key} was changed by somebody else; only this cluster's exporter may write below its name")]
    Interference { key: String },
}

/// Writes the records of one cluster as its leader.
pub struct Publisher<'a> {
    session: &'a Session,
    leadership: &'a Leadership,
    cluster: ClusterName,
    cluster_key: String,
    /// The cluster record's create revision.
    cluster_revision: i64,
    /// What stands in etcd, the cluster record apart.
    actual: Entries,
    counts: BTreeMap<Kind, u64>,
    revision: i64,
    /// What the next compaction forgets.
    compact_next: i64,
    /// Revisions of our own transactions that the watch has not shown yet.
    unseen: VecDeque<i64>,
    watch: WatchStream,
}

impl<'a> Publisher<'a> {
    /// Starts from what stands. `record` is the cluster record that shall stand: it is created if there is none,
    /// and replaced where it differs from what was read.
    pub async fn open(
        session: &'a Session,
        leadership: &'a Leadership,
        cluster: &ClusterName,
        stored: StoredRecords,
        record: Record,
    ) -> Result<Publisher<'a>, PublishError> {
        let watch = session.watch(PREFIX, stored.revision).await?;
        let mut publisher = Self {
            session,
            leadership,
            cluster: cluster.clone(),
            cluster_key: record.0.clone(),
            cluster_revision: stored.cluster.as_ref().map_or(0, |entry| entry.create_revision),
            counts: count_by_kind(&stored.own),
            actual: stored.own,
            revision: stored.revision,
            compact_next: stored.revision,
            unseen: VecDeque::new(),
            watch,
        };
        if stored.cluster.as_ref().is_none_or(|entry| entry.value != record.1) {
            publisher.write_cluster(record).await?;
        }
        Ok(publisher)
    }

    /// The records that stand below the own name, the cluster record apart.
    pub fn actual(&self) -> &Entries {
        &self.actual
    }

    /// How many records of a kind stand.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// The revision of what was read or written last.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Writes the cluster record as it shall stand from now on.
    pub async fn write_cluster(&mut self, record: Record) -> Result<(), PublishError> {
        let creates = self.cluster_revision == 0;
        let put = TxnOp::put(record.0, record.1, None);
        let revision = self.commit("writing the cluster record", vec![put]).await?;
        if creates {
            self.cluster_revision = revision;
        }
        Ok(())
    }

    /// Applies writes in one transaction, or in smaller ones where etcd takes no such big one. Returns what fits
    /// into none: of these keys the value before stands.
    pub async fn apply(&mut self, writes: Vec<Write>) -> Result<Vec<Oversized>, PublishError> {
        let (fitting, oversized): (Vec<_>, Vec<_>) = writes.into_iter().partition(Write::is_acceptable);
        let mut oversized: Vec<Oversized> = oversized.iter().map(Oversized::of).collect();
        let mut parts = vec![fitting];
        // The last part is the next.
        while let Some(mut part) = parts.pop() {
            match self.commit("writing records", part.iter().map(Write::operation).collect()).await {
                Ok(_) => part.into_iter().for_each(|write| self.remember(write)),
                Err(PublishError::Call(CallError { reason: CallReason::RequestTooBig(_), .. })) => {
                    let rest = part.split_off(part.len() / 2);
                    if part.is_empty() {
                        oversized.extend(rest.iter().map(Oversized::of));
                    } else {
                        parts.extend([rest, part]);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(oversized)
    }

    fn remember(&mut self, write: Write) {
        let (kind, change) = match write {
            Write::Put((key, value)) => {
                let kind = kind_of(&key);
                (kind, i64::from(self.actual.insert(key, value).is_none()))
            }
            Write::Delete(key) => (kind_of(&key), -i64::from(self.actual.remove(&key).is_some())),
        };
        if let Some(kind) = kind {
            let count = self.counts.entry(kind).or_default();
            *count = count.saturating_add_signed(change);
        }
    }

    async fn commit(&mut self, action: &'static str, writes: Vec<TxnOp>) -> Result<i64, PublishError> {
        if writes.is_empty() {
            return Ok(self.revision);
        }
        // 0 where the record is about to be created, and then means that there must be none.
        let same_store =
            Compare::create_revision(self.cluster_key.as_str(), CompareOp::Equal, self.cluster_revision);
        let txn = Txn::new().when([self.leadership.fence(), same_store]).and_then(writes);
        let revision = self.session.commit(action, txn).await?.ok_or(PublishError::Fenced)?;
        self.revision = revision;
        self.unseen.push_back(revision);
        Ok(revision)
    }

    /// Forgets the history before what stood at the last call, so that readers who were away for a shorter time
    /// can resume. Returns the revision from which on the history is kept.
    pub async fn compact(&mut self) -> Result<i64, PublishError> {
        let compacted = std::mem::replace(&mut self.compact_next, self.revision);
        self.session.compact(compacted).await?;
        Ok(compacted)
    }

    /// Waits until somebody else changes something below the own name, or the connection breaks. Cancel-safe.
    pub async fn interference(&mut self) -> PublishError {
        const ACTION: &str = "watching the own records";
        loop {
            let response = match self.watch.message().await {
                Ok(Some(response)) if response.canceled() => {
                    return self.session.failed(ACTION, CallReason::of_cancel(&response)).into();
                }
                Ok(Some(response)) => response,
                Ok(None) => {
                    let reason = CallReason::Broken("the server ended the watch".into());
                    return self.session.failed(ACTION, reason).into();
                }
                Err(error) => return self.session.refused(ACTION, &error).into(),
            };
            if let Some(key) = self.foreign_change(&response) {
                return PublishError::Interference { key };
            }
        }
    }

    /// The first key below the own name in a revision that is none of ours.
    fn foreign_change(&mut self, response: &WatchResponse) -> Option<String> {
        for pair in response.events().iter().filter_map(|event| event.kv()) {
            while self.unseen.front().is_some_and(|own| *own < pair.mod_revision()) {
                self.unseen.pop_front();
            }
            let is_own_write = self.unseen.front() == Some(&pair.mod_revision());
            let key = text_of(pair.key().to_vec());
            if !is_own_write && self.is_own_key(&key) {
                return Some(key);
            }
        }
        None
    }

    fn is_own_key(&self, key: &str) -> bool {
        match key.parse::<RecordKey>() {
            Ok(parsed) => *parsed.cluster() == self.cluster,
            Err(KeyError::Prefix) => false,
            Err(_) => Kind::ALL.iter().any(|kind| kind.range(&self.cluster).contains(key)),
        }
    }
}

/// How many records there are of each kind.
fn count_by_kind(entries: &Entries) -> BTreeMap<Kind, u64> {
    let mut counts = BTreeMap::new();
    for kind in entries.keys().filter_map(|key| kind_of(key)) {
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

fn kind_of(key: &str) -> Option<Kind> {
    key.parse::<RecordKey>().ok().map(|parsed| parsed.kind())
}
