//! How many requests may be made at once, and how many after that. Pure but for the clock that its callers pass in.

use std::time::Duration;

use tokio::time::Instant;

/// So many at once, then one per pause.
const BURST: u32 = 20;
const PAUSE: Duration = Duration::from_secs(2);

/// A bucket of tokens.
#[derive(Debug)]
pub(super) struct Allowance {
    tokens: u32,
    filled: Option<Instant>,
}

impl Allowance {
    pub(super) fn new() -> Self {
        Self { tokens: BURST, filled: None }
    }

    /// Takes a token. Returns how long to wait before it counts.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        let filled = *self.filled.get_or_insert(now);
        let whole = now.saturating_duration_since(filled).as_secs() / PAUSE.as_secs();
        let whole = u32::try_from(whole).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(whole).min(BURST);
        self.filled = Some(if self.tokens == BURST { now } else { filled + PAUSE * whole });
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Duration::ZERO
            }
            None => {
                self.filled = Some(now + PAUSE);
                PAUSE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_one_per_pause_is_allowed() {
        let (mut allowance, now) = (Allowance::new(), Instant::now());
        assert!((0..BURST).all(|_| allowance.wait(now).is_zero()));
        assert_eq!(allowance.wait(now), PAUSE);
        assert!(allowance.wait(now + 2 * PAUSE).is_zero());
        let later = now + 1000 * PAUSE;
        assert_eq!((0..100).filter(|_| allowance.wait(later).is_zero()).count(), BURST as usize);
    }
}
