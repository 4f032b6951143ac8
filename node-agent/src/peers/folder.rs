//! Follows the folder of peer files and keeps one task running per peer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_admin::api::{Event, PeerState, unix_us};
use mesh_kv::Credentials;
use mesh_model::address_policy::{AddressPolicy, OwnRanges};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::view::{PeerPin, PeerSnapshot, Quota};
use mesh_peers::folder::{self, Now, Peer, Peers, Remembered};
use mesh_peers::{FolderWatch, PeerFile};
use mesh_runtime::clock::rfc3339;
use mesh_runtime::{Supervisor, SupervisorError, Task};
use mesh_source::ranges::Known;
use tokio::sync::watch;

use super::metrics::Metrics;
use super::peer::{Asked, Followed, PeerTask};
use super::{Link, PeerSet, PeerStatus};
use crate::admin::events::Events;
use crate::datapath::actual::Capacity;
use crate::quota::QuotaArgs;

/// A peer's task ends within this time.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Everything that all peers share.
#[derive(Clone, Debug)]
pub struct FolderConfig {
    pub folder: PathBuf,
    pub own_name: ClusterName,
    pub own_id: ClusterId,
    /// The own identity, which no peer may claim. No peer is followed before it is known.
    pub own_ranges: Known,
    /// Our identity towards all peers.
    pub identity: Option<Credentials>,
    /// The own cluster's snapshot: only services that it names are kept of a peer. Without it everything is.
    pub local: Option<watch::Receiver<Option<Arc<ClusterSnapshot>>>>,
    pub quotas: QuotaArgs,
    /// Of the maps that the peers share.
    pub capacity: Capacity,
    /// The memory of an earlier agent.
    pub remembered: Remembered,
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
    tasks: BTreeMap<ClusterName, (watch::Sender<Followed>, Task)>,
    supervisor: Supervisor,
    known: watch::Sender<Option<Remembered>>,
    /// The share of each peer, by the number of their files.
    quota: watch::Sender<Quota>,
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
        let peers = Peers::remembering(&config.remembered, &config.own_name, config.own_id);
        let (tasks, known) = (BTreeMap::new(), watch::Sender::default());
        let quota = watch::Sender::new(config.quotas.of_view(config.capacity, 1));
        (Self { config, board, peers, tasks, supervisor, known, quota }, receiver)
    }

    /// The memory that shall outlive this process; `None` until the folder has been looked at.
    pub fn known(&self) -> watch::Receiver<Option<Remembered>> {
        self.known.subscribe()
    }

    /// Runs until the supervisor's token is cancelled.
    pub async fn run(mut self) -> Result<(), SupervisorError> {
        let token = self.supervisor.token();
        let mut own_ranges = self.config.own_ranges.clone();
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            Ok(_) = own_ranges.wait_for(Option::is_some) => {}
        }
        let mut watch = FolderWatch::new(&self.config.folder);
        loop {
            watch.renew();
            let again = self.read();
            tokio::select! {
                () = token.cancelled() => return self.supervisor.stop(STOP_DEADLINE).await,
                failure = self.supervisor.failure() => return Err(failure),
                () = watch.changed(again) => {}
                // Policies are made of them.
                Ok(()) = own_ranges.changed() => {}
            }
        }
    }

    /// Reads the folder and starts, stops and restarts tasks accordingly.
    fn read(&mut self) -> Option<Duration> {
        let FolderConfig { folder, own_name, own_id, .. } = &self.config;
        let reading = folder::read(folder, own_name, *own_id);
        let change = self.peers.update(reading, Now::read());
        self.share();
        self.log_problem(change.is_otherwise_incomplete);
        self.remember();
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

    fn remember(&self) {
        let known = Some(self.peers.known());
        self.known.send_if_modified(|before| {
            let other = *before != known;
            *before = known;
            other
        });
    }

    /// While the folder can't be read, the number of peers is what it was.
    fn share(&self) {
        if let Some(claimed) = self.peers.claimed_ids() {
            let quota = self.config.quotas.of_view(self.config.capacity, claimed.len());
            self.quota.send_if_modified(|known| std::mem::replace(known, quota) != quota);
        }
    }

    fn log_problem(&self, is_other: bool) {
        if self.peers.problem().is_some() {
            self.board.metrics.folder_failed();
        }
        match self.peers.incomplete() {
            _ if !is_other => {}
            Some((reason, _)) => tracing::warn!(reason, "peers folder is incomplete; no peer is drained"),
            None => tracing::info!("peers folder is complete"),
        }
    }

    fn restart(&mut self, name: &ClusterName) {
        let Some(peer) = self.peers.peers().get(name) else { return };
        if let Some(error) = &peer.error {
            let error = mesh_failure::chain(error);
            match peer.kept_since.map(rfc3339) {
                Some(since) => {
                    tracing::warn!(peer = %name, error, since, "peer file refused; what it said before stays");
                }
                None => tracing::warn!(peer = %name, error, "peer file refused"),
            }
        }
        let Some(file) = peer.file.clone() else { return };
        if self.tasks.get(name).is_some_and(|(followed, _)| Arc::ptr_eq(&followed.borrow().file, &file)) {
            return;
        }
        let dialer = match file.dialer(self.config.identity.as_ref()) {
            Ok(dialer) => Arc::new(dialer),
            Err(error) => {
                tracing::warn!(peer = %name, error = mesh_failure::chain(&error), "peer file refused");
                return;
            }
        };
        if let Some((followed, _)) = self.tasks.get(name)
            && followed.borrow().file.is_same_peer(&file)
        {
            tracing::info!(peer = %name, "the peer's file has changed: what is known is judged by it");
            followed.send_replace(Followed { file, dialer });
            return;
        }
        tracing::info!(peer = %name, id = %file.id, "following the peer");
        let mut own_ranges = self.config.own_ranges.clone();
        let own = own_ranges.borrow_and_update().as_deref().map_or_else(OwnRanges::default, OwnRanges::clone);
        let policy = AddressPolicy::new(file.ranges.clone(), own);
        let pin = PeerPin { name: name.clone(), id: file.id, policy };
        let asked = Asked {
            local: self.config.local.clone(),
            quota: self.quota.subscribe(),
            max_records: self.config.quotas.max_peer_records,
        };
        let task = PeerTask::new(file.clone(), pin, (own_ranges, asked), self.board.clone());
        let (sender, followed) = watch::channel(Followed { file, dialer });
        let task = self.supervisor.spawn_stoppable(name.as_str(), |token| task.run(followed, token));
        if let Some((_, before)) = self.tasks.insert(name.clone(), (sender, task)) {
            before.stop();
        }
    }

    /// Brings the published set up to date with the folder; what the tasks said of their peers stays.
    fn publish(&self) {
        let misnamed = self.peers.misnamed().iter().map(|error| (error.file.clone(), error.to_string()));
        let misnamed: Vec<_> = misnamed.collect();
        let claimed = self.peers.claimed_ids();
        let shown = |(reason, since)| format!("{reason} (since {}; no peer is drained)", rfc3339(since));
        let problem = self.peers.incomplete().map(shown);
        let own = self.config.own_ranges.borrow().clone().unwrap_or_default();
        self.board.set.send_if_modified(|set| {
            let peers: BTreeMap<_, _> = (self.peers.peers().iter())
                .map(|(name, peer)| (name.clone(), status(set.peers.get(name), peer, &own)))
                .collect();
            let same = |(name, status): (&ClusterName, &PeerStatus)| {
                set.peers.get(name).is_some_and(|old| is_same_status(old, status))
            };
            let unchanged = set.peers.len() == peers.len()
                && peers.iter().all(same)
                && set.claimed == claimed
                && set.misnamed == misnamed
                && set.problem == problem;
            if !unchanged {
                for (name, status) in &peers {
                    let before = set.peers.get(name).map(|before| before.state().0);
                    self.board.announce(name, before, status);
                }
                let (claimed, misnamed) = (claimed.clone(), misnamed.clone());
                *set = Arc::new(PeerSet { claimed, peers, misnamed, problem: problem.clone() });
            }
            !unchanged
        });
    }
}

