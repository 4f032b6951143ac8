//! An exporter whose source is a folder of manifests.

use std::path::Path;
use std::sync::Arc;

use mesh_kv::testing::Etcd;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_source::testing::folder;
use mesh_source::{Manifests, SourceMetrics, Status};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Running;

/// A Service and its slice, of one endpoint.
pub fn app(name: &str, host: u8) -> String {
    folder::app(name, &format!("10.102.0.{host}"), &format!("10.2.0.{host}"))
}

/// An exporter with a source of its own.
pub struct Process {
    pub exporter: Running,
    pub snapshots: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    pub status: watch::Receiver<Arc<Status>>,
    source: CancellationToken,
}

impl Process {
    pub fn start(etcd: &Etcd, folder: &Path) -> Self {
        let source = Manifests::new(folder, SourceMetrics::unregistered());
        let (snapshots, status) = (source.snapshots(), source.status());
        let exporter = Running::start_with(etcd, &source);
        let token = CancellationToken::new();
        tokio::spawn(source.run(token.clone()));
        Self { exporter, snapshots, status, source: token }
    }

    pub async fn stop(self) {
        self.source.cancel();
        self.exporter.stop().await;
    }

    /// Ends it as a crash would.
    pub async fn crash(self) {
        self.source.cancel();
        self.exporter.crash().await;
    }
}
