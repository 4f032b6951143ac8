//! What plans freed and a program may still be reading: waits for a grace period, one at a time, beside the loop.
//!
//! Where waiting fails nothing is released and everything waits on: plans go on as long as there is room.

use std::time::Instant;

use mesh_kv::backoff::Backoff;
use tokio::task::JoinHandle;

use super::metrics::Metrics;
use crate::datapath::grace::{GraceError, GracePeriods, Method};
use crate::datapath::plan::Freed;

/// What waits.
#[derive(Debug)]
pub(super) struct Retired {
    periods: GracePeriods,
    metrics: Metrics,
    /// Freed since the grace period under way began.
    waiting: Freed,
    under_way: Option<Grace>,
    backoff: Backoff,
    /// After a failure, when the next attempt begins.
    not_before: Option<Instant>,
}

/// A grace period under way, and what it is for.
#[derive(Debug)]
struct Grace {
    ended: JoinHandle<Result<Method, GraceError>>,
    freed: Freed,
}

impl Retired {
    pub(super) fn new(periods: GracePeriods, metrics: Metrics) -> Self {
        metrics.grace_method(periods.method());
        Self {
            periods,
            metrics,
            waiting: Freed::default(),
            under_way: None,
            backoff: Backoff::default(),
            not_before: None,
        }
    }

    /// More to wait for.
    pub(super) fn add(&mut self, freed: Freed) {
        self.waiting.append(freed);
    }

    /// Whether the last attempt to wait failed.
    pub(super) fn is_stuck(&self) -> bool {
        self.not_before.is_some()
    }

    /// What may be released now: begins the next grace period where there is something to wait for, and returns with the
    /// first that has ended. Nothing is lost where the call is given up.
    pub(super) async fn released(&mut self) -> Freed {
        loop {
            self.begin().await;
            let Some(under_way) = &mut self.under_way else { return std::future::pending().await };
            let ended = (&mut under_way.ended).await;
            let freed = self.under_way.take().map(|grace| grace.freed).unwrap_or_default();
            match ended {
                Ok(Ok(method)) => {
                    self.metrics.grace_period(method);
                    self.backoff.reset();
                    self.not_before = None;
                    return freed;
                }
                Ok(Err(error)) => self.fail(&error, freed),
                // Blocking tasks are only cancelled when the runtime goes.
                Err(_) => self.waiting.append(freed),
            }
        }
    }

    async fn begin(&mut self) {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return;
        }
        if let Some(at) = self.not_before {
            tokio::time::sleep_until(at.into()).await;
        }
        let periods = self.periods.clone();
        let ended = tokio::task::spawn_blocking(move || periods.wait());
        self.under_way = Some(Grace { ended, freed: std::mem::take(&mut self.waiting) });
    }

    fn fail(&mut self, error: &GraceError, freed: Freed) {
        let error = mesh_kv::fault::chain(error);
        if !self.is_stuck() {
            tracing::error!(
                error,
                "no grace period can be waited for: nothing that plans freed is used again"
            );
        }
        self.metrics.grace_failed();
        self.waiting.append(freed);
        self.not_before = Some(Instant::now() + self.backoff.next_delay());
    }
}
