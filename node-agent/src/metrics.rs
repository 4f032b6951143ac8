//! All metrics of the agent, registered in one place, so that none is missing from its documentation.

use mesh_runtime::Registry;
use mesh_secrets::MirrorMetrics;
use mesh_source::SourceMetrics;

use crate::config::MIRRORED;
use crate::{findings, hooks, merge, peers};

/// The metrics of all modules.
pub struct Metrics {
    pub source: SourceMetrics,
    pub peers: peers::metrics::Metrics,
    pub mirrors: MirrorMetrics,
    pub merge: merge::metrics::Metrics,
    pub hooks: hooks::metrics::Metrics,
    pub findings: findings::metrics::Metrics,
}

impl Metrics {
    /// Registers everything that the agent counts.
    pub fn register() -> (Registry, Self) {
        let mut registry = Registry::new("node-agent", env!("CARGO_PKG_VERSION"));
        let root = registry.root();
        let metrics = Self {
            source: SourceMetrics::register(root),
            peers: peers::metrics::Metrics::register(root),
            mirrors: MirrorMetrics::register(root, [MIRRORED]),
            merge: merge::metrics::Metrics::register(root),
            hooks: hooks::metrics::Metrics::register(root),
            findings: findings::metrics::Metrics::register(root),
        };
        (registry, metrics)
    }
}
