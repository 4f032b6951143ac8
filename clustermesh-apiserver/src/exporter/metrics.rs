//! What the exporter counts.

use mesh_kv::Alarm;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
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

/// Prometheus' labels are in snake_case.
macro_rules! label {
    ($type:ident: $($variant:ident = $text:literal),+) => {
        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                let text = match self { $(Self::$variant => $text),+ };
                EncodeLabelValue::encode(&text, encoder)
            }
        }
    };
}

label!(FailureReason: Unreachable = "unreachable", Call = "call", Fenced = "fenced",
    Interference = "interference", ForeignStore = "foreign_store", NoSpace = "no_space", Unfit = "unfit");
label!(Operation: Put = "put", Delete = "delete");
label!(RecordKind: Services = "services", Endpoints = "endpoints", Nodes = "nodes");

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
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: FailureReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Put,
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: Operation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RecordKind {
    Services,
    Endpoints,
    Nodes,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: RecordKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AlarmName {
    NoSpace,
    Corrupt,
}

label!(AlarmName: NoSpace = "nospace", Corrupt = "corrupt");

impl From<Alarm> for AlarmName {
    fn from(alarm: Alarm) -> Self {
        match alarm {
            Alarm::NoSpace => Self::NoSpace,
            Alarm::Corrupt => Self::Corrupt,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlarmLabels {
    alarm: AlarmName,
}

/// Metrics of the exporter. Clones share their values.
#[derive(Clone, Debug)]
pub struct ExportMetrics {
    pub(super) passes: Counter,
    failures: Family<FailureLabels, Counter>,
    pub(super) pending: Gauge,
    pub(super) duration: Histogram,
    pub(super) last_success: Gauge<f64, std::sync::atomic::AtomicU64>,
    pub(super) transactions: Counter,
    operations: Family<OperationLabels, Counter>,
    records: Family<KindLabels, Gauge>,
    pub(super) leading: Gauge,
    pub(super) fit: Gauge,
    pub(super) standbys: Gauge,
    pub(super) connected: Gauge,
    pub(super) oversized: Counter,
    pub(super) oversized_records: Gauge,
    alarms: Family<AlarmLabels, Gauge>,
}

impl ExportMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            passes: Counter::default(),
            failures: Family::default(),
            pending: Gauge::default(),
            duration: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            last_success: Gauge::default(),
            transactions: Counter::default(),
            operations: Family::default(),
            records: Family::default(),
            leading: Gauge::default(),
            fit: Gauge::default(),
            standbys: Gauge::default(),
            connected: Gauge::default(),
            oversized: Counter::default(),
            oversized_records: Gauge::default(),
            alarms: Family::default(),
        };
        metrics.show_all_series();
        metrics.enter(registry);
        metrics
    }

    /// A series that appears only with its first failure can't be alerted on.
    fn show_all_series(&self) {
        for reason in FailureReason::ALL {
            drop(self.failures.get_or_create(&FailureLabels { reason }));
        }
        for operation in [Operation::Put, Operation::Delete] {
            drop(self.operations.get_or_create(&OperationLabels { operation }));
        }
        for kind in [RecordKind::Services, RecordKind::Endpoints, RecordKind::Nodes] {
            drop(self.records.get_or_create(&KindLabels { kind }));
        }
        Alarm::ALL.iter().for_each(|alarm| self.set_alarm(*alarm, false));
    }

    fn enter(&self, registry: &mut Registry) {
        let seconds = Unit::Seconds;
        registry.register("export_passes", "Snapshots of the source brought to etcd", self.passes.clone());
        registry.register(
            "export_failures",
            "Connections to etcd that ended, by reason",
            self.failures.clone(),
        );
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
        registry.register("export_operations", "Operations applied, by operation", self.operations.clone());
        registry.register("export_records", "Records that stand in etcd, by kind", self.records.clone());
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
        registry.register("etcd_alarms", "1 while etcd has raised the alarm", self.alarms.clone());
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
        self.failures.get_or_create(&FailureLabels { reason }).inc();
    }

    pub(super) fn set_alarm(&self, alarm: Alarm, stands: bool) {
        self.alarms.get_or_create(&AlarmLabels { alarm: alarm.into() }).set(stands.into());
    }

    pub(super) fn applied(&self, puts: usize, deletes: usize) {
        self.transactions.inc();
        self.operations.get_or_create(&OperationLabels { operation: Operation::Put }).inc_by(puts as u64);
        self.operations
            .get_or_create(&OperationLabels { operation: Operation::Delete })
            .inc_by(deletes as u64);
    }

    pub(super) fn set_records(&self, kind: RecordKind, count: u64) {
        self.records.get_or_create(&KindLabels { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
