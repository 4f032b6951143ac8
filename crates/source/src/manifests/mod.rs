//! Follows a folder of manifests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_model::snapshot::ClusterSnapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::SourceMetrics;
use crate::status::Status;

/// Follows a folder of Kubernetes manifests and publishes what they add up to.
#[derive(Debug)]
pub struct Manifests {
    _folder: PathBuf,
    snapshots: watch::Sender<Option<Arc<ClusterSnapshot>>>,
    status: watch::Sender<Arc<Status>>,
    _metrics: SourceMetrics,
}

impl Manifests {
    pub fn new(folder: &Path, metrics: SourceMetrics) -> Self {
        Self {
            _folder: folder.into(),
            snapshots: watch::Sender::default(),
            status: watch::Sender::default(),
            _metrics: metrics,
        }
    }

    /// What the manifests add up to; `None` until the folder has been read once, completely.
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<ClusterSnapshot>>> {
        self.snapshots.subscribe()
    }

    /// What is wrong in the folder.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Follows the folder until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        token.cancelled().await;
    }
}
