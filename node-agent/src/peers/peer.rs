//! One peer's task: follows its etcd and publishes what may be believed of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use mesh_kv::{Dialer, Event, KvError, PeerWatch, Superseded, Wanted};
use mesh_model::address_policy::OwnRanges;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::view::{Interest, PeerPin, PeerSnapshot, PeerView, Quota};
use mesh_peers::PeerFile;
use mesh_runtime::clock::unix_seconds;
use mesh_source::ranges::Known;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use super::folder::Board;
use super::{Link, Phase};

/// So few are read in less time than it takes to hand a thread over.
const FEW_RECORDS: usize = 100;
/// The own source mostly says what it knows as soon as it is asked.
const SOURCE_PATIENCE: Duration = Duration::from_secs(2);

/// Follows one peer until the token is cancelled.
pub(super) struct PeerTask {
    file: Arc<PeerFile>,
    view: PeerView,
    own_ranges: Known,
    asked: Asked,
    link: Link,
    board: Board,
    /// As last published.
    shown: Arc<PeerSnapshot>,
    wanted: watch::Sender<Wanted>,
}

/// The services that are asked of a peer, and how much.
#[derive(Clone)]
pub(super) struct Asked {
    /// The own cluster's snapshot; without it everything is asked for.
    pub(super) local: Option<watch::Receiver<Option<Arc<ClusterSnapshot>>>>,
    pub(super) quota: watch::Receiver<Quota>,
    pub(super) max_records: u64,
}

impl Asked {
    fn interest(&mut self) -> Interest {
        let Some(local) = &mut self.local else { return Interest::Everything };
        let services = local.borrow_and_update().as_ref().map(|local| local.services.clone());
        services.map_or(Interest::Unknown, Interest::Services)
    }

    /// Waits a little for the own source, so that what it asks for need not be read one by one.
    async fn wait(&mut self) {
        if let Some(local) = &mut self.local {
            drop(tokio::time::timeout(SOURCE_PATIENCE, local.wait_for(Option::is_some)).await);
        }
    }

    async fn changed(&mut self) {
        let local = async {
            let Some(local) = &mut self.local else { return std::future::pending().await };
            if local.changed().await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = local => {}
            Ok(()) = self.quota.changed() => {}
            else => std::future::pending().await,
        }
    }
}

/// A peer's file, and the dialer by it.
#[derive(Clone)]
pub(super) struct Followed {
    pub(super) file: Arc<PeerFile>,
    pub(super) dialer: Arc<Dialer>,
}

impl PeerTask {
    pub(super) fn new(
        file: Arc<PeerFile>,
        pin: PeerPin,
        (own_ranges, mut asked): (Known, Asked),
        board: Board,
    ) -> Self {
        let quota = *asked.quota.borrow_and_update();
        let mut view = PeerView::bounded(pin, asked.interest(), quota);
        let (shown, wanted) = (view.snapshot(), watch::Sender::default());
        Self { file, shown, view, own_ranges, asked, link: Link::default(), board, wanted }
    }

    /// Follows the peer by its file, which may change. Known records stay, as far as file and own ranges allow it now,
    /// whether the peer can be reached or not.
    pub(super) async fn run(self, mut followed: watch::Receiver<Followed>, token: CancellationToken) {
        let (mut own_ranges, mut asked) = (self.own_ranges.clone(), self.asked.clone());
        let (name, wanted) = (self.file.name.clone(), self.wanted.subscribe());
        tokio::select! {
            () = token.cancelled() => return,
            () = asked.wait() => {}
        }
        let dialer = followed.borrow().dialer.clone();
        let (dials, dialers) = watch::channel(Arc::clone(&dialer));
        let task = Mutex::new(self);
        locked(&task).ask(&mut asked);
        let watching = PeerWatch::new(dialer, &name)
            .with_dialers(dialers)
            .with_max_records(asked.max_records)
            .with_wanted(wanted)
            .run(token.clone(), |event| locked(&task).take(event));
        let judging = async {
            loop {
                tokio::select! {
                    Ok(()) = own_ranges.changed() => {
                        let own = own_ranges.borrow_and_update().clone();
                        locked(&task).judge_by_own(own.as_deref());
                    }
                    Ok(()) = followed.changed() => {
                        let Followed { file, dialer } = followed.borrow_and_update().clone();
                        // The watch judges its connection by the new dialer.
                        if locked(&task).judge_by(file) {
                            dials.send_replace(dialer);
                        }
                    }
                    () = asked.changed() => locked(&task).ask(&mut asked),
                    else => return token.cancelled().await,
                }
            }
        };
        tokio::select! {
            () = watching => {}
            () = judging => {}
        }
    }

