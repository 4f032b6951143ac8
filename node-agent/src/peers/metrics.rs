//! Metrics of the peers' tasks.

use mesh_admin::api::PeerState;
use mesh_model::name::ClusterName;
use mesh_model::record::Reason;
use mesh_model::view::Excess;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::PeerStatus;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    peer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    peer: String,
    state: StateValue,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct StateValue(PeerState);

impl EncodeLabelValue for StateValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.to_string(), encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectionLabel {
    peer: String,
    reason: &'static str,
}

const STATES: [PeerState; 5] = [
    PeerState::Connecting,
    PeerState::Listing,
    PeerState::Synced,
    PeerState::Disconnected,
    PeerState::Refused,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CutLabel {
    peer: String,
    quota: &'static str,
}

/// The peers' metrics. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    state: Family<StateLabel, Gauge>,
    services: Family<PeerLabel, Gauge>,
    backends: Family<PeerLabel, Gauge>,
    memory: Family<PeerLabel, Gauge>,
    cut: Family<CutLabel, Gauge>,
    rejected: Family<RejectionLabel, Gauge>,
    disconnects: Family<PeerLabel, Counter>,
    folder_failures: Counter,
    file_kept_since_seconds: Family<PeerLabel, Gauge>,
    certificate_expiry: Gauge,
    pub(super) certificate_reloads: Counter,
    /// 1 where the certificate for peers can't be read as it is now.
    pub(super) certificate_failing: Gauge,
    /// 1 where what peer files say can't be written down for the next start.
    pub memory_failed: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let peer = registry.sub_registry_with_prefix("peer");
        peer.register("state", "1 for the state that the peer is in", metrics.state.clone());
        peer.register(
            "services",
            "Services that the peer shares and this cluster has",
            metrics.services.clone(),
        );
        peer.register(
            "backends",
            "Endpoints that the peer shares, of these services",
            metrics.backends.clone(),
        );
        peer.register(
            "rejected_records",
            "Records and endpoints of the peer that were refused since its task started",
            metrics.rejected.clone(),
        );
        peer.register(
            "memory_bytes",
            "Memory that the peer's records take, as its quota counts it",
            metrics.memory.clone(),
        );
        peer.register(
            "cut",
            "1 where the peer has more than its quota and is cut at it",
            metrics.cut.clone(),
        );
        peer.register("disconnects", "Lost connections", metrics.disconnects.clone());
        peer.register(
            "folder_failures",
            "Readings of the peers folder that were incomplete",
            metrics.folder_failures.clone(),
        );
        peer.register(
            "file_kept_since_seconds",
            "Unix time since when the last good content stands in for a peer file that is refused, else 0",
            metrics.file_kept_since_seconds.clone(),
        );
        metrics.enter_certificate(peer);
        let help = "1 where what peer files say can't be written down for the next start";
        peer.register("memory_failed", help, metrics.memory_failed.clone());
        metrics
    }

    fn enter_certificate(&self, peer: &mut Registry) {
        peer.register(
            "certificate_expiry_timestamp_seconds",
            "When the certificate that is shown to peers expires, in seconds since 1970; 0 where there is none",
            self.certificate_expiry.clone(),
        );
        peer.register(
            "certificate_reloads",
            "How often the certificate that is shown to peers was read because it is another one",
            self.certificate_reloads.clone(),
        );
        peer.register(
            "certificate_reload_failing",
            "1 while that certificate can't be read, so that what was read before counts",
            self.certificate_failing.clone(),
        );
    }

    pub(super) fn certificate_expires(&self, unix_seconds: u64) {
        self.certificate_expiry.set(i64::try_from(unix_seconds).unwrap_or(i64::MAX));
    }

    pub(super) fn disconnected(&self, peer: &ClusterName) {
        self.disconnects.get_or_create(&PeerLabel { peer: peer.to_string() }).inc();
    }

    pub(super) fn folder_failed(&self) {
        self.folder_failures.inc();
    }

    pub(super) fn show(&self, name: &ClusterName, status: &PeerStatus) {
        let peer = || name.to_string();
        let (now, _) = status.state();
        for state in STATES {
            let label = StateLabel { peer: peer(), state: StateValue(state) };
            self.state.get_or_create(&label).set(i64::from(state == now));
        }
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let label = PeerLabel { peer: peer() };
        self.services.get_or_create(&label).set(count(status.snapshot.services.len()));
        self.backends.get_or_create(&label).set(count(status.snapshot.endpoints));
        let since = i64::try_from(status.kept_since.unwrap_or_default()).unwrap_or(i64::MAX);
        self.file_kept_since_seconds.get_or_create(&label).set(since);
        self.memory.get_or_create(&label).set(count(status.snapshot.bytes));
        for excess in Excess::ALL {
            let is_cut = status.snapshot.cuts.iter().any(|cut| cut.excess == excess);
            let label = CutLabel { peer: peer(), quota: excess.as_str() };
            self.cut.get_or_create(&label).set(is_cut.into());
        }
        // A series that appears only with its first event can't be alerted on.
        drop(self.disconnects.get_or_create(&label));
        for reason in Reason::ALL {
            let total = status.snapshot.rejected.get(&reason).copied().unwrap_or_default();
            let label = RejectionLabel { peer: peer(), reason: reason.as_str() };
            self.rejected.get_or_create(&label).set(i64::try_from(total).unwrap_or(i64::MAX));
        }
    }

    /// The peer's file is gone.
    pub(super) fn forget(&self, name: &ClusterName) {
        let peer = || name.to_string();
        for state in STATES {
            self.state.remove(&StateLabel { peer: peer(), state: StateValue(state) });
        }
        self.services.remove(&PeerLabel { peer: peer() });
        self.backends.remove(&PeerLabel { peer: peer() });
        self.disconnects.remove(&PeerLabel { peer: peer() });
        self.memory.remove(&PeerLabel { peer: peer() });
        for excess in Excess::ALL {
            self.cut.remove(&CutLabel { peer: peer(), quota: excess.as_str() });
        }
        self.file_kept_since_seconds.remove(&PeerLabel { peer: peer() });
        for reason in Reason::ALL {
            self.rejected.remove(&RejectionLabel { peer: peer(), reason: reason.as_str() });
        }
    }
}
