//! What is counted of peer files.

use mesh_model::name::ClusterName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    peer: String,
}

impl PeerLabel {
    fn of(peer: &ClusterName) -> Self {
        Self { peer: peer.to_string() }
    }
}

/// Metrics of the peer files. Clones share their values.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerMetrics {
    folder_failures: Counter,
    kept_since: Family<PeerLabel, Gauge>,
    pub(super) memory_failed: Gauge,
}

impl PeerMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "peer_folder_failures",
            "Readings of the peers folder that were incomplete",
            metrics.folder_failures.clone(),
        );
        registry.register(
            "peer_file_kept_since_seconds",
            "Unix time since when the last good content stands in for a peer file that is refused, else 0",
            metrics.kept_since.clone(),
        );
        let help = "1 where what peer files say can't be written down for the next start";
        registry.register("peer_memory_failed", help, metrics.memory_failed.clone());
        metrics
    }

    pub(super) fn folder_failed(&self) {
        self.folder_failures.inc();
    }

    pub(super) fn show(&self, peer: &ClusterName, kept_since: Option<u64>) {
        let since = i64::try_from(kept_since.unwrap_or_default()).unwrap_or(i64::MAX);
        self.kept_since.get_or_create(&PeerLabel::of(peer)).set(since);
    }

    pub(super) fn forget(&self, peer: &ClusterName) {
        self.kept_since.remove(&PeerLabel::of(peer));
    }
}