    /// Nothing is published where the own cluster asks for the same as before: its endpoints are none of a peer's business.
    fn ask(&mut self, asked: &mut Asked) {
        let Quota { backends, slots, .. } = *asked.quota.borrow_and_update();
        let others = self.view.set_interest(asked.interest());
        if self.view.set_share(backends, slots) || others {
            self.publish();
        }
    }

    fn judge_by_own(&mut self, own: Option<&OwnRanges>) {
        if let Some(own) = own {
            self.view.set_own_ranges(own.clone());
            self.publish();
        }
    }

    /// Says whether the peer is dialled otherwise from now on.
    fn judge_by(&mut self, file: Arc<PeerFile>) -> bool {
        let redial = file.endpoints != self.file.endpoints || file.trust != self.file.trust;
        self.view.set_agreed(&file.ranges);
        self.file = file;
        self.publish();
        redial
    }

    fn take(&mut self, event: Event) {
        feed(&event, &mut self.view);
        match event {
            Event::Connected { endpoint } => {
                self.link =
                    Link { phase: Phase::Listing, endpoint: Some(endpoint.to_string()), ..self.link.clone() };
                self.link.reason = None;
            }
            // Nothing of a list counts before its end.
            Event::ListBegin | Event::ListPage(_) | Event::ListCut { .. } => return,
            Event::Read { .. } => {}
            Event::ListEnd { revision } | Event::Resumed { revision } => {
                self.link.phase = Phase::Following;
                self.link.revision = Some(revision);
                self.link.stale_since = None;
            }
            Event::Changed { revision, .. } => self.link.revision = Some(revision),
            Event::Disconnected { reason: KvError::Superseded(reason @ Superseded::Endpoint { .. }) } => {
                tracing::info!(peer = %self.file.name, %reason, "connecting to the peer anew");
                self.lose(Phase::Connecting, None);
            }
            Event::Disconnected { reason } => {
                let reason = mesh_failure::chain(&reason);
                tracing::warn!(peer = %self.file.name, reason, "connection to the peer lost; what is known stays");
                self.board.metrics.disconnected(&self.file.name);
                self.lose(Phase::Lost, Some(reason));
            }
        }
        self.publish();
    }

    fn lose(&mut self, phase: Phase, reason: Option<String>) {
        let now = (self.link.phase == Phase::Following).then(|| unix_seconds(SystemTime::now()));
        let stale_since = self.link.stale_since.or(now);
        self.link = Link { phase, reason, stale_since, endpoint: None, revision: self.link.revision };
    }

    fn publish(&mut self) {
        let snapshot = self.view.snapshot();
        self.log_rejections(&snapshot);
        self.log_cuts(&snapshot);
        let wanted = Wanted { services: self.view.unread().clone(), is_cut: self.view.is_cut() };
        self.wanted.send_if_modified(|known| {
            *known != wanted && {
                *known = wanted;
                true
            }
        });
        self.shown = snapshot.clone();
        let phase = match self.link.phase {
            Phase::Following if !snapshot.synced => Phase::Waiting,
            phase => phase,
        };
        self.board.show(&self.file, |status| {
            status.learn(snapshot);
            status.link = Link { phase, ..self.link.clone() };
        });
    }

    /// Once when the peer begins to have too much of something, and when it ends.
    fn log_cuts(&self, snapshot: &PeerSnapshot) {
        let has = |snapshot: &PeerSnapshot, excess| snapshot.cuts.iter().any(|cut| cut.excess == excess);
        for cut in snapshot.cuts.iter().filter(|cut| !has(&self.shown, cut.excess)) {
            tracing::warn!(peer = %self.file.name, quota = cut.excess.as_str(), reason = %cut, "the peer is cut at its quota");
        }
        for cut in self.shown.cuts.iter().filter(|cut| !has(snapshot, cut.excess)) {
            let quota = cut.excess.as_str();
            tracing::info!(peer = %self.file.name, quota, "the peer is within its quota again");
        }
    }

    /// Each rejection that was not there before, once.
    fn log_rejections(&self, snapshot: &PeerSnapshot) {
        if snapshot.rejected == self.shown.rejected {
            return;
        }
        let known = &self.shown.recent_rejections;
        for rejection in snapshot.recent_rejections.iter().filter(|text| !known.contains(text)) {
            tracing::warn!(peer = %self.file.name, %rejection, "refused what the peer says");
        }
    }
}

/// Many records take their time, in which the tasks of other peers must not wait for this one's thread.
fn feed(event: &Event, view: &mut PeerView) {
    let is_shared =
        Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() != RuntimeFlavor::CurrentThread);
    if is_shared && event.records() > FEW_RECORDS {
        block_in_place(|| event.feed(view));
    } else {
        event.feed(view);
    }
}

fn locked(task: &Mutex<PeerTask>) -> MutexGuard<'_, PeerTask> {
    // Every change is complete before anything that could panic.
    task.lock().unwrap_or_else(PoisonError::into_inner)
}
