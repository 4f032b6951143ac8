//! How long to wait before the next attempt.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const FIRST: Duration = Duration::from_millis(100);
/// Jitter adds up to as much again.
const LAST: Duration = Duration::from_secs(5);

/// Delays that grow from 100 ms to 10 s, with jitter so that many who ask the same server spread out.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        Self(between(FIRST, LAST))
    }
}

impl Backoff {
    pub fn next_delay(&mut self) -> Duration {
        self.0.next().unwrap_or(LAST)
    }

    /// The next delay, and at least as long as the server has asked for.
    pub fn delay_after(&mut self, asked: Option<Duration>) -> Duration {
        // Jitter on top, never below: all who ask were told the same.
        let asked = asked.and_then(|asked| between(asked, asked).next()).unwrap_or_default();
        self.next_delay().max(asked)
    }

    /// The next delay is the first one again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

fn between(first: Duration, last: Duration) -> ExponentialBackoff {
    let builder = ExponentialBuilder::new().with_min_delay(first).with_max_delay(last);
    builder.without_max_times().with_jitter().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_from_100_ms_to_10_s_and_begin_anew_after_success() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..40).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] >= FIRST && delays[0] <= 2 * FIRST);
        assert!(delays[39] >= LAST && delays[39] <= 2 * LAST);
        backoff.reset();
        assert!(backoff.next_delay() <= 2 * FIRST);
    }
}
