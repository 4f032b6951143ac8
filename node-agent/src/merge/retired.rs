//! What plans freed and a program may still be reading: waits for a grace period, one at a time, beside the loop.
//!
//! Where waiting fails nothing is released and everything waits on: plans go on as long as there is room.

use std::sync::Arc;
use std::time::Instant;

use mesh_kv::backoff::Backoff;
use tokio::task::JoinHandle;

use super::metrics::Metrics;
use crate::datapath::grace::{GraceError, GracePeriods, Method};
use crate::datapath::plan::Freed;

/// A way to wait for a grace period.
pub trait GraceWait: Send + Sync {
    /// Blocks until every program that was running has ended.
    fn wait(&self) -> Result<Method, GraceError>;
    /// By what is waited as long as that succeeds.
    fn method(&self) -> Method;
}

impl GraceWait for GracePeriods {
    fn wait(&self) -> Result<Method, GraceError> {
        Self::wait(self)
    }

    fn method(&self) -> Method {
        Self::method(self)
    }
}

/// What waits.
pub(super) struct Retired {
    periods: Arc<dyn GraceWait>,
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
    pub(super) fn new(periods: Arc<dyn GraceWait>, metrics: Metrics) -> Self {
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use prometheus_client::registry::Registry;

    use super::*;

    /// Each wait ends when the test says so, and as it says.
    struct Waits(Mutex<Receiver<bool>>);

    impl GraceWait for Waits {
        fn wait(&self) -> Result<Method, GraceError> {
            let succeeds = self.0.lock().unwrap().recv().unwrap();
            if succeeds { Ok(Method::Membarrier) } else { Err(GraceError::Wait(io::Error::other("refused"))) }
        }

        fn method(&self) -> Method {
            Method::Membarrier
        }
    }

    fn retired() -> (Retired, Sender<bool>) {
        let (end, ends) = channel();
        let metrics = Metrics::register(&mut Registry::default());
        (Retired::new(Arc::new(Waits(Mutex::new(ends))), metrics), end)
    }

    fn freed(backend: u32) -> Freed {
        Freed::of_backends(vec![backend])
    }

    /// Polls once.
    async fn is_released(retired: &mut Retired) -> Option<Freed> {
        tokio::select! {
            biased;
            freed = retired.released() => Some(freed),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn what_is_freed_during_a_wait_waits_for_the_next_one() {
        let (mut retired, end) = retired();
        assert_eq!(is_released(&mut retired).await, None, "there is nothing to wait for");
        retired.add(freed(1));
        assert_eq!(is_released(&mut retired).await, None, "it has begun");
        retired.add(freed(2));
        end.send(true).unwrap();
        assert_eq!(retired.released().await, freed(1));
        end.send(true).unwrap();
        assert_eq!(retired.released().await, freed(2));
    }

    #[tokio::test]
    async fn a_wait_that_fails_releases_nothing_and_is_begun_again() {
        let (mut retired, end) = retired();
        retired.add(freed(1));
        end.send(false).unwrap();
        let told = async {
            while !retired.is_stuck() {
                assert_eq!(is_released(&mut retired).await, None);
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), told).await.unwrap();
        retired.add(freed(2));
        end.send(true).unwrap();
        let mut both = freed(1);
        both.append(freed(2));
        let released = retired.released().await;
        assert!(
            released == both || {
                both = freed(2);
                both.append(freed(1));
                released == both
            }
        );
        assert!(!retired.is_stuck());
    }
}
