//! Outcomes of connects: the kernel's counts for the metrics.

use mesh_abi::OUTCOMES;

use super::metrics::Metrics;
use crate::datapath::maps::MapError;
use crate::datapath::outcomes::OutcomeMap;

/// Where the programs count.
pub trait Outcomes: Send {
    /// How often each outcome happened, in the order of [`mesh_abi::Outcome`].
    fn read(&self) -> Result<[u64; OUTCOMES], MapError>;
}

impl Outcomes for OutcomeMap {
    fn read(&self) -> Result<[u64; OUTCOMES], MapError> {
        Self::read(self)
    }
}

/// Shows the counts.
pub(super) struct Connects {
    outcomes: Box<dyn Outcomes>,
    /// Whether they could not be read the last time.
    failed: bool,
}

impl Connects {
    pub(super) fn new(outcomes: Box<dyn Outcomes>) -> Self {
        Self { outcomes, failed: false }
    }

    /// Brings the metrics up to what the kernel has counted. A failure is told once, and once that it is over.
    pub(super) fn count(&mut self, metrics: &Metrics) {
        match self.outcomes.read() {
            Ok(outcomes) => {
                metrics.connects(&outcomes);
                if std::mem::take(&mut self.failed) {
                    tracing::info!("the programs' counts can be read again");
                }
            }
            Err(error) if !std::mem::replace(&mut self.failed, true) => {
                let error = mesh_failure::chain(&error);
                tracing::error!(error, "the programs' counts can't be read: metrics of connects stand still");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use prometheus_client::registry::Registry;

    use super::*;

    #[derive(Clone, Default)]
    struct Counts(Arc<Mutex<Option<u64>>>);

    impl Outcomes for Counts {
        fn read(&self) -> Result<[u64; OUTCOMES], MapError> {
            let source = std::io::Error::other("the read is refused");
            let refused = MapError::Call { action: "reading", name: "CPUS", source };
            self.0.lock().unwrap().map(|count| [count; OUTCOMES]).ok_or(refused)
        }
    }

    #[test]
    fn counts_that_cannot_be_read_stand_still_and_go_on() {
        let mut registry = Registry::default();
        let (metrics, counts) = (Metrics::register(&mut registry), Counts::default());
        let mut connects = Connects::new(Box::new(counts.clone()));
        let mut shown = |count| {
            *counts.0.lock().unwrap() = count;
            connects.count(&metrics);
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let line = text.lines().find(|line| line.starts_with("connects_total{outcome=\"translated\"}"));
            line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        assert_eq!([Some(3), None, Some(5)].map(&mut shown), [3, 3, 5]);
    }
}
