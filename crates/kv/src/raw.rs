//! Follows all keys below a prefix as etcd holds them: a list at one revision, then every revision behind it, whole and in
//! order, over every kind of interruption.
//!
//! Resumes where the history is known to be the same, and lists again where it is not. Never interprets a value but the
//! two records by which a history is recognised, never gives up, never ends by itself.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchResponse, WatchStream};
use mesh_model::name::ClusterName;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::dial::Dialer;
use crate::entry::RawEntry;
use crate::etcd_endpoint::EtcdEndpoint;
use crate::fault::{CallError, CallReason, KvError};
use crate::history::{History, incarnation_of};
use crate::reconnect::{self, Attempts, Follow};
use crate::session::{PAGE_KEYS, Session, prefix_end};

/// After so long a silence we ask the server whether it still lives.
const QUIET: Duration = Duration::from_secs(5);
/// It answers such a question within a millisecond or so.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(5);
/// Pages never shrink below this, or a list over a far path would take for ever.
const MIN_PAGE_KEYS: i64 = 8;
/// A server may be so far behind what another one has shown: caches are behind by milliseconds, and a restored etcd must
/// not be waited for.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How often a server that is behind is asked how far it is.
const CATCH_UP_ASKED: Duration = Duration::from_millis(100);

/// One changed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawChange {
    Put(RawEntry),
    Delete { key: Vec<u8> },
}

/// All changes of one revision below the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    pub revision: i64,
    pub changes: Vec<RawChange>,
}

/// What happens to a raw watch, in order.
#[derive(Clone, Debug)]
pub enum RawEvent {
    /// Connected and answered; a list or a resumption follows.
    Connected { endpoint: EtcdEndpoint },
    /// A list begins; it replaces everything known, and an unfinished one before it.
    Init,
    /// Keys of the list.
    InitApply(Vec<RawEntry>),
    /// The list is complete; what it did not contain does not exist at this revision.
    InitDone { revision: i64 },
    /// No list is needed: changes go on behind the revision known.
    Resumed { revision: i64 },
    /// A whole revision.
    Revision(Revision),
    /// The server has reached this revision. It is no place to resume from: an etcd before 3.5.8 says so before it has sent
    /// all changes up to there.
    Progress { revision: i64 },
    /// The connection is lost; what is known stays. Another attempt follows.
    Disconnected { reason: KvError },
}

/// Follows a cluster's etcd. What it knows survives its connections.
pub struct RawWatch {
    /// What dials now.
    dialers: watch::Receiver<Arc<Dialer>>,
    /// Where the last connection was.
    last: Option<EtcdEndpoint>,
    prefix: String,
    /// The revision up to which everything is known; none until a list is complete.
    revision: Option<i64>,
    history: History,
    /// Keys of a page of the next list.
    page_keys: i64,
}

/// A connection that has answered.
pub(crate) struct Greeting {
    pub(crate) session: Session,
    /// The server's revision.
    head: i64,
    incarnation: Option<String>,
}

/// One message of the server.
pub(crate) struct Received {
    /// In order; none where the message only tells how far the server is.
    pub(crate) revisions: Vec<Revision>,
    /// The server's revision, which may be ahead of what the message holds.
    pub(crate) head: i64,
}

impl RawWatch {
    /// Follows the keys below `prefix`. The etcd's history is recognised by the records of `cluster`.
    pub fn new(dialer: Arc<Dialer>, cluster: &ClusterName, prefix: &str) -> Self {
        let (prefix, history) = (prefix.to_owned(), History::of(cluster));
        let dialers = watch::channel(dialer).1;
        Self { dialers, last: None, prefix, revision: None, history, page_keys: PAGE_KEYS }
    }

    /// Dials by what is said here. A connection that would not be made any more by that is closed, and another one made.
    pub(crate) fn with_dialers(self, dialers: watch::Receiver<Arc<Dialer>>) -> Self {
        Self { dialers, ..self }
    }

    /// The dialer that is there counts as known.
    pub(crate) fn take_dialer(&mut self) -> Arc<Dialer> {
        Arc::clone(&self.dialers.borrow_and_update())
    }

    /// As they were when the connection was dialled: what changes later is seen as changed.
    pub(crate) fn dialers(&self) -> watch::Receiver<Arc<Dialer>> {
        self.dialers.clone()
    }

    /// Runs until the token is cancelled. `sink` takes each event in turn and must not block.
    pub async fn run(self, token: CancellationToken, sink: impl FnMut(RawEvent) + Send) {
        reconnect::run(self, token, sink).await;
    }

