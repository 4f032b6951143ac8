//! Follows all records in a peer's etcd: a list at one revision, then changes, over every kind of interruption.
//!
//! Delivers whole revisions only, resumes where that is safe, and lists again where it is not. Never interprets a
//! record, never gives up, never ends by itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchResponse, WatchStream};
use mesh_model::name::ClusterName;
use mesh_model::record::{PREFIX, RecordKey};
use mesh_model::view::PeerView;
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::dial::Dialer;
use crate::endpoint::Endpoint;
use crate::fault::{CallError, CallReason, KvError};
use crate::session::{Entry, PAGE_KEYS, Session, text_of};

/// After so long a silence we ask the server whether it still lives.
const QUIET: Duration = Duration::from_secs(5);
/// It answers such a question within a millisecond or so.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(5);
/// A connection that has lived so long was a success: the next failure starts with the shortest delay.
const STABLE: Duration = Duration::from_secs(5);
/// Pages never shrink below this, or a list over a far path would take for ever.
const MIN_PAGE_KEYS: i64 = 8;

/// What happens to a watch, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// Connected and answered; a list or a resumption follows.
    Connected {
        endpoint: Endpoint,
    },
    /// What is listed from here on replaces everything known.
    ListBegin,
    ListPage(Vec<Entry>),
    /// The list is complete; what it did not contain does not exist at this revision.
    ListEnd {
        revision: i64,
    },
    /// No list is needed: changes go on behind the revision known.
    Resumed {
        revision: i64,
    },
    /// All changes of one or more whole revisions, up to this one.
    Changed {
        revision: i64,
        changes: Vec<Change>,
    },
    /// The connection is lost; what is known stays. Another attempt follows.
    Disconnected {
        reason: KvError,
    },
}

/// A changed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
}

impl Event {
    /// Does to a view what the event says. Take the view's snapshot afterwards.
    pub fn feed(&self, view: &mut PeerView) {
        match self {
            Self::ListBegin => view.begin_list(),
            Self::ListPage(entries) => {
                entries.iter().for_each(|entry| view.list_entry(&entry.key, &entry.value))
            }
            Self::ListEnd { .. } => view.end_list(),
            Self::Changed { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Put { key, value } => view.put(key, value),
                        Change::Delete { key } => view.delete(key),
                    }
                }
            }
            Self::Connected { .. } | Self::Resumed { .. } | Self::Disconnected { .. } => {}
        }
    }
}

/// Follows one cluster's records.
pub struct PeerWatch {
    dialer: Arc<Dialer>,
    /// The key of the peer's cluster record.
    cluster_key: String,
    /// The revision up to which everything is known; none until a list is complete.
    position: Option<i64>,
    /// Of the cluster record as last seen. Without one there is nothing to resume by.
    incarnation: Option<String>,
    /// Keys of a page of the next list.
    page_keys: i64,
    synced_at: Option<Instant>,
}

/// The one field of a cluster record that matters here: it must be readable whatever else a newer schema holds.
#[derive(Deserialize)]
struct Stamp {
    incarnation: String,
}

fn incarnation_of(value: &[u8]) -> Option<String> {
    serde_json::from_slice::<Stamp>(value).ok().map(|stamp| stamp.incarnation)
}

impl PeerWatch {
    /// Follows everything below [`PREFIX`], so that what a peer writes below other names shows too.
    pub fn new(dialer: Arc<Dialer>, cluster: &ClusterName) -> Self {
        Self {
            dialer,
            cluster_key: RecordKey::Cluster(cluster.clone()).to_string(),
            position: None,
            incarnation: None,
            page_keys: PAGE_KEYS,
            synced_at: None,
        }
    }

