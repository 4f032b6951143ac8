//! Metrics of the merge loop.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use mesh_runtime::ByLabel;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::left_out::LeftOutClusters;
use crate::datapath::actual::Actual;
use crate::datapath::grace::Method;
use crate::datapath::plan::Plan;

/// A map of the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Map {
    Services,
    Slots,
    Backends,
}

impl Map {
    const ALL: [Self; 3] = [Self::Services, Self::Slots, Self::Backends];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Slots => "slots",
            Self::Backends => "backends",
        }
    }
}

/// What became of a dialled address, in the order of the kernel's array; see `mesh_abi::Outcome`.
const OUTCOMES: [&str; mesh_abi::OUTCOMES] =
    ["translated", "not_a_service", "no_backend", "yielded", "retried", "gave_up", "canary", "origin_lost"];

/// By what a grace period can be waited for.
const METHODS: [Method; 2] = [Method::Membarrier, Method::OuterMap];

/// The merge loop's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    passes: Counter,
    failures: Counter,
    pending: Gauge,
    duration: Histogram,
    last_success: Gauge<f64, AtomicU64>,
    writes: ByLabel<Counter>,
    repairs: ByLabel<Counter>,
    sweeps: Counter,
    used: ByLabel<Gauge>,
    capacity: ByLabel<Gauge>,
    refused: Gauge,
    left_out: Gauge,
    failed_frontends: Gauge,
    frozen: Gauge,
    connects: ByLabel<Counter>,
    grace_method: ByLabel<Gauge>,
    grace_periods: ByLabel<Counter>,
    grace_failures: Counter,
    source_age: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let maps = || Map::ALL.map(Map::as_str);
        let methods = || METHODS.map(Method::as_str);
        let metrics = Self {
            passes: Counter::default(),
            failures: Counter::default(),
            pending: Gauge::default(),
            // 64 µs to 8 s.
            duration: Histogram::new(exponential_buckets(64e-6, 2.0, 18)),
            last_success: Gauge::default(),
            writes: ByLabel::new("map", maps()),
            repairs: ByLabel::new("map", maps()),
            sweeps: Counter::default(),
            used: ByLabel::new("map", maps()),
            capacity: ByLabel::new("map", maps()),
            refused: Gauge::default(),
            left_out: Gauge::default(),
            failed_frontends: Gauge::default(),
            frozen: Gauge::default(),
            connects: ByLabel::new("outcome", OUTCOMES),
            grace_method: ByLabel::new("method", methods()),
            grace_periods: ByLabel::new("method", methods()),
            grace_failures: Counter::default(),
            source_age: Gauge::default(),
        };
        let merge = registry.sub_registry_with_prefix("merge");
        merge.register("passes", "Plans written", metrics.passes.clone());
        merge.register(
            "source_age_seconds",
            "Since the own source confirmed what the maps hold of the own cluster",
            metrics.source_age.clone(),
        );
        merge.register("failures", "Plans of which a map refused writes", metrics.failures.clone());
        merge.register("pending", "1 while a frontend waits for its retry", metrics.pending.clone());
        merge.register("duration_seconds", "From merge to last map write", metrics.duration.clone());
        merge.register(
            "last_success_timestamp_seconds",
            "When the last plan was written, since the epoch",
            metrics.last_success.clone(),
        );
        merge.register(
            "refused_frontends",
            "Frontends that could not become as desired",
            metrics.refused.clone(),
        );
        merge.register(
            "left_out_clusters",
            "Clusters that take no part in a frontend for want of room, over all frontends",
            metrics.left_out.clone(),
        );
        let failed = metrics.failed_frontends.clone();
        merge.register("failed_frontends", "Frontends that a write failed of, until one succeeds", failed);
        merge.register(
            "frozen",
            "1 while plans can't be written, and there is no heartbeat",
            metrics.frozen.clone(),
        );
        let maps = registry.sub_registry_with_prefix("map");
        metrics.writes.register(maps, "writes", "Elements written or deleted");
        metrics.repairs.register(maps, "repairs", "Elements that somebody else had written or deleted");
        maps.register(
            "sweeps",
            "Rounds in which all elements were held against the mirror",
            metrics.sweeps.clone(),
        );
        metrics.used.register(maps, "used_elements", "Elements in use");
        metrics.capacity.register(maps, "capacity_elements", "Size of the map");
        metrics.connects.register(registry, "connects", "Connects that the programs saw");
        let grace = registry.sub_registry_with_prefix("grace");
        metrics.grace_method.register(grace, "method", "By what grace periods are waited for");
        metrics.grace_periods.register(grace, "periods", "Grace periods waited for");
        grace.register("failures", "Attempts to wait that failed", metrics.grace_failures.clone());
        metrics
    }

    pub(super) fn planned(&self, plan: &Plan, seconds: f64) {
        self.passes.inc();
        self.duration.observe(seconds);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last_success.set(now.as_secs_f64());
        let writes = [
            (Map::Services, plan.services.len() + plan.deleted.len()),
            (Map::Slots, plan.slots.len()),
            (Map::Backends, plan.backends.len()),
        ];
        for (map, count) in writes {
            self.writes.of(map.as_str()).inc_by(count as u64);
        }
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }

    /// Frontends that a write failed of and that wait for their next attempt.
    pub(super) fn waiting(&self, frontends: usize) {
        self.failed_frontends.set(frontends as i64);
        self.pending.set(i64::from(frontends > 0));
    }

    pub(super) fn holds(&self, actual: &Actual, refused: usize) {
        self.refused.set(refused as i64);
        let capacity = actual.capacity();
        let rows = [
            (Map::Services, actual.frontend_count() as i64, capacity.services),
            (Map::Slots, i64::from(capacity.slots - actual.free_slots()), capacity.slots),
            (Map::Backends, actual.backend_count() as i64, capacity.backends),
        ];
        for (map, used, size) in rows {
            self.used.of(map.as_str()).set(used);
            self.capacity.of(map.as_str()).set(size.into());
        }
    }

    pub(super) fn left_out(&self, clusters: &LeftOutClusters) {
        let count: usize = clusters.values().map(Vec::len).sum();
        self.left_out.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn frozen(&self, frozen: bool) {
        self.frozen.set(frozen.into());
    }

    pub(super) fn repaired(&self, map: Map, elements: usize) {
        self.repairs.of(map.as_str()).inc_by(elements as u64);
    }

    /// Brings the counter up to so many rounds.
    pub(super) fn swept(&self, rounds: u64) {
        self.sweeps.inc_by(rounds.saturating_sub(self.sweeps.get()));
    }

    pub(super) fn grace_method(&self, method: Method) {
        self.grace_method.of(method.as_str()).set(1);
    }

    pub(super) fn grace_period(&self, method: Method) {
        self.grace_periods.of(method.as_str()).inc();
    }

    pub(super) fn source_age(&self, age: std::time::Duration) {
        self.source_age.set(age.as_secs_f64());
    }

    pub(super) fn grace_failed(&self) {
        self.grace_failures.inc();
    }

    /// Brings the counters up to what the kernel has counted.
    pub(super) fn connects(&self, outcomes: &[u64; mesh_abi::OUTCOMES]) {
        for (outcome, total) in OUTCOMES.iter().zip(outcomes) {
            let counter = self.connects.of(outcome);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }
}
