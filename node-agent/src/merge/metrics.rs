//! What the merge loop counts.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::left_out::LeftOutClusters;
use crate::datapath::actual::Actual;
use crate::datapath::grace::Method;
use crate::datapath::plan::Plan;

/// A map of the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are label values")]
pub enum Map {
    services,
    slots,
    backends,
}

const MAPS: [Map; 3] = [Map::services, Map::slots, Map::backends];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MapLabel {
    map: Map,
}

/// What became of a dialled address; see `mesh_abi::Outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are label values")]
pub enum Outcome {
    translated,
    not_a_service,
    no_backend,
    yielded,
    retried,
    gave_up,
    canary,
    origin_lost,
}

/// In the order of the kernel's array.
pub const OUTCOMES: [Outcome; mesh_abi::OUTCOMES] = [
    Outcome::translated,
    Outcome::not_a_service,
    Outcome::no_backend,
    Outcome::yielded,
    Outcome::retried,
    Outcome::gave_up,
    Outcome::canary,
    Outcome::origin_lost,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    outcome: Outcome,
}

/// By what a grace period was waited for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MethodLabel {
    method: &'static str,
}

impl From<Method> for MethodLabel {
    fn from(method: Method) -> Self {
        Self { method: method.as_str() }
    }
}

/// The merge loop's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    passes: Counter,
    failures: Counter,
    pending: Gauge,
    duration: Histogram,
    last_success: Gauge<f64, AtomicU64>,
    writes: Family<MapLabel, Counter>,
    repairs: Family<MapLabel, Counter>,
    sweeps: Counter,
    used: Family<MapLabel, Gauge>,
    capacity: Family<MapLabel, Gauge>,
    refused: Gauge,
    left_out: Gauge,
    failed_frontends: Gauge,
    frozen: Gauge,
    connects: Family<OutcomeLabel, Counter>,
    grace_method: Family<MethodLabel, Gauge>,
    grace_periods: Family<MethodLabel, Counter>,
    grace_failures: Counter,
    source_age: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            passes: Counter::default(),
            failures: Counter::default(),
            pending: Gauge::default(),
            // 64 µs to 8 s.
            duration: Histogram::new(exponential_buckets(64e-6, 2.0, 18)),
            last_success: Gauge::default(),
            writes: Family::default(),
            repairs: Family::default(),
            sweeps: Counter::default(),
            used: Family::default(),
            capacity: Family::default(),
            refused: Gauge::default(),
            left_out: Gauge::default(),
            failed_frontends: Gauge::default(),
            frozen: Gauge::default(),
            connects: Family::default(),
            grace_method: Family::default(),
            grace_periods: Family::default(),
            grace_failures: Counter::default(),
            source_age: Gauge::default(),
        };
        metrics.show_all_series();
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
        maps.register("writes", "Elements written or deleted", metrics.writes.clone());
        let repairs = metrics.repairs.clone();
        maps.register("repairs", "Elements that somebody else had written or deleted", repairs);
        maps.register(
            "sweeps",
            "Rounds in which all elements were held against the mirror",
            metrics.sweeps.clone(),
        );
        maps.register("used_elements", "Elements in use", metrics.used.clone());
        maps.register("capacity_elements", "Size of the map", metrics.capacity.clone());
        registry.register("connects", "Connects that the programs saw", metrics.connects.clone());
        let grace = registry.sub_registry_with_prefix("grace");
        grace.register("method", "By what grace periods are waited for", metrics.grace_method.clone());
        grace.register("periods", "Grace periods waited for", metrics.grace_periods.clone());
        grace.register("failures", "Attempts to wait that failed", metrics.grace_failures.clone());
        metrics
    }

    /// A series that appears only with its first event can't be alerted on.
    fn show_all_series(&self) {
        for map in MAPS {
            drop(self.writes.get_or_create(&MapLabel { map }));
            drop(self.repairs.get_or_create(&MapLabel { map }));
            drop(self.used.get_or_create(&MapLabel { map }));
            drop(self.capacity.get_or_create(&MapLabel { map }));
        }
        for method in [Method::Membarrier, Method::OuterMap] {
            drop(self.grace_method.get_or_create(&method.into()));
            drop(self.grace_periods.get_or_create(&method.into()));
        }
        for outcome in OUTCOMES {
            drop(self.connects.get_or_create(&OutcomeLabel { outcome }));
        }
    }

    pub(super) fn planned(&self, plan: &Plan, seconds: f64) {
        self.passes.inc();
        self.duration.observe(seconds);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last_success.set(now.as_secs_f64());
        let writes = [
            (Map::services, plan.services.len() + plan.deleted.len()),
            (Map::slots, plan.slots.len()),
            (Map::backends, plan.backends.len()),
        ];
        for (map, count) in writes {
            self.writes.get_or_create(&MapLabel { map }).inc_by(count as u64);
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
            (Map::services, actual.frontend_count() as i64, capacity.services),
            (Map::slots, i64::from(capacity.slots - actual.free_slots()), capacity.slots),
            (Map::backends, actual.backend_count() as i64, capacity.backends),
        ];
        for (map, used, size) in rows {
            let label = MapLabel { map };
            self.used.get_or_create(&label).set(used);
            self.capacity.get_or_create(&label).set(size.into());
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
        self.repairs.get_or_create(&MapLabel { map }).inc_by(elements as u64);
    }

    /// Brings the counter up to so many rounds.
    pub(super) fn swept(&self, rounds: u64) {
        self.sweeps.inc_by(rounds.saturating_sub(self.sweeps.get()));
    }

    pub(super) fn grace_method(&self, method: Method) {
        self.grace_method.get_or_create(&method.into()).set(1);
    }

    pub(super) fn grace_period(&self, method: Method) {
        self.grace_periods.get_or_create(&method.into()).inc();
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
            let counter = self.connects.get_or_create(&OutcomeLabel { outcome: *outcome });
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }
}
