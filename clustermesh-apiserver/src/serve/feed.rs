//! Keeps the cache as etcd is, out of what the raw follower hears, and hands each state to whoever serves it.
//!
//! While etcd is away the last state stays. Never waits.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_kv::{KvError, RawChange, RawEntry, RawEvent};
use mesh_model::name::ClusterName;
use mesh_model::record::RecordKey;
use mesh_runtime::Condition;
use tokio::sync::watch;

use super::cache::{Cache, Window};
use super::metrics::ServeMetrics;
use super::range::Keys;
use super::view::{Scope, View};

/// The keys that are followed: beside the records also those of the election, so that the served revision is etcd's.
pub(crate) const FOLLOWED: &str = "clustermesh/";

/// A state that is served.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) cache: Cache,
    /// Derives from the incarnation in the cluster record, so that a wiped etcd shows as another cluster.
    pub(crate) cluster_id: u64,
    /// Goes up with every list: what was told before it may belong to another history.
    pub(crate) history: u64,
}

/// The states, newest only; none before the first list.
pub(crate) type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// When etcd was last heard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How old what is served may be; none before anything is.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|heard| heard.elapsed())
    }
}

pub(crate) struct Feed {
    scope: Scope,
    window: Window,
    cluster_key: Bytes,
    /// What a list that is under way has shown so far.
    listed: Vec<RawEntry>,
    snapshot: Option<Snapshot>,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    heard: Heard,
    /// Holds from the first list on.
    condition: Condition,
    metrics: ServeMetrics,
}

impl Feed {
    pub(crate) fn new(
        cluster: &ClusterName,
        scope: Scope,
        window: Window,
        condition: Condition,
        metrics: ServeMetrics,
    ) -> Self {
        let cluster_key = RecordKey::Cluster(cluster.clone()).to_string().into();
        let (publish, heard) = (watch::Sender::new(None), Heard::default());
        Self {
            scope,
            window,
            cluster_key,
            listed: Vec::new(),
            snapshot: None,
            publish,
            heard,
            condition,
            metrics,
        }
    }

    pub(crate) fn snapshots(&self) -> Snapshots {
        self.publish.subscribe()
    }

    pub(crate) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// Takes what happens to the follower, in order.
    pub(crate) fn take(&mut self, event: RawEvent) {
        match event {
            RawEvent::Disconnected { reason } => return self.lost(&reason),
            RawEvent::Connected { .. } => {}
            RawEvent::Init => self.listed.clear(),
            RawEvent::InitApply(entries) => {
                self.listed.extend(entries.into_iter().filter(|entry| self.scope.admit(entry).is_some()));
            }
            RawEvent::InitDone { revision } => self.list(revision),
            RawEvent::Resumed { .. } | RawEvent::Progress { .. } => drop(self.metrics.connected.set(1)),
            RawEvent::Revision(revision) => {
                let Some(snapshot) = &mut self.snapshot else { return };
                let renamed = revision.changes.iter().any(|change| key_of(change) == &self.cluster_key[..]);
                snapshot.cache.apply(revision);
                if renamed {
                    snapshot.cluster_id = cluster_id(&snapshot.cache, &self.cluster_key);
                }
                self.publish();
            }
        }
        self.heard.now();
        self.metrics.heard();
    }

    /// Said once, until etcd is heard again.
    fn lost(&self, reason: &KvError) {
        let was_connected = self.metrics.connected.set(0) == 1;
        if self.snapshot.is_none() {
            self.condition.not_ready(format!("nothing has been read from etcd yet: {reason}"));
        }
        if was_connected {
            tracing::warn!(error = %reason, "etcd is not heard; the mesh API goes on with what is known");
        } else {
            tracing::debug!(error = %reason, "etcd is still not heard");
        }
    }

    /// What was listed takes the place of what was known.
    fn list(&mut self, revision: i64) {
        let listed = std::mem::take(&mut self.listed);
        let cache = Cache::listed(self.scope.clone(), self.window, listed, revision);
        let cluster_id = cluster_id(&cache, &self.cluster_key);
        let history = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.history + 1);
        tracing::info!(revision, records = cache.len(), "etcd is listed; the mesh API serves it");
        self.snapshot = Some(Snapshot { cache, cluster_id, history });
        self.metrics.connected.set(1);
        self.metrics.lists.inc();
        self.condition.ready();
        self.publish();
    }

    fn publish(&self) {
        if let Some(snapshot) = &self.snapshot {
            self.metrics.show(&snapshot.cache);
            self.publish.send_replace(Some(Arc::new(snapshot.clone())));
        }
    }

    /// Compacts as a test's etcd was.
    #[cfg(test)]
    pub(crate) fn compact(&mut self, revision: i64) {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.cache.compact(revision);
        }
        self.publish();
    }
}

fn key_of(change: &RawChange) -> &[u8] {
    match change {
        RawChange::Put(entry) => &entry.key,
        RawChange::Delete { key } => key,
    }
}

/// FNV-1a of the incarnation: the same on every replica, another one after a wipe.
fn cluster_id(cache: &Cache, cluster_key: &Bytes) -> u64 {
    let found = cache.records(&Keys::One(cluster_key.clone()), 0, &View::Own).unwrap_or_default();
    let record =
        found.first().and_then(|record| serde_json::from_slice::<serde_json::Value>(&record.value).ok());
    let incarnation =
        record.as_ref().and_then(|record| record.get("incarnation")?.as_str()).unwrap_or_default();
    fnv1a(incarnation.as_bytes())
}

/// Never 0, which to etcd's clients is no id.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, hash).max(1)
}
