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
    authorities: Gauge,
    revoked: Gauge,
}

impl CertificateMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let holders = Holder::ALL.map(Holder::as_str);
        let metrics = Self {
            expiry: ByLabel::new("holder", holders),
            issued: ByLabel::new("holder", holders),
            failures: Counter::default(),
            authorities: Gauge::default(),
            revoked: Gauge::default(),
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
        registry.register(
            "certificate_authorities",
            "The cluster's authorities: 2 while one takes the other's place; 0 where they are not known",
            metrics.authorities.clone(),
        );
        registry.register(
            "certificates_revoked",
            "Certificates of the cluster that are on its lists of revoked ones",
            metrics.revoked.clone(),
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

    pub(super) fn authorities(&self, authorities: usize, revoked: usize) {
        self.authorities.set(i64::try_from(authorities).unwrap_or(i64::MAX));
        self.revoked.set(i64::try_from(revoked).unwrap_or(i64::MAX));
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }
}