    /// The revision up to which everything is known; none until a list is complete.
    pub(crate) fn revision(&self) -> Option<i64> {
        self.revision
    }

    /// Dials, and asks whose etcd it is; anew where what dials changes meanwhile.
    pub(crate) async fn connect(&mut self) -> Result<Greeting, KvError> {
        loop {
            let dialer = self.take_dialer();
            let mut dialers = self.dialers.clone();
            // Another place may be another etcd, which had the same past.
            if self.last.as_ref().is_some_and(|last| !dialer.endpoints().any(|known| known == last)) {
                self.revision = None;
            }
            tokio::select! {
                greeting = self.greet(&dialer) => {
                    let greeting = greeting?;
                    self.last = Some(greeting.session.endpoint().clone());
                    return Ok(greeting);
                }
                Ok(()) = dialers.changed() => {}
            }
        }
    }

    async fn greet(&self, dialer: &Arc<Dialer>) -> Result<Greeting, KvError> {
        let session = Session::open(dialer).await?;
        let (head, record) = session.read("reading the cluster record", self.history.cluster_key()).await?;
        Ok(Greeting { session, head, incarnation: record.and_then(|entry| incarnation_of(&entry.value)) })
    }

    /// The known revision, where a watch can go on behind it; otherwise everything has to be listed.
    ///
    /// A wiped or restored etcd hangs or skips silently when watched from a revision of its former history.
    pub(crate) async fn resume(&mut self, greeting: &Greeting) -> Result<Option<i64>, CallError> {
        let resumes = self.may_resume(greeting).await.map_err(|error| self.lost(error))?;
        if !resumes {
            self.revision = None;
            self.history.begin(greeting.incarnation.clone());
        }
        Ok(self.revision)
    }

    async fn may_resume(&self, greeting: &Greeting) -> Result<bool, CallError> {
        let Some(revision) = self.revision else { return Ok(false) };
        Ok(self.history.is_of(greeting.incarnation.as_deref())
            && self.is_reached(greeting, revision).await?
            && self.history.stands_in(&greeting.session, revision).await?)
    }

    /// Whether the server has reached a revision. One that is behind, as the cache of another replica may be, is waited for:
    /// it is told apart from a restored etcd only there.
    async fn is_reached(&self, greeting: &Greeting, revision: i64) -> Result<bool, CallError> {
        if greeting.head >= revision {
            return Ok(true);
        }
        // Newer servers tell their progress only once they have reached the first revision that is watched.
        let mut stream = greeting.session.watch(&self.prefix, revision.saturating_sub(1)).await?;
        let reached = async {
            loop {
                let Ok(message) = timeout(CATCH_UP_ASKED, stream.message()).await else {
                    let asked = stream.request_progress().await;
                    asked.map_err(|error| greeting.session.refused(WATCHING, &error))?;
                    continue;
                };
                if reached(&greeting.session, message)? >= revision {
                    return Ok(());
                }
            }
        };
        timeout(CATCH_UP, reached).await.map_or(Ok(false), |result| result.map(|()| true))
    }

    /// Lists ranges of keys, in their order and all at one revision, until `page` breaks.
    pub(crate) async fn list(
        &mut self,
        session: &Session,
        ranges: &[(String, String)],
        mut page: impl FnMut(Vec<RawEntry>) -> ControlFlow<()> + Send,
    ) -> Result<i64, CallError> {
        self.revision = None;
        self.history.forget_changes();
        let mut revision = None;
        'ranges: for (from, end) in ranges {
            let pages = session.list_range("listing the records", from, end);
            let mut pages = pages.with_limit(self.page_keys).at(revision);
            while let Some((at, entries)) = pages.next_raw().await.map_err(|error| self.slower(error))? {
                revision = Some(at);
                for entry in &entries {
                    self.history.see(&entry.key, entry.mod_revision, Some(&entry.value));
                }
                if page(entries).is_break() {
                    break 'ranges;
                }
            }
        }
        self.page_keys = (self.page_keys * 2).min(PAGE_KEYS);
        let revision = revision.unwrap_or_default();
        self.revision = Some(revision);
        Ok(revision)
    }

    /// A page that takes too long over this path is tried smaller next time.
    fn slower(&mut self, error: CallError) -> CallError {
        if matches!(error.reason, CallReason::Deadline) {
            self.page_keys = (self.page_keys / 8).max(MIN_PAGE_KEYS);
        }
        error
    }

    /// Opens the watch behind the known revision.
    pub(crate) async fn watch(&mut self, session: &Session) -> Result<WatchStream, CallError> {
        let known = self.revision.unwrap_or_default();
        session.watch(&self.prefix, known).await.map_err(|error| self.lost(error))
    }

    /// The next message.
    pub(crate) async fn receive(
        &mut self,
        session: &Session,
        stream: &mut WatchStream,
    ) -> Result<Received, CallError> {
        let response = receive(session, stream).await.map_err(|error| self.lost(error))?;
        let head = response.header().map_or(0, |header| header.revision());
        let revisions = revisions(&response);
        for Revision { revision, changes } in &revisions {
            for change in changes {
                match change {
                    RawChange::Put(entry) => self.history.see(&entry.key, *revision, Some(&entry.value)),
                    RawChange::Delete { key } => self.history.see(key, *revision, None),
                }
            }
            self.revision = Some(*revision);
        }
        Ok(Received { revisions, head })
    }

    /// Forgets the revision where the error says that it can't be resumed from.
    pub(crate) fn lost(&mut self, error: CallError) -> CallError {
        if matches!(error.reason, CallReason::Revision(_) | CallReason::TooBig(_)) {
            self.revision = None;
        }
        error
    }
}

