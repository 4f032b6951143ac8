//! Follows all records in a peer's etcd: a list, then changes, over every kind of interruption ([`raw`](crate::raw)).
//!
//! Delivers whole revisions only. Lists in an order of its own and within a bound, reads single services where somebody
//! asks for them, and lists again where it left something out. Never interprets a record.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::name::{ClusterName, ServiceName};
use mesh_model::record::PREFIX;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dial::Dialer;
use crate::event::{Change, Event};
use crate::fault::{CallError, KvError};
use crate::list::{self, Place, Reading};
use crate::raw::{Greeting, RawWatch, Revision};
use crate::reconnect::{self, Attempts, Follow};
use crate::session::Session;

/// A reader that wants more services than this at once gets a list of everything.
const MAX_READS: usize = 64;
/// How often everything is listed while something is left out for want of room.
const RELIST: Duration = Duration::from_secs(300);

/// Follows one cluster's records.
pub struct PeerWatch {
    raw: RawWatch,
    /// Records of a list beyond which it is not read.
    max_records: u64,
    /// Where it was cut. What lies beyond is not followed either.
    cut: Option<Place>,
    cluster: ClusterName,
    listed_at: Option<Instant>,
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

    /// Dials by what is said here. What is known stays where another dialer takes a connection's place.
    pub fn with_dialers(self, dialers: watch::Receiver<Arc<Dialer>>) -> Self {
        Self { raw: self.raw.with_dialers(dialers), ..self }
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

    /// Lists everything, as far as it may be read.
    async fn list(
        &mut self,
        session: &Session,
        sink: &mut (impl FnMut(Event) + Send),
    ) -> Result<(), CallError> {
        sink(Event::ListBegin);
        self.cut = None;
        let records = self.max_records;
        let mut reading = Reading::of(records);
        let page = |page| {
            let entries = reading.take(page);
            if reading.cut().is_some() {
                sink(Event::ListCut { records });
            }
            if !entries.is_empty() {
                sink(Event::ListPage(entries));
            }
            if reading.cut().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let revision = self.raw.list(session, &list::ranges(), page).await?;
        self.cut = reading.cut().cloned();
        self.listed_at = Some(Instant::now());
        sink(Event::ListEnd { revision });
        Ok(())
    }

    /// Reads services at the revision that is known, so that the changes go on behind them.
    async fn read(
        &mut self,
        session: &Session,
        services: BTreeSet<ServiceName>,
        sink: &mut (impl FnMut(Event) + Send),
    ) -> Result<(), CallError> {
        let (mut entries, mut left) = (Vec::new(), self.max_records);
        for service in &services {
            for part in ["services", "endpoints"] {
                let key = format!("{PREFIX}{part}/{}/{service}", self.cluster);
                let end = if part == "services" { format!("{key}\0") } else { format!("{key}0") };
                let from = if part == "services" { key } else { format!("{key}/") };
                let mut pages = session.list_range("reading a service", &from, &end).at(self.raw.revision());
                while let Some(page) = pages.next().await? {
                    let count = page.entries.len() as u64;
                    if count > left {
                        break;
                    }
                    left -= count;
                    entries.extend(page.entries);
                }
            }
        }
        sink(Event::Read { services, entries });
        Ok(())
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
        let superseded = greeting.session.superseded(self.raw.dialers());
        tokio::select! {
            biased;
            superseded = superseded => {
                // It is the next attempt that waits a moment, as after every loss: many may have to connect anew at once.
                self.raw.take_dialer();
                Err(superseded.into())
            }
            ended = self.go_on(greeting, attempts, sink) => ended,
        }
    }

    async fn renewed(&mut self) {
        if self.raw.dialers().changed().await.is_err() {
            std::future::pending().await
        }
    }

    fn disconnected(reason: KvError) -> Event {
        Event::Disconnected { reason }
    }
}

impl PeerWatch {
    /// Lists or resumes, and then delivers what changes.
    async fn go_on(
        &mut self,
        greeting: Greeting,
        attempts: &mut Attempts,
        sink: &mut (impl FnMut(Event) + Send),
    ) -> Result<Infallible, KvError> {
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
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
