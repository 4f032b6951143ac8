//! How long to wait before the API server is asked again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const FIRST: Duration = Duration::from_millis(100);
/// Jitter adds up to as much again.
const LAST: Duration = Duration::from_secs(5);

/// Delays that grow from 100 ms to 10 s. With jitter: every node of a cluster asks the same server.
#[derive(Debug)]
pub(crate) struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        let builder = ExponentialBuilder::new().with_min_delay(FIRST).with_max_delay(LAST);
        Self(builder.without_max_times().with_jitter().build())
    }
}

impl Backoff {
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.0.next().unwrap_or(LAST)
    }

    /// The next delay is the first one again.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}
