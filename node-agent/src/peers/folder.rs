//! Follows the folder of peer files and keeps one task running per peer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mesh_kv::PeerFile;
use mesh_kv::peer_folder::{self, Peer, Peers};
use mesh_model::fence::{Fence, OwnRanges};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::view::PeerPin;
use mesh_runtime::ranges::Known;
use mesh_runtime::supervisor::{Supervisor, SupervisorError, Task};
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};

use super::metrics::Metrics;
use super::peer::PeerTask;
use super::{Link, PeerSet, PeerStatus};
use crate::admin::api::{Event, PeerState, unix_us};
use crate::admin::events::Events;

/// Folders that inotify does not report on, or that were replaced, are read this often.
const POLL: Duration = Duration::from_secs(2);
/// A peer's task ends within this time.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// What all peers share.
#[derive(Clone, Debug)]
pub struct FolderConfig {
    pub folder: PathBuf,
    pub own_name: ClusterName,
    pub own_id: ClusterId,
    /// What no peer may claim. No peer is followed before it is known.
    pub own_ranges: Known,
    /// A folder with `tls.crt` and `tls.key`: our identity towards all peers.
    pub identity: Option<PathBuf>,
}

/// Where the peers' tasks show what they know.
#[derive(Clone)]
pub(super) struct Board {
    set: watch::Sender<Arc<PeerSet>>,
    events: Events,
    pub(super) metrics: Metrics,
}

impl Board {
    /// Changes the status of the peer of a file, if that file is still there as it was: a task that was told to
    /// stop may have a last word.
    pub(super) fn show(&self, file: &Arc<PeerFile>, change: impl FnOnce(&mut PeerStatus)) {
        let current = |status: &PeerStatus| status.file.as_ref().is_some_and(|now| Arc::ptr_eq(now, file));
        self.set.send_if_modified(|set| {
            if !set.peers.get(&file.name).is_some_and(current) {
                return false;
            }
            let Some(status) = Arc::make_mut(set).peers.get_mut(&file.name) else { return false };
            let (before, _) = status.state();
            change(status);
            self.announce(&file.name, Some(before), status);
            true
        });
    }

    /// Shows a status in the metrics, and in log and events if the state is another than before.
    fn announce(&self, name: &ClusterName, before: Option<PeerState>, status: &PeerStatus) {
        self.metrics.show(name, status);
        let (state, reason) = status.state();
        if before != Some(state) {
            tracing::info!(peer = %name, %state, reason, "peer changed its state");
            let at_unix_us = unix_us(SystemTime::now());
            self.events.publish(Event::PeerState { at_unix_us, peer: name.to_string(), state, reason });
        }
    }
}

/// Runs the peers' tasks.
pub struct PeerFolder {
    config: FolderConfig,
    board: Board,
    peers: Peers,
    tasks: BTreeMap<ClusterName, (Arc<PeerFile>, Task)>,
    supervisor: Supervisor,
    /// The last problem logged.
    problem: Option<String>,
}

impl PeerFolder {
    /// The folder's follower, and where it publishes.
    pub fn new(
        config: FolderConfig,
        supervisor: Supervisor,
        events: Events,
        metrics: Metrics,
    ) -> (Self, watch::Receiver<Arc<PeerSet>>) {
        let (set, receiver) = watch::channel(Arc::default());
        let board = Board { set, events, metrics };
        let (peers, tasks) = (Peers::default(), BTreeMap::new());
        (Self { config, board, peers, tasks, supervisor, problem: None }, receiver)
    }

