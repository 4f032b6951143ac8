//! The peers of this cluster, as their files say: followed in their folder, and remembered for the next process.
//!
//! Never connects to a peer, and never judges who may connect: the mesh API does, by what is published here.

mod args;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::name::{ClusterId, ClusterName};
use mesh_peers::FolderWatch;
use mesh_peers::folder::{self, Now, Peer, Peers, Remembered};
use mesh_runtime::StateFile;
use mesh_runtime::clock::rfc3339;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use args::{MIRRORED, PeersArgs};
pub(crate) use metrics::PeerMetrics;

/// Where the peers' files are, and who may not be among them.
#[derive(Clone, Debug)]
pub(crate) struct PeersConfig {
    pub(crate) folder: PathBuf,
    pub(crate) own_name: ClusterName,
    pub(crate) own_id: ClusterId,
    /// What is remembered for the next process.
    pub(crate) memory: StateFile,
}

/// All peers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) peers: BTreeMap<ClusterName, Peer>,
    /// Why the folder could not be read completely, and since when.
    pub(crate) problem: Option<String>,
}

/// The `trust` of each peer's file.
pub(crate) type Trusted = BTreeMap<ClusterName, Arc<str>>;

impl Known {
    /// Whom the peers' processes are known by.
    pub(crate) fn trusted(&self) -> Trusted {
        let trust =
            |(name, peer): (&ClusterName, &Peer)| Some((name.clone(), peer.file.as_ref()?.trust.clone()?));
        self.peers.iter().filter_map(trust).collect()
    }

    /// What counts although folder or files can't be read as they are now, one line each.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let refused = self.peers.values().filter_map(|peer| {
            let error = mesh_failure::chain(peer.error.as_ref()?);
            Some(peer.kept_since.map_or_else(
                || error.clone(),
                |since| format!("{error}; what it said before {} stays", rfc3339(since)),
            ))
        });
        self.problem.iter().cloned().chain(refused).collect()
    }
}

/// Follows the folder.
pub(crate) struct PeerFiles {
    config: PeersConfig,
    peers: Peers,
    metrics: PeerMetrics,
    known: watch::Sender<Arc<Known>>,
    remembered: watch::Sender<Option<Remembered>>,
    read_again_after: Option<Duration>,
}

impl PeerFiles {
    /// Begins with what a process before this one knew, and reads the folder for the first time.
    pub(crate) fn start(config: PeersConfig, metrics: PeerMetrics) -> Self {
        let remembered: Remembered = load(&config.memory);
        let peers = Peers::remembering(&remembered, &config.own_name, config.own_id);
        let (known, remembered) = (watch::Sender::default(), watch::Sender::default());
        let mut files = Self { config, peers, metrics, known, remembered, read_again_after: None };
        files.read();
        files
    }

    pub(crate) fn known(&self) -> watch::Receiver<Arc<Known>> {
        self.known.subscribe()
    }

    /// Writes down what the next process shall begin with, until the token is cancelled.
    pub(crate) fn remember(&self, token: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let (memory, failed) = (self.config.memory.clone(), self.metrics.memory_failed.clone());
        memory.keep(self.remembered.subscribe(), failed, token)
    }

    /// Follows the folder until the token is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut watch = FolderWatch::new(&self.config.folder);
        loop {
            watch.renew();
            self.read();
            tokio::select! {
                () = token.cancelled() => return,
                () = watch.changed(self.read_again_after) => {}
            }
        }
    }

    fn read(&mut self) {
        let PeersConfig { folder, own_name, own_id, .. } = &self.config;
        let change = self.peers.update(folder::read(folder, own_name, *own_id), Now::read());
        for name in &change.removed {
            tracing::info!(peer = %name, "peer file removed");
            self.metrics.forget(name);
        }
        for name in &change.changed {
            self.log(name);
        }
        self.log_problem(change.is_otherwise_incomplete);
        self.publish();
        self.read_again_after = change.read_again_after;
    }

    fn log(&self, name: &ClusterName) {
        let Some(peer) = self.peers.peers().get(name) else { return };
        self.metrics.show(name, peer.kept_since);
        match (peer.error.as_ref().map(|error| mesh_failure::chain(error)), peer.kept_since.map(rfc3339)) {
            (None, _) => tracing::info!(peer = %name, "peer file read"),
            (Some(error), Some(since)) => {
                tracing::warn!(peer = %name, error, since, "peer file refused; what it said before stays");
            }
            (Some(error), None) => tracing::warn!(peer = %name, error, "peer file refused"),
        }
    }

    fn log_problem(&self, is_other: bool) {
        if self.peers.problem().is_some() {
            self.metrics.folder_failed();
        }
        match self.peers.incomplete() {
            _ if !is_other => {}
            Some((reason, _)) => tracing::warn!(reason, "peers folder is incomplete; no peer is shut out"),
            None => tracing::info!("peers folder is complete"),
        }
    }

    fn publish(&self) {
        let shown = |(reason, since)| format!("{reason} (since {}; no peer is shut out)", rfc3339(since));
        let known = Known { peers: self.peers.peers().clone(), problem: self.peers.incomplete().map(shown) };
        self.known.send_if_modified(|before| {
            let other = **before != known;
            if other {
                *before = Arc::new(known);
            }
            other
        });
        let remembered = Some(self.peers.known());
        self.remembered.send_if_modified(|before| {
            let other = *before != remembered;
            *before = remembered;
            other
        });
    }
}

/// What can't be read is ignorance: then only the files tell who is a peer.
fn load(memory: &StateFile) -> Remembered {
    let remembered: Option<Remembered> = memory.load().unwrap_or_else(|error| {
        let error = mesh_failure::chain(&error);
        tracing::warn!(
            error,
            "nothing is remembered of the peer files; one that is broken now is let in by nothing"
        );
        None
    });
    let remembered = remembered.unwrap_or_default();
    if !remembered.is_empty() {
        tracing::info!(peers = remembered.len(), "the peer files of an earlier process are remembered");
    }
    remembered
}
