//! What the exporter counts.

use mesh_kv::Alarm;
use mesh_runtime::ByLabel;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Why publishing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FailureReason {
    /// No endpoint could be dialled.
    Unreachable,
    /// A call failed.
    Call,
    /// Another process leads, or etcd was wiped.
    Fenced,
    /// Somebody else wrote below the own name.
    Interference,
    /// The etcd belongs to another cluster.
    ForeignStore,
    /// etcd takes no writes before somebody makes room.
    NoSpace,
    /// Another replica leads instead.
    Unfit,
}

impl FailureReason {
    const ALL: [Self; 7] = [
        Self::Unreachable,
        Self::Call,
        Self::Fenced,
        Self::Interference,
        Self::ForeignStore,
        Self::NoSpace,
        Self::Unfit,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Call => "call",
            Self::Fenced => "fenced",
            Self::Interference => "interference",
            Self::ForeignStore => "foreign_store",
            Self::NoSpace => "no_space",
            Self::Unfit => "unfit",
        }
    }
}

const PUT: &str = "put";
const DELETE: &str = "delete";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RecordKind {
    Services,
    Endpoints,
    Nodes,
}

impl RecordKind {
    const ALL: [Self; 3] = [Self::Services, Self::Endpoints, Self::Nodes];

    fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Nodes => "nodes",
        }
    }
}

fn alarm_label(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::NoSpace => "nospace",
        Alarm::Corrupt => "corrupt",
    }
}

/// Metrics of the exporter. Clones share their values.
#[derive(Clone, Debug)]
pub struct ExportMetrics {
    pub(super) passes: Counter,
    failures: ByLabel<Counter>,
    pub(super) pending: Gauge,
    pub(super) duration: Histogram,
    pub(super) last_success: Gauge<f64, std::sync::atomic::AtomicU64>,
    pub(super) transactions: Counter,
    operations: ByLabel<Counter>,
    records: ByLabel<Gauge>,
    pub(super) leading: Gauge,
    pub(super) fit: Gauge,
    pub(super) standbys: Gauge,
    pub(super) connected: Gauge,
    pub(super) oversized: Counter,
    pub(super) oversized_records: Gauge,
    alarms: ByLabel<Gauge>,
}

impl ExportMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            passes: Counter::default(),
            failures: ByLabel::new("reason", FailureReason::ALL.map(FailureReason::as_str)),
            pending: Gauge::default(),
            duration: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            last_success: Gauge::default(),
            transactions: Counter::default(),
            operations: ByLabel::new("operation", [PUT, DELETE]),
            records: ByLabel::new("kind", RecordKind::ALL.map(RecordKind::as_str)),
            leading: Gauge::default(),
            fit: Gauge::default(),
            standbys: Gauge::default(),
            connected: Gauge::default(),
            oversized: Counter::default(),
            oversized_records: Gauge::default(),
            alarms: ByLabel::new("alarm", Alarm::ALL.map(alarm_label)),
        };
        metrics.enter(registry);
        metrics
    }

    fn enter(&self, registry: &mut Registry) {
        let seconds = Unit::Seconds;
        registry.register("export_passes", "Snapshots of the source brought to etcd", self.passes.clone());
        self.failures.register(registry, "export_failures", "Connections to etcd that ended, by reason");
        registry.register("export_pending_operations", "Operations not yet applied", self.pending.clone());
        registry.register_with_unit(
            "export_duration",
            "From a snapshot's arrival to its last transaction",
            seconds.clone(),
            self.duration.clone(),
        );
        registry.register_with_unit(
            "export_last_success_timestamp",
            "When etcd last showed all that the source says, since the Unix epoch; 0 if never",
            seconds,
            self.last_success.clone(),
        );
        registry.register("export_transactions", "Transactions applied", self.transactions.clone());
        self.operations.register(registry, "export_operations", "Operations applied, by operation");
        self.records.register(registry, "export_records", "Records that stand in etcd, by kind");
        self.enter_election(registry);
        self.enter_etcd(registry);
    }

    fn enter_election(&self, registry: &mut Registry) {
        registry.register("export_leading", "1 while this process may write", self.leading.clone());
        registry.register(
            "export_fit",
            "1 while this process could lead: its source is complete and heard, etcd takes its writes",
            self.fit.clone(),
        );
        registry.register(
            "export_standbys",
            "Other replicas that could lead at once, as the leader sees them; 0 on the others",
            self.standbys.clone(),
        );
    }

    fn enter_etcd(&self, registry: &mut Registry) {
        registry.register("etcd_connected", "1 while a connection to etcd stands", self.connected.clone());
        self.alarms.register(registry, "etcd_alarms", "1 while etcd has raised the alarm");
        registry.register(
            "export_oversized",
            "Writes of records that fit into no transaction",
            self.oversized.clone(),
        );
        registry.register(
            "export_oversized_records",
            "Records that etcd lacks, or holds outdated, because they fit into no transaction",
            self.oversized_records.clone(),
        );
    }

    pub(super) fn failed(&self, reason: FailureReason) {
        self.failures.of(reason.as_str()).inc();
    }

    pub(super) fn set_alarm(&self, alarm: Alarm, stands: bool) {
        self.alarms.of(alarm_label(alarm)).set(stands.into());
    }

    pub(super) fn applied(&self, puts: usize, deletes: usize) {
        self.transactions.inc();
        self.operations.of(PUT).inc_by(puts as u64);
        self.operations.of(DELETE).inc_by(deletes as u64);
    }

    pub(super) fn set_records(&self, kind: RecordKind, count: u64) {
        self.records.of(kind.as_str()).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