    /// Runs until the token is cancelled. `sink` takes each event in turn and must not block.
    pub async fn run(mut self, token: CancellationToken, mut sink: impl FnMut(Event) + Send) {
        let mut backoff = Backoff::default();
        loop {
            self.synced_at = None;
            let reason = tokio::select! {
                () = token.cancelled() => return,
                Err(reason) = self.follow(&mut sink) => reason,
            };
            sink(Event::Disconnected { reason });
            if self.synced_at.is_some_and(|at| at.elapsed() >= STABLE) {
                backoff.reset();
            }
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// One connection's life.
    async fn follow(&mut self, sink: &mut (impl FnMut(Event) + Send)) -> Result<Infallible, KvError> {
        let session = Session::open(&self.dialer).await?;
        let (head, record) = session.read("reading the cluster record", &self.cluster_key).await?;
        sink(Event::Connected { endpoint: session.endpoint().clone() });
        let incarnation = record.and_then(|entry| incarnation_of(&entry.value));
        // A wiped or restored etcd hangs or skips silently when watched from a revision of its former history.
        if !self.may_resume(head, incarnation.as_deref()) {
            self.position = None;
            self.incarnation = incarnation;
        }
        let resumes = self.position.is_some();
        let revision = match self.position {
            Some(revision) => revision,
            None => self.list(&session, sink).await?,
        };
        let mut stream = session.watch(PREFIX, revision + 1).await.map_err(|e| self.lost(e))?;
        if resumes {
            sink(Event::Resumed { revision });
        }
        self.synced_at = Some(Instant::now());
        loop {
            let response = receive(&session, &mut stream).await.map_err(|e| self.lost(e))?;
            self.deliver(&response, sink);
        }
    }

    fn may_resume(&self, head: i64, incarnation: Option<&str>) -> bool {
        let known = self.position.is_some_and(|revision| head >= revision);
        known && incarnation.is_some() && self.incarnation.as_deref() == incarnation
    }

    /// Forgets the position where the error says that it can't be resumed from.
    fn lost(&mut self, error: CallError) -> CallError {
        if matches!(error.reason, CallReason::Revision(_) | CallReason::TooBig(_)) {
            self.position = None;
        }
        error
    }

    async fn list(
        &mut self,
        session: &Session,
        sink: &mut (impl FnMut(Event) + Send),
    ) -> Result<i64, CallError> {
        sink(Event::ListBegin);
        let mut pages = session.list("listing the records", PREFIX).with_limit(self.page_keys);
        let mut revision = 0;
        loop {
            match pages.next().await {
                Ok(Some(page)) => {
                    revision = page.revision;
                    for entry in &page.entries {
                        self.note(&entry.key, &entry.value);
                    }
                    sink(Event::ListPage(page.entries));
                }
                Ok(None) => break,
                Err(error) => {
                    // A page that takes too long over this path is tried smaller next time.
                    if matches!(error.reason, CallReason::Deadline) {
                        self.page_keys = (self.page_keys / 8).max(MIN_PAGE_KEYS);
                    }
                    return Err(error);
                }
            }
        }
        self.page_keys = (self.page_keys * 2).min(PAGE_KEYS);
        self.position = Some(revision);
        sink(Event::ListEnd { revision });
        Ok(revision)
    }

    /// Remembers the incarnation where the key is the cluster record's.
    fn note(&mut self, key: &str, value: &[u8]) {
        if key == self.cluster_key {
            self.incarnation = incarnation_of(value);
        }
    }

    fn deliver(&mut self, response: &WatchResponse, sink: &mut (impl FnMut(Event) + Send)) {
        let mut changes = Vec::with_capacity(response.events().len());
        let mut revision = 0;
        for pair in response.events().iter().filter_map(|event| event.kv()) {
            // The header's revision is the store's, which may be ahead of what this message holds.
            revision = revision.max(pair.mod_revision());
            let (key, value) = (text_of(pair.key().to_vec()), pair.value().to_vec());
            // A deletion resets a key's version to 0; etcd-client's own event type panics on unknown ones.
            if pair.version() == 0 {
                changes.push(Change::Delete { key });
            } else {
                self.note(&key, &value);
                changes.push(Change::Put { key, value });
            }
        }
        // Without events it is an answer to our question, whose revision etcd does not promise to have sent all of.
        if !changes.is_empty() {
            self.position = Some(revision);
            sink(Event::Changed { revision, changes });
        }
    }
}

/// The next message. A server that is silent is asked for progress; one that does not answer is as good as gone.
pub(crate) async fn receive(session: &Session, stream: &mut WatchStream) -> Result<WatchResponse, CallError> {
    const ACTION: &str = "watching";
    let received = match timeout(QUIET, stream.message()).await {
        Ok(received) => received,
        Err(_) => {
            let question = async {
                stream.request_progress().await?;
                stream.message().await
            };
            match timeout(PROGRESS_DEADLINE, question).await {
                Ok(received) => received,
                Err(_) => return Err(session.failed(ACTION, CallReason::Deadline)),
            }
        }
    };
    match received {
        Ok(Some(response)) if response.canceled() => {
            Err(session.failed(ACTION, CallReason::of_cancel(&response)))
        }
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err(session.failed(ACTION, CallReason::Broken("the server ended the watch".into()))),
        Err(error) => Err(session.refused(ACTION, &error)),
    }
}
