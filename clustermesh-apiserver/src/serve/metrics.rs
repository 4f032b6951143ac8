//! What the mesh API counts.

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_runtime::ByLabel;
use mesh_trust::RefusalReason;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::cache::Cache;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Range,
    Watch,
    Status,
    /// What else clients ask before they read.
    Greeting,
    /// Writes, and what only an operator of etcd needs.
    Refused,
    Unknown,
}

impl Call {
    const ALL: [Self; 6] =
        [Self::Range, Self::Watch, Self::Status, Self::Greeting, Self::Refused, Self::Unknown];

    fn as_str(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::Watch => "watch",
            Self::Status => "status",
            Self::Greeting => "greeting",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// Metrics of the mesh API. Clones share their values.
#[derive(Clone, Debug)]
pub(crate) struct ServeMetrics {
    pub(crate) connections: Gauge,
    pub(crate) watch_streams: Gauge,
    pub(crate) watches_compacted: Counter,
    calls: ByLabel<Counter>,
    refusals: ByLabel<Counter>,
    pub(crate) handshakes_failed: Counter,
    pub(crate) shut_out: Counter,
    pub(crate) crowded_out: Counter,
    /// Clients whose certificates claim no identity: since the start, and connected now.
    pub(crate) assumed: Counter,
    pub(crate) assumed_now: Gauge,
    pub(crate) reloads: Counter,
    pub(crate) reload_failing: Gauge,
    pub(crate) connected: Gauge,
    pub(crate) lists: Counter,
    records: Gauge,
    memory: Gauge,
    revision: Gauge,
    heard: Gauge<f64, AtomicU64>,
}

impl ServeMetrics {
    /// Registers all of them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            connections: Gauge::default(),
            watch_streams: Gauge::default(),
            watches_compacted: Counter::default(),
            calls: ByLabel::new("call", Call::ALL.map(Call::as_str)),
            refusals: ByLabel::new("reason", RefusalReason::ALL.map(RefusalReason::as_str)),
            handshakes_failed: Counter::default(),
            shut_out: Counter::default(),
            crowded_out: Counter::default(),
            assumed: Counter::default(),
            assumed_now: Gauge::default(),
            reloads: Counter::default(),
            reload_failing: Gauge::default(),
            connected: Gauge::default(),
            lists: Counter::default(),
            records: Gauge::default(),
            memory: Gauge::default(),
            revision: Gauge::default(),
            heard: Gauge::default(),
        };
        metrics.enter_clients(registry);
        metrics.enter_cache(registry);
        metrics
    }

    fn enter_clients(&self, registry: &mut Registry) {
        registry.register("mesh_api_connections", "Clients that are connected", self.connections.clone());
        registry.register("mesh_api_watch_streams", "Streams of watches", self.watch_streams.clone());
        registry.register(
            "mesh_api_watches_compacted",
            "Watches cancelled because their client was too slow, or began too early",
            self.watches_compacted.clone(),
        );
        self.calls.register(registry, "mesh_api_calls", "Calls, by what was asked");
        self.refusals.register(
            registry,
            "mesh_api_refused_certificates",
            "Clients refused for their certificate, by reason",
        );
        registry.register(
            "mesh_api_failed_handshakes",
            "Connections that ended before their handshake did, refused certificates included",
            self.handshakes_failed.clone(),
        );
        registry.register(
            "mesh_api_connections_crowded_out",
            "Connections closed because all were taken and their cluster had most of them",
            self.crowded_out.clone(),
        );
        self.enter_certificates(registry);
    }

    fn enter_certificates(&self, registry: &mut Registry) {
        registry.register(
            "mesh_api_connections_shut_out",
            "Connections closed because their client is no peer any more or its certificate was revoked",
            self.shut_out.clone(),
        );
        registry.register(
            "mesh_api_connections_without_identity",
            "Connections let in although the certificate claims no identity",
            self.assumed.clone(),
        );
        registry.register(
            "mesh_api_clients_without_identity",
            "Clients that are connected with a certificate that claims no identity",
            self.assumed_now.clone(),
        );
        registry.register(
            "mesh_api_certificate_reloads",
            "Certificates or trust that were read anew because their files changed",
            self.reloads.clone(),
        );
        registry.register(
            "mesh_api_certificate_reload_failing",
            "1 while certificates or trust can't be read, so that what was read before counts",
            self.reload_failing.clone(),
        );
    }

    fn enter_cache(&self, registry: &mut Registry) {
        registry.register("mesh_api_etcd_connected", "1 while etcd is followed", self.connected.clone());
        registry.register_with_unit(
            "mesh_api_etcd_heard_timestamp",
            "When etcd last said anything, since the Unix epoch; 0 if never",
            Unit::Seconds,
            self.heard.clone(),
        );
        registry.register("mesh_api_lists", "Lists of all that etcd holds", self.lists.clone());
        registry.register("mesh_api_records", "Records that are served", self.records.clone());
        registry.register_with_unit(
            "mesh_api_memory",
            "Memory that records and their recent past take",
            Unit::Bytes,
            self.memory.clone(),
        );
        registry.register("mesh_api_revision", "The revision of etcd that is served", self.revision.clone());
    }

    pub(crate) fn called(&self, call: Call) {
        self.calls.of(call.as_str()).inc();
    }

    pub(crate) fn refused(&self, reason: RefusalReason) {
        self.refusals.of(reason.as_str()).inc();
    }

    pub(crate) fn heard(&self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.heard.set(since.as_secs_f64());
    }

    pub(crate) fn show(&self, cache: &Cache) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.records.set(count(cache.len()));
        self.memory.set(count(cache.size()));
        self.revision.set(cache.revision());
    }
}