impl Follow for RawWatch {
    type Event = RawEvent;

    async fn follow(
        &mut self,
        attempts: &mut Attempts,
        sink: &mut (impl FnMut(RawEvent) + Send),
    ) -> Result<Infallible, KvError> {
        let greeting = self.connect().await?;
        sink(RawEvent::Connected { endpoint: greeting.session.endpoint().clone() });
        let resumed = self.resume(&greeting).await?;
        let session = greeting.session;
        if resumed.is_none() {
            let end =
                String::from_utf8(prefix_end(&self.prefix)).expect("the byte behind an ASCII one is text");
            let ranges = [(self.prefix.clone(), end)];
            sink(RawEvent::Init);
            let page = |entries| {
                sink(RawEvent::InitApply(entries));
                ControlFlow::Continue(())
            };
            let revision = self.list(&session, &ranges, page).await?;
            sink(RawEvent::InitDone { revision });
        }
        let mut stream = self.watch(&session).await?;
        if let Some(revision) = resumed {
            sink(RawEvent::Resumed { revision });
        }
        attempts.succeeded();
        loop {
            let Received { revisions, head } = self.receive(&session, &mut stream).await?;
            if revisions.is_empty() {
                sink(RawEvent::Progress { revision: head });
            }
            revisions.into_iter().for_each(|revision| sink(RawEvent::Revision(revision)));
        }
    }

    fn disconnected(reason: KvError) -> RawEvent {
        RawEvent::Disconnected { reason }
    }
}

/// The changes of a message, revision by revision.
fn revisions(response: &WatchResponse) -> Vec<Revision> {
    let mut revisions: Vec<Revision> = Vec::new();
    for pair in response.events().iter().filter_map(|event| event.kv()) {
        let revision = pair.mod_revision();
        // A deletion resets a key's version to 0; etcd-client's own event type panics on unknown ones.
        let change = if pair.version() == 0 {
            RawChange::Delete { key: pair.key().to_vec() }
        } else {
            RawChange::Put(pair.clone().into())
        };
        match revisions.last_mut() {
            Some(last) if last.revision == revision => last.changes.push(change),
            _ => revisions.push(Revision { revision, changes: vec![change] }),
        }
    }
    revisions
}

const WATCHING: &str = "watching";

type Message = Result<Option<WatchResponse>, etcd_client::Error>;

/// The next message. A server that is silent is asked for progress; one that does not answer is as good as gone.
pub(crate) async fn receive(session: &Session, stream: &mut WatchStream) -> Result<WatchResponse, CallError> {
    let received = match timeout(QUIET, stream.message()).await {
        Ok(received) => received,
        Err(_) => {
            let question = async {
                stream.request_progress().await?;
                stream.message().await
            };
            match timeout(PROGRESS_DEADLINE, question).await {
                Ok(received) => received,
                Err(_) => return Err(session.failed(WATCHING, CallReason::Deadline)),
            }
        }
    };
    response(session, received)
}

fn response(session: &Session, message: Message) -> Result<WatchResponse, CallError> {
    match message {
        Ok(Some(response)) if response.canceled() => {
            Err(session.failed(WATCHING, CallReason::of_cancel(&response)))
        }
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err(session.failed(WATCHING, CallReason::Broken("the server ended the watch".into()))),
        Err(error) => Err(session.refused(WATCHING, &error)),
    }
}

/// The server's revision, as a message tells it.
fn reached(session: &Session, message: Message) -> Result<i64, CallError> {
    response(session, message).map(|response| response.header().map_or(0, |header| header.revision()))
}
