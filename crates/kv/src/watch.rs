//! Follows all records in a peer's etcd: a list, then changes, over every kind of interruption ([`raw`](crate::raw)).
//!
//! Delivers whole revisions only. Lists in an order of its own and within a bound, reads single services where somebody
//! asks for them, and lists again where it left something out. Never interprets a record.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::name::{ClusterName, ServiceName};
use mesh_model::record::PREFIX;
use mesh_model::view::PeerView;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dial::Dialer;
use crate::etcd_endpoint::EtcdEndpoint;
use crate::fault::KvError;
use crate::list::Place;
use crate::raw::{RawChange, RawWatch, Revision};
use crate::reconnect::{self, Attempts, Follow};
use crate::session::{Entry, text_of};

/// A reader that wants more services than this at once gets a list of everything.
const MAX_READS: usize = 64;
/// How often everything is listed while something is left out for want of room.
const RELIST: Duration = Duration::from_secs(300);

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

impl From<RawChange> for Change {
    fn from(raw: RawChange) -> Self {
        match raw {
            RawChange::Put(entry) => Self::Put { key: text_of(entry.key), value: entry.value },
            RawChange::Delete { key } => Self::Delete { key: text_of(key) },
        }
    }
}

impl Change {
    fn key(&self) -> &str {
        self.parts().0
    }

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
    pub(crate) raw: RawWatch,
    /// Records of a list beyond which it is not read.
    pub(crate) max_records: u64,
    /// Where it was cut. What lies beyond is not followed either.
    pub(crate) cut: Option<Place>,
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

impl PeerWatch {
    /// Follows everything below [`PREFIX`], so that what a peer writes below other names shows too.
    pub fn new(dialer: Arc<Dialer>, cluster: &ClusterName) -> Self {
        Self {
            raw: RawWatch::new(dialer, cluster, PREFIX),
            max_records: u64::MAX,
            cut: None,
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
    pub async fn run(self, token: CancellationToken, sink: impl FnMut(Event) + Send) {
        reconnect::run(self, token, sink).await;
    }

    /// When everything is to be listed again because something was left out that there may be room for by then.
    fn relist_at(&self) -> Option<Instant> {
        let is_cut = self.cut.is_some() || self.wanted.borrow().is_cut;
        self.listed_at.filter(|_| is_cut).map(|at| at + RELIST)
    }

    /// All changes of the revisions at once, but for those beyond the cut.
    fn deliver(&self, revisions: Vec<Revision>, sink: &mut (impl FnMut(Event) + Send)) {
        let Some(revision) = revisions.last().map(|last| last.revision) else { return };
        let is_followed =
            |change: &Change| self.cut.as_ref().is_none_or(|cut| Place::of(change.key()) <= *cut);
        let changes = revisions.into_iter().flat_map(|revision| revision.changes).map(Change::from);
        let changes: Vec<Change> = changes.filter(is_followed).collect();
        if !changes.is_empty() {
            sink(Event::Changed { revision, changes });
        }
    }
}

impl Follow for PeerWatch {
    type Event = Event;

    async fn follow(
        &mut self,
        attempts: &mut Attempts,
        sink: &mut (impl FnMut(Event) + Send),
    ) -> Result<Infallible, KvError> {
        let greeting = self.raw.connect().await?;
        sink(Event::Connected { endpoint: greeting.session.endpoint().clone() });
        let resumed = self.raw.resume(&greeting).await?;
        let session = greeting.session;
        if resumed.is_none() {
            self.list(&session, sink).await?;
        }
        let mut stream = self.raw.watch(&session).await?;
        if let Some(revision) = resumed {
            sink(Event::Resumed { revision });
        }
        attempts.succeeded();
        loop {
            let relist_at = self.relist_at();
            let wanted = self.wanted.borrow_and_update().services.clone();
            if wanted.len() > MAX_READS || relist_at.is_some_and(|at| at <= Instant::now()) {
                self.list(&session, sink).await?;
                stream = self.raw.watch(&session).await?;
                continue;
            }
            if !wanted.is_empty() {
                let read = self.read(&session, wanted, sink).await;
                read.map_err(|error| self.raw.lost(error))?;
            }
            tokio::select! {
                received = self.raw.receive(&session, &mut stream) => {
                    self.deliver(received?.revisions, sink);
                }
                Ok(()) = self.wanted.changed() => {}
                () = sleep_until(relist_at) => {}
            }
        }
    }

    fn disconnected(reason: KvError) -> Event {
        Event::Disconnected { reason }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
