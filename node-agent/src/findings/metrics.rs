//! Metrics of findings.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) looks: Counter,
    pub(super) look_seconds: Histogram,
    pub(super) services: Gauge,
    pub(super) standing: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            looks: Counter::default(),
            look_seconds: Histogram::new([0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0]),
            services: Gauge::default(),
            standing: Gauge::default(),
        };
        let findings = registry.sub_registry_with_prefix("findings");
        let all = metrics.clone();
        findings.register("looks", "How often was looked for what somebody should hear", all.looks);
        findings.register("look_seconds", "How long a look took", all.look_seconds);
        findings.register("services", "Services that this node speaks for", all.services);
        let help = "Findings that stand: about Services that this node speaks for, and about the node";
        findings.register("standing", help, all.standing);
        metrics
    }
}
