//! What is counted of a mirror.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Label = [(&'static str, &'static str); 1];

/// Metrics of mirrors, each by what it is for.
#[derive(Clone, Debug, Default)]
pub struct MirrorMetrics {
    writes: Family<Label, Counter>,
    failures: Family<Label, Counter>,
    last_success: Family<Label, Gauge>,
}

/// The series of one mirror.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) writes: Counter,
    pub(crate) failures: Counter,
    last_success: Gauge,
}

impl MirrorMetrics {
    /// Registers them once for all mirrors that a process may have, by what each is for. Their series are shown from the start:
    /// one that appears only with its first event can't be alerted on.
    pub fn register(registry: &mut Registry, purposes: impl IntoIterator<Item = &'static str>) -> Self {
        let metrics = Self::default();
        purposes.into_iter().for_each(|purpose| drop(metrics.of(purpose)));
        registry.register(
            "secret_mirror_writes",
            "Changes of a Secret that were written into its folder",
            metrics.writes.clone(),
        );
        registry.register(
            "secret_mirror_failures",
            "Attempts at following a Secret that failed: it is missing, refused or can't be written",
            metrics.failures.clone(),
        );
        registry.register(
            "secret_mirror_last_success_timestamp_seconds",
            "When the folder was last known to hold what its Secret does, in seconds since 1970; 0: never",
            metrics.last_success.clone(),
        );
        metrics
    }

    pub(crate) fn of(&self, purpose: &'static str) -> Series {
        let label = [("mirror", purpose)];
        Series {
            writes: self.writes.get_or_create_owned(&label),
            failures: self.failures.get_or_create_owned(&label),
            last_success: self.last_success.get_or_create_owned(&label),
        }
    }
}

impl Series {
    pub(crate) fn succeeded(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_success.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
}
