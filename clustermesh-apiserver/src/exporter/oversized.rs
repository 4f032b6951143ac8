//! The records that fit into no transaction, told of once and counted.

use std::collections::BTreeSet;

use mesh_kv::publish::Oversized;

use super::metrics::ExportMetrics;

/// Which records etcd lacks, or holds outdated, because they are too big.
pub(super) struct OversizedRecords {
    keys: BTreeSet<String>,
    metrics: ExportMetrics,
}

impl OversizedRecords {
    pub(super) fn new(metrics: ExportMetrics) -> Self {
        Self { keys: BTreeSet::new(), metrics }
    }

    /// Notes what came of writing some keys.
    pub(super) fn note<'a>(&mut self, written: impl Iterator<Item = &'a str>, refused: &[Oversized]) {
        for Oversized { key, bytes, .. } in refused {
            self.metrics.oversized.inc();
            if self.keys.insert(key.clone()) {
                tracing::error!(
                    key,
                    bytes,
                    "a record is too big for etcd: the one before stands, without endpoints that are gone; spread its \
                     Service over several, or its endpoints over smaller slices"
                );
            }
        }
        for key in written.filter(|key| refused.iter().all(|oversized| oversized.key != **key)) {
            if self.keys.remove(key) {
                tracing::info!(key, "the record is not too big any more");
            }
        }
        self.measure();
    }

    /// Forgets those that nobody wants written any more.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        if !self.keys.is_empty() {
            self.keys.retain(|key| is_wanted(key));
            self.measure();
        }
    }

    fn measure(&self) {
        self.metrics.oversized_records.set(i64::try_from(self.keys.len()).unwrap_or(i64::MAX));
    }
}
