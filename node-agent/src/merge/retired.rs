//! Waits for the grace periods of elements that plans retired and that a program may still read: one period at a time, beside
//! the loop.
//!
//! When a wait fails, nothing is released and everything waits on: plans go on as long as there is room.

use std::sync::Arc;
use std::time::Instant;

use mesh_failure::Backoff;
use tokio::task::JoinHandle;

use super::metrics::Metrics;
use crate::datapath::grace::{GraceError, GracePeriods, Method};
use crate::datapath::plan::Retired;

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

/// Retired elements that wait.
pub(super) struct GraceQueue {
    periods: Arc<dyn GraceWait>,
    metrics: Metrics,
    /// Retired since the grace period under way began.
    waiting: Retired,
    under_way: Option<Grace>,
    backoff: Backoff,
    /// After a failure, when the next attempt begins.
    not_before: Option<Instant>,
}

/// A grace period under way, and what it is for.
#[derive(Debug)]
struct Grace {
    ended: JoinHandle<Result<Method, GraceError>>,
    retired: Retired,
}

impl GraceQueue {
    pub(super) fn new(periods: Arc<dyn GraceWait>, metrics: Metrics) -> Self {
        metrics.grace_method(periods.method());
        Self {
            periods,
            metrics,
            waiting: Retired::default(),
            under_way: None,
            backoff: Backoff::default(),
            not_before: None,
        }
    }

    /// More to wait for.
    pub(super) fn add(&mut self, retired: Retired) {
        self.waiting.append(retired);
    }

    /// Whether the last attempt to wait failed.
    pub(super) fn is_stuck(&self) -> bool {
        self.not_before.is_some()
    }

    /// Elements to release now: begins the next grace period where there is something to wait for, and returns with the
    /// first that has ended. Nothing is lost where the call is given up.
    pub(super) async fn released(&mut self) -> Retired {
        loop {
            self.begin().await;
            let Some(under_way) = &mut self.under_way else { return std::future::pending().await };
            let ended = (&mut under_way.ended).await;
            let retired = self.under_way.take().map(|grace| grace.retired).unwrap_or_default();
            match ended {
                Ok(Ok(method)) => {
                    self.metrics.grace_period(method);
                    self.backoff.reset();
                    self.not_before = None;
                    return retired;
                }
                Ok(Err(error)) => self.fail(&error, retired),
                // Blocking tasks are only cancelled when the runtime goes.
                Err(_) => self.waiting.append(retired),
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
        self.under_way = Some(Grace { ended, retired: std::mem::take(&mut self.waiting) });
    }

    fn fail(&mut self, error: &GraceError, retired: Retired) {
        let error = mesh_failure::chain(error);
        if !self.is_stuck() {
            tracing::error!(
                error,
                "no grace period can be waited for: nothing that plans retired is used again"
            );
        }
        self.metrics.grace_failed();
        self.waiting.append(retired);
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

    fn queue() -> (GraceQueue, Sender<bool>) {
        let (end, ends) = channel();
        let metrics = Metrics::register(&mut Registry::default());
        (GraceQueue::new(Arc::new(Waits(Mutex::new(ends))), metrics), end)
    }

    fn retired(backend: u32) -> Retired {
        Retired::of_backends(vec![backend])
    }

    /// Polls once.
    async fn is_released(queue: &mut GraceQueue) -> Option<Retired> {
        tokio::select! {
            biased;
            retired = queue.released() => Some(retired),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn what_is_freed_during_a_wait_waits_for_the_next_one() {
        let (mut queue, end) = queue();
        assert_eq!(is_released(&mut queue).await, None, "there is nothing to wait for");
        queue.add(retired(1));
        assert_eq!(is_released(&mut queue).await, None, "it has begun");
        queue.add(retired(2));
        end.send(true).unwrap();
        assert_eq!(queue.released().await, retired(1));
        end.send(true).unwrap();
        assert_eq!(queue.released().await, retired(2));
    }

    #[tokio::test]
    async fn a_wait_that_fails_releases_nothing_and_is_begun_again() {
        let (mut queue, end) = queue();
        queue.add(retired(1));
        end.send(false).unwrap();
        let told = async {
            while !queue.is_stuck() {
                assert_eq!(is_released(&mut queue).await, None);
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), told).await.unwrap();
        queue.add(retired(2));
        end.send(true).unwrap();
        let mut both = retired(1);
        both.append(retired(2));
        assert_eq!(queue.released().await, both);
        assert!(!queue.is_stuck());
    }
}
