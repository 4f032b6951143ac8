//! The source's metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::EncodeLabelValue;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::status::Reason;

/// Handles on the source's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    /// How often the source was read through.
    pub passes: Counter,
    /// Passes after which the source was unknown.
    pub failures: Counter,
    pub pass_seconds: Histogram,
    /// Unix time of the last pass that found the source readable.
    pub last_success_seconds: Gauge,
    /// Files that were read because they changed.
    pub files_read: Counter,
    /// Files that changed but may still be written to, or vanished but may come back.
    pub pending_files: Gauge,
    /// What the last snapshot holds.
    pub objects: Family<KindLabels, Gauge>,
    /// Problems that appeared.
    pub rejections: Family<ReasonLabels, Counter>,
    /// Problems that stand now.
    pub problems: Family<ReasonLabels, Gauge>,
    /// 1 where changes are announced: by the kernel, or by the API server for every kind.
    pub notified: Gauge,
    /// Full lists that the API server was asked for.
    pub lists: Family<ResourceLabels, Counter>,
    /// Objects that the API server has listed, changed or deleted.
    pub changes: Family<ResourceLabels, Counter>,
    /// Kubernetes Events, by what became of them.
    pub events: Family<EventLabels, Counter>,
    /// Objects that stay as they were because nobody can read what they are now.
    pub kept: Gauge,
    /// 1 where what is known can't be written down for the next start.
    pub memory_failed: Gauge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResourceLabels {
    pub resource: Resource,
}

/// A kind of objects that the API server is asked for, by its name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum Resource {
    services,
    endpointslices,
    nodes,
    servicecidrs,
}

impl Resource {
    pub const ALL: [Self; 4] = [Self::services, Self::endpointslices, Self::nodes, Self::servicecidrs];

    /// Whether a supported server may not know it.
    pub(crate) fn may_be_absent(self) -> bool {
        self == Self::servicecidrs
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EventLabels {
    pub outcome: Outcome,
}

/// What becomes of a Kubernetes Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum Outcome {
    written,
    /// Another process had written it, or its object's namespace has gone.
    known,
    /// The API server does not take it.
    refused,
    /// The API server could not be asked; it is tried again.
    failed,
    /// There is no API server: a line in the log instead.
    logged,
}

impl Outcome {
    pub const ALL: [Self; 5] = [Self::written, Self::known, Self::refused, Self::failed, Self::logged];

    /// Whether there is nothing to be tried again.
    pub fn is_final(self) -> bool {
        self != Self::failed
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum Kind {
    service,
    slice,
    node,
}

impl SourceMetrics {
    /// Registers them below `source_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::unregistered();
        let registry = registry.sub_registry_with_prefix("source");
        let all = metrics.clone();
        registry.register("passes", "How often the source was read through", all.passes);
        registry.register("failures", "Passes after which the source was unknown", all.failures);
        registry.register("pass_seconds", "How long a pass took", all.pass_seconds);
        let help = "Unix time of the last pass that could read the source";
        registry.register("last_success_seconds", help, all.last_success_seconds);
        registry.register("files_read", "Files that were read because they changed", all.files_read);
        let help = "Files that changed or vanished and are given a moment to settle";
        registry.register("pending_files", help, all.pending_files);
        registry.register("objects", "What the last snapshot holds, by kind", all.objects);
        registry.register("rejections", "Problems that appeared, by reason", all.rejections);
        registry.register("problems", "Problems that stand now, by reason", all.problems);
        let help = "1 where changes are announced, 0 where the source is only polled or can't be followed";
        registry.register("notified", help, all.notified);
        registry.register("lists", "Full lists asked for, by resource", all.lists);
        registry.register("changes", "Objects listed, changed or deleted, by resource", all.changes);
        registry.register("events", "Kubernetes Events, by what became of them", all.events);
        let help = "Objects that stay as they were, because what they are now can't be read";
        registry.register("kept", help, all.kept);
        let help = "1 where what is known can't be written down for the next start";
        registry.register("memory_failed", help, all.memory_failed);
        metrics
    }

    /// Metrics that nobody sees, for tests and tools.
    pub fn unregistered() -> Self {
        let by_resource = || {
            let family = Family::<ResourceLabels, Counter>::default();
            Resource::ALL.iter().for_each(|it| drop(family.get_or_create(&ResourceLabels { resource: *it })));
            family
        };
        let by_outcome = || {
            let family = Family::<EventLabels, Counter>::default();
            Outcome::ALL.iter().for_each(|it| drop(family.get_or_create(&EventLabels { outcome: *it })));
            family
        };
        Self {
            passes: Counter::default(),
            failures: Counter::default(),
            pass_seconds: Histogram::new([0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0]),
            last_success_seconds: Gauge::default(),
            files_read: Counter::default(),
            pending_files: Gauge::default(),
            objects: Family::default(),
            rejections: Family::default(),
            problems: Family::default(),
            notified: Gauge::default(),
            lists: by_resource(),
            changes: by_resource(),
            events: by_outcome(),
            kept: Gauge::default(),
            memory_failed: Gauge::default(),
        }
    }
}
