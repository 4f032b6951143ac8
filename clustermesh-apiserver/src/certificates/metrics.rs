//! What is counted of certificates.

use std::sync::atomic::AtomicU64;

use mesh_runtime::ByLabel;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Holder;

/// Metrics of the cluster's own certificates.
#[derive(Clone, Debug)]
pub(crate) struct CertificateMetrics {
    expiry: ByLabel<Gauge<f64, AtomicU64>>,
    issued: ByLabel<Counter>,
    failures: Counter,
}

impl CertificateMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let holders = Holder::ALL.map(Holder::as_str);
        let metrics = Self {
            expiry: ByLabel::new("holder", holders),
            issued: ByLabel::new("holder", holders),
            failures: Counter::default(),
        };
        metrics.expiry.register(
            registry,
            "certificate_expiry_timestamp_seconds",
            "When the certificate that is held expires, in seconds since 1970; 0 where it is not known",
        );
        metrics.issued.register(registry, "certificates_issued", "Certificates that were made");
        registry.register(
            "certificate_failures",
            "Looks at the certificates that ended with an error",
            metrics.failures.clone(),
        );
        metrics
    }

    #[allow(clippy::cast_precision_loss, reason = "seconds are far below 2^52")]
    pub(super) fn expires(&self, holder: Holder, unix_seconds: u64) {
        self.expiry.of(holder.as_str()).set(unix_seconds as f64);
    }

    pub(super) fn issued(&self, holder: Holder) {
        self.issued.of(holder.as_str()).inc();
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }
}
