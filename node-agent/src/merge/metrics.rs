//! What the merge loop counts.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::datapath::actual::Actual;
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

/// The merge loop's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    passes: Counter,
    failures: Counter,
    pending: Gauge,
    duration: Histogram,
    last_success: Gauge<f64, AtomicU64>,
    writes: Family<MapLabel, Counter>,
    used: Family<MapLabel, Gauge>,
    capacity: Family<MapLabel, Gauge>,
    refused: Gauge,
    connects: Family<OutcomeLabel, Counter>,
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
            used: Family::default(),
            capacity: Family::default(),
            refused: Gauge::default(),
            connects: Family::default(),
        };
        metrics.show_all_series();
        let merge = registry.sub_registry_with_prefix("merge");
        merge.register("passes", "Plans written", metrics.passes.clone());
        merge.register("failures", "Plans that a map refused", metrics.failures.clone());
        merge.register("pending", "1 while a failed plan waits for its retry", metrics.pending.clone());
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
        let maps = registry.sub_registry_with_prefix("map");
        maps.register("writes", "Elements written or deleted", metrics.writes.clone());
        maps.register("used_elements", "Elements in use", metrics.used.clone());
        maps.register("capacity_elements", "Size of the map", metrics.capacity.clone());
        registry.register("connects", "Connects that the programs saw", metrics.connects.clone());
        metrics
    }

    /// A series that appears only with its first event can't be alerted on.
    fn show_all_series(&self) {
        for map in MAPS {
            drop(self.writes.get_or_create(&MapLabel { map }));
            drop(self.used.get_or_create(&MapLabel { map }));
            drop(self.capacity.get_or_create(&MapLabel { map }));
        }
        for outcome in OUTCOMES {
            drop(self.connects.get_or_create(&OutcomeLabel { outcome }));
        }
    }

    pub(super) fn planned(&self, plan: &Plan, seconds: f64) {
        self.passes.inc();
        self.pending.set(0);
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
        self.pending.set(1);
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

    /// Brings the counters up to what the kernel has counted.
    pub(super) fn connects(&self, outcomes: &[u64; mesh_abi::OUTCOMES]) {
        for (outcome, total) in OUTCOMES.iter().zip(outcomes) {
            let counter = self.connects.get_or_create(&OutcomeLabel { outcome: *outcome });
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }
}
