//! Follows all records in a peer's etcd: a list at one revision, then changes, over every kind of interruption.
//!
//! Delivers whole revisions only, resumes where that is safe, and lists again where it is not. Never interprets a
//! record, never gives up, never ends by itself.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchResponse, WatchStream};
use mesh_failure::Backoff;
use mesh_model::name::{ClusterName, ServiceName};
use mesh_model::record::{PREFIX, RecordKey};
use mesh_model::view::PeerView;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::dial::Dialer;
use crate::etcd_endpoint::EtcdEndpoint;
use crate::fault::{CallError, CallReason, KvError};
use crate::landmarks::Landmarks;
use crate::list::Place;
use crate::session::{Entry, PAGE_KEYS, Session, text_of};

/// After so long a silence we ask the server whether it still lives.
const QUIET: Duration = Duration::from_secs(5);
/// It answers such a question within a millisecond or so.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(5);
/// A connection that has lived so long was a success: the next failure starts with the shortest delay.
const STABLE: Duration = Duration::from_secs(5);
/// A reader that wants more services than this at once gets a list of everything.
const MAX_READS: usize = 64;
/// How often everything is listed while something is left out for want of room.
const RELIST: Duration = Duration::from_secs(300);
/// Pages never shrink below this, or a list over a far path would take for ever.
pub(crate) const MIN_PAGE_KEYS: i64 = 8;

/// What happens to a watch, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// Connected and answered; a list or a resumption follows.
    Connected {
        endpoint: EtcdEndpoint,
    },
    /// What is listed from here on replaces everything known.
    ListBegin,
    ListPage(Vec<Entry>),
    /// What is listed goes on beyond so many records, and is not read further.
    ListCut {
        records: u64,
    },
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
    /// All records of services that were asked for, as they are at the revision known.
    Read {
        services: BTreeSet<ServiceName>,
        entries: Vec<Entry>,
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

impl Change {
    /// The key, and its value where it was not deleted.
    fn parts(&self) -> (&str, Option<&[u8]>) {
        match self {
            Self::Put { key, value } => (key, Some(value)),
            Self::Delete { key } => (key, None),
        }
    }
}

impl Event {
    /// How many records it is about, or a view has to look at because of it.
    pub fn records(&self) -> usize {
        match self {
            Self::ListPage(entries) | Self::Read { entries, .. } => entries.len(),
            Self::Changed { changes, .. } => changes.len(),
            // All that were listed.
            Self::ListEnd { .. } => usize::MAX,
            _ => 0,
        }
    }

    /// Does to a view what the event says. Take the view's snapshot afterwards.
    pub fn feed(&self, view: &mut PeerView) {
        match self {
            Self::ListBegin => view.begin_list(),
            Self::ListPage(entries) => {
                entries.iter().for_each(|entry| view.list_entry(&entry.key, &entry.value))
            }
            Self::ListCut { records } => view.cut_list(*records),
            Self::ListEnd { .. } => view.end_list(),
            Self::Read { services, entries } => {
                view.read(services, entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice())))
            }
            Self::Changed { changes, .. } => view.apply(changes.iter().map(Change::parts)),
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
    pub(crate) position: Option<i64>,
    /// Of the cluster record as last seen. Without one there is nothing to resume by.
    incarnation: Option<String>,
    /// By what the history is recognised.
    pub(crate) landmarks: Landmarks,
    /// Keys of a page of the next list.
    pub(crate) page_keys: i64,
    synced_at: Option<Instant>,
    /// Records of a list beyond which it is not read.
    pub(crate) max_records: u64,
    /// Where it was cut. What lies beyond is not followed either.
    pub(crate) cut: Option<Place>,
    /// The last record that was listed.
    pub(crate) last: Option<Place>,
    pub(crate) cluster: ClusterName,
    pub(crate) listed_at: Option<Instant>,
    wanted: watch::Receiver<Wanted>,
}

/// What a reader wants beside what it gets anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// All records of these services, once.
    pub services: BTreeSet<ServiceName>,
    /// The reader has left out records, and has room for others: list everything now and then.
    pub is_cut: bool,
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
            landmarks: Landmarks::new(RecordKey::Alive(cluster.clone()).to_string()),
            page_keys: PAGE_KEYS,
            synced_at: None,
            max_records: u64::MAX,
            cut: None,
            last: None,
            cluster: cluster.clone(),
            listed_at: None,
            wanted: watch::channel(Wanted::default()).1,
        }
    }

    /// Reads no more than so many records of a list.
    pub fn with_max_records(self, max_records: u64) -> Self {
        Self { max_records, ..self }
    }

    /// Reads what is wanted meanwhile.
    pub fn with_wanted(self, wanted: watch::Receiver<Wanted>) -> Self {
        Self { wanted, ..self }
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
        if !self.may_resume(&session, head, incarnation.as_deref()).await? {
            self.position = None;
            self.incarnation = incarnation;
        }
        let resumes = self.position.is_some();
        let revision = match self.position {
            Some(revision) => revision,
            None => self.list(&session, sink).await?,
        };
        let mut stream = session.watch(PREFIX, revision).await.map_err(|e| self.lost(e))?;
        if resumes {
            sink(Event::Resumed { revision });
        }
        self.synced_at = Some(Instant::now());
        loop {
            let relist_at = self.relist_at();
            let wanted = self.wanted.borrow_and_update().services.clone();
            if wanted.len() > MAX_READS || relist_at.is_some_and(|at| at <= Instant::now()) {
                let revision = self.list(&session, sink).await?;
                stream = session.watch(PREFIX, revision).await.map_err(|e| self.lost(e))?;
                continue;
            }
            if !wanted.is_empty() {
                self.read(&session, wanted, sink).await.map_err(|e| self.lost(e))?;
            }
            tokio::select! {
                response = receive(&session, &mut stream) => {
                    let response = response.map_err(|e| self.lost(e))?;
                    self.deliver(&response, sink);
                }
                Ok(()) = self.wanted.changed() => {}
                () = sleep_until(relist_at) => {}
            }
        }
    }

    /// When everything is to be listed again because something was left out that there may be room for by then.
    fn relist_at(&self) -> Option<Instant> {
        let is_cut = self.cut.is_some() || self.wanted.borrow().is_cut;
        self.listed_at.filter(|_| is_cut).map(|at| at + RELIST)
    }

    async fn may_resume(
        &mut self,
        session: &Session,
        head: i64,
        incarnation: Option<&str>,
    ) -> Result<bool, CallError> {
        let Some(position) = self.position.filter(|revision| head >= *revision) else { return Ok(false) };
        if incarnation.is_none() || self.incarnation.as_deref() != incarnation {
            return Ok(false);
        }
        self.landmarks.stand_in(session, position).await.map_err(|error| self.lost(error))
    }

    /// Forgets the position where the error says that it can't be resumed from.
    fn lost(&mut self, error: CallError) -> CallError {
        if matches!(error.reason, CallReason::Revision(_) | CallReason::TooBig(_)) {
            self.position = None;
        }
        error
    }

    /// Remembers the incarnation where the key is the cluster record's.
    pub(crate) fn note(&mut self, key: &str, value: &[u8]) {
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
            let is_deleted = pair.version() == 0;
            self.landmarks.see(&key, pair.mod_revision(), (!is_deleted).then_some(&value));
            if self.cut.as_ref().is_some_and(|cut| Place::of(&key) > *cut) {
                self.position = Some(revision);
                continue;
            }
            if is_deleted {
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

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
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
