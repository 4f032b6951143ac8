//! How long to wait before the API server is asked again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::api::ApiError;

const FIRST: Duration = Duration::from_millis(100);
/// Jitter adds up to as much again.
const LAST: Duration = Duration::from_secs(5);
/// As long as a server may ask to be left alone; jitter adds up to as much again.
const LONGEST_ASKED: Duration = Duration::from_secs(30);

/// Delays that grow from 100 ms to 10 s. With jitter: every node of a cluster asks the same server.
#[derive(Debug)]
pub(crate) struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        Self(between(FIRST, LAST))
    }
}

impl Backoff {
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.0.next().unwrap_or(LAST)
    }

    /// The next delay, and at least as long as the server asked for (`Retry-After`).
    pub(crate) fn delay_after(&mut self, error: &ApiError) -> Duration {
        let asked = error.retry_after().map(|asked| asked.min(LONGEST_ASKED));
        // Jitter on top, never below: all nodes were told the same.
        let asked = asked.and_then(|asked| between(asked, asked).next()).unwrap_or_default();
        self.next_delay().max(asked)
    }

    /// The next delay is the first one again.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

fn between(first: Duration, last: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(last)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(seconds: u64) -> ApiError {
        let text = format!(r#"{{"code": 429, "details": {{"retryAfterSeconds": {seconds}}}}}"#);
        serde_json::from_str::<super::super::api::Status>(&text).unwrap().into()
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_asks_within_bounds() {
        for (asked, least, most) in [(7, 7, 14), (86_400, 30, 60), (u64::from(u32::MAX), 30, 60)] {
            let delays: Vec<_> = (0..50).map(|_| Backoff::default().delay_after(&refused(asked))).collect();
            let bounds = Duration::from_secs(least)..=Duration::from_secs(most);
            assert!(delays.iter().all(|delay| bounds.contains(delay)), "{asked}: {delays:?}");
            assert!(delays.windows(2).any(|two| two[0] != two[1]), "nodes must not come back together");
        }
    }

    #[test]
    fn a_server_that_asks_for_less_is_asked_with_growing_delays() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..8).map(|_| backoff.delay_after(&refused(0))).collect();
        assert!(delays[0] < FIRST * 2 && delays[7] >= LAST, "{delays:?}");
    }
}
