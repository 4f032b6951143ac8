//! The source's metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::kinds::Kind;
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
    objects: Family<KindLabel, Gauge>,
    rejections: Family<ReasonLabel, Counter>,
    problems: Family<ReasonLabel, Gauge>,
    /// 1 where changes are announced: by the kernel, or by the API server for every kind.
    pub notified: Gauge,
    lists: Family<ResourceLabel, Counter>,
    changes: Family<ResourceLabel, Counter>,
    events: Family<OutcomeLabel, Counter>,
    /// Objects that stay as they were because nobody can read what they are now.
    pub kept: Gauge,
    /// 1 where what is known can't be written down for the next start.
    pub memory_failed: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// What becomes of a Kubernetes Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Written,
    /// Another process had written it, or its object's namespace is deleted.
    Known,
    /// The API server does not take it.
    Refused,
    /// The API server could not be asked; it is tried again.
    Failed,
    /// There is no API server: a line in the log instead.
    Logged,
}

impl Outcome {
    pub const ALL: [Self; 5] = [Self::Written, Self::Known, Self::Refused, Self::Failed, Self::Logged];

    /// Whether there is nothing to be tried again.
    pub fn is_final(self) -> bool {
        self != Self::Failed
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Known => "known",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Logged => "logged",
        }
    }
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
        let metrics = Self::empty();
        // A series that appears only with its first event can't be alerted on.
        for kind in Kind::ALL {
            drop((metrics.lists(*kind), metrics.changes(*kind)));
        }
        Outcome::ALL.iter().for_each(|outcome| drop(metrics.events(*outcome)));
        metrics
    }

    /// Full lists that the API server was asked for.
    pub fn lists(&self, kind: Kind) -> Counter {
        self.lists.get_or_create_owned(&ResourceLabel { resource: kind.api().resource })
    }

    /// Objects that the API server has listed, changed or deleted.
    pub fn changes(&self, kind: Kind) -> Counter {
        self.changes.get_or_create_owned(&ResourceLabel { resource: kind.api().resource })
    }

    /// Kubernetes Events, by what became of them.
    pub fn events(&self, outcome: Outcome) -> Counter {
        self.events.get_or_create_owned(&OutcomeLabel { outcome: outcome.as_str() })
    }

    /// What the last snapshot holds.
    pub fn count_objects(&self, count: impl Fn(Kind) -> usize) {
        for kind in Kind::ALL {
            let Some(label) = kind.api().counted_as else { continue };
            let gauge = self.objects.get_or_create_owned(&KindLabel { kind: label });
            gauge.set(i64::try_from(count(*kind)).unwrap_or(i64::MAX));
        }
    }

    /// Problems that appeared.
    pub fn rejections(&self, reason: Reason) -> Counter {
        self.rejections.get_or_create_owned(&ReasonLabel { reason: reason.as_str() })
    }

    /// Problems that stand now.
    pub fn problems(&self, reason: Reason) -> Gauge {
        self.problems.get_or_create_owned(&ReasonLabel { reason: reason.as_str() })
    }

    fn empty() -> Self {
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
            lists: Family::default(),
            changes: Family::default(),
            events: Family::default(),
            kept: Gauge::default(),
            memory_failed: Gauge::default(),
        }
    }
}