    /// Runs until the supervisor's token is cancelled.
    pub async fn run(mut self) -> Result<(), SupervisorError> {
        let token = self.supervisor.token();
        let mut own_ranges = self.config.own_ranges.clone();
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            Ok(_) = own_ranges.wait_for(Option::is_some) => {}
        }
        let changed = Arc::new(Notify::new());
        let mut watcher = None;
        loop {
            // A watch ends with the folder it was set on; setting it anew costs nothing.
            watcher = self.watch(&changed).or(watcher);
            let again = self.read();
            tokio::select! {
                () = token.cancelled() => return self.supervisor.stop(STOP_DEADLINE).await,
                failure = self.supervisor.failure() => return Err(failure),
                () = changed.notified() => {}
                () = tokio::time::sleep(again.unwrap_or(POLL).min(POLL)) => {}
            }
        }
    }

    /// Best effort: what it misses, polling finds.
    fn watch(&self, changed: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
        let changed = changed.clone();
        // Reading the files makes events of its own.
        let matters = |kind: EventKind| {
            !kind.is_access() || kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| matters(event.kind)) {
                changed.notify_one();
            }
        })
        .ok()?;
        watcher.watch(&self.config.folder, RecursiveMode::NonRecursive).ok()?;
        Some(watcher)
    }

    /// Reads the folder and starts, stops and restarts tasks accordingly.
    fn read(&mut self) -> Option<Duration> {
        let FolderConfig { folder, own_name, own_id, .. } = &self.config;
        let reading = peer_folder::read(folder, own_name, *own_id);
        let change = self.peers.update(reading, Instant::now());
        self.log_problem();
        for name in &change.removed {
            tracing::info!(peer = %name, "peer file removed: its backends are drained");
            if let Some((_, task)) = self.tasks.remove(name) {
                task.stop();
            }
        }
        // The tasks show what they find in what is published here.
        self.publish();
        // From here on no task shows these peers again.
        change.removed.iter().for_each(|name| self.board.metrics.forget(name));
        for name in &change.changed {
            self.restart(name);
        }
        change.read_again_after
    }

    fn log_problem(&mut self) {
        let problems = self.peers.misnamed().iter().map(ToString::to_string);
        let folder = self.peers.problem().map(ToString::to_string);
        if folder.is_some() {
            self.board.metrics.folder_failed();
        }
        let problem: Vec<_> = folder.into_iter().chain(problems).collect();
        let problem = (!problem.is_empty()).then(|| problem.join("; "));
        if problem != self.problem {
            match &problem {
                Some(reason) => tracing::warn!(reason, "peers folder is incomplete; no peer is drained"),
                None => tracing::info!("peers folder is complete"),
            }
            self.problem = problem;
        }
    }

    fn restart(&mut self, name: &ClusterName) {
        let Some(peer) = self.peers.peers().get(name) else { return };
        if let Some(error) = &peer.error {
            tracing::warn!(peer = %name, error = mesh_kv::fault::chain(error), "peer file refused");
        }
        let Some(file) = peer.file.clone() else { return };
        if self.tasks.get(name).is_some_and(|(running, _)| Arc::ptr_eq(running, &file)) {
            return;
        }
        let dialer = match file.dialer(self.config.identity.as_deref()) {
            Ok(dialer) => Arc::new(dialer),
            Err(error) => {
                tracing::warn!(peer = %name, error = mesh_kv::fault::chain(&error), "peer file refused");
                return;
            }
        };
        tracing::info!(peer = %name, id = %file.id, "following the peer");
        let mut own_ranges = self.config.own_ranges.clone();
        let own = own_ranges.borrow_and_update().as_deref().map_or_else(OwnRanges::default, OwnRanges::clone);
        let fence = Fence::new(file.ranges.clone(), own);
        let pin = PeerPin { name: name.clone(), id: file.id, fence };
        let task = PeerTask::new(file.clone(), pin, own_ranges, self.board.clone());
        let task = self.supervisor.spawn_stoppable(name.as_str(), |token| task.run(dialer, token));
        if let Some((_, before)) = self.tasks.insert(name.clone(), (file, task)) {
            before.stop();
        }
    }

    /// Brings the published set up to date with the folder; what the tasks said of their peers stays.
    fn publish(&self) {
        let misnamed = self.peers.misnamed().iter().map(|error| (error.file.clone(), error.to_string()));
        let misnamed: Vec<_> = misnamed.collect();
        let claimed = self.peers.claimed_ids();
        self.board.set.send_if_modified(|set| {
            let peers: BTreeMap<_, _> = (self.peers.peers().iter())
                .map(|(name, peer)| (name.clone(), status(set.peers.get(name), peer)))
                .collect();
            let same = |(name, status): (&ClusterName, &PeerStatus)| {
                set.peers
                    .get(name)
                    .is_some_and(|old| old.file == status.file && old.file_error == status.file_error)
            };
            let unchanged = set.peers.len() == peers.len()
                && peers.iter().all(same)
                && set.claimed == claimed
                && set.misnamed == misnamed;
            if !unchanged {
                for (name, status) in &peers {
                    let before = set.peers.get(name).map(|before| before.state().0);
                    self.board.announce(name, before, status);
                }
                *set = Arc::new(PeerSet { claimed: claimed.clone(), peers, misnamed: misnamed.clone() });
            }
            !unchanged
        });
    }
}

pub(crate) fn status(before: Option<&PeerStatus>, peer: &Peer) -> PeerStatus {
    let file_error = peer.error.as_ref().map(|error| mesh_kv::fault::chain(error));
    let refused_id = peer.error.as_ref().and_then(|error| error.id);
    let same_pin = |before: &&PeerStatus| {
        let id = |file: &Option<Arc<PeerFile>>| file.as_ref().map(|file| file.id);
        id(&before.file) == id(&peer.file)
    };
    let (link, snapshot) = match before.filter(same_pin) {
        Some(before) => (before.link.clone(), before.snapshot.clone()),
        None => (Link::default(), Arc::default()),
    };
    PeerStatus { file: peer.file.clone(), file_error, refused_id, link, snapshot }
}