/// Whether a folder says the same of a peer, whatever its task has found since.
fn is_same_status(old: &PeerStatus, new: &PeerStatus) -> bool {
    old.file == new.file && old.file_error == new.file_error && old.policy == new.policy
}

fn is_trusted_still(before: &PeerStatus, peer: &Peer) -> bool {
    match (&before.file, &peer.file) {
        (Some(before), Some(after)) => before.shares_trust(after),
        _ => true,
    }
}

pub(crate) fn status(before: Option<&PeerStatus>, peer: &Peer, own: &OwnRanges) -> PeerStatus {
    let file_error = peer.error.as_ref().map(|error| {
        let stays = |since| format!("; what it said before {} stays", rfc3339(since));
        mesh_failure::chain(error) + &peer.kept_since.map(stays).unwrap_or_default()
    });
    let refused_id = peer.error.as_ref().and_then(|error| error.id);
    let same_pin = |before: &&PeerStatus| {
        let id = |file: &Option<Arc<PeerFile>>| file.as_ref().map(|file| file.id);
        id(&before.file) == id(&peer.file)
    };
    let (link, snapshot) = match before.filter(same_pin) {
        Some(before) if is_trusted_still(before, peer) => (before.link.clone(), before.snapshot.clone()),
        // Nothing of it counts any more, nor does what the maps hold.
        Some(before) => {
            (Link::default(), Arc::new(PeerSnapshot { synced: before.snapshot.synced, ..Default::default() }))
        }
        None => (Link::default(), Arc::default()),
    };
    let policy = peer.file.as_ref().map(|file| file.policy(own.clone()));
    PeerStatus {
        file: peer.file.clone(),
        file_error,
        kept_since: peer.kept_since,
        refused_id,
        policy,
        link,
        snapshot,
    }
}
