//! When each frontend that a write failed of is tried again. Pure: `now` is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use mesh_failure::Backoff;
use mesh_model::desired::Frontend;

/// After so many attempts nobody waits for a frontend any more: it is refused like one that finds no room.
const ATTEMPTS: u32 = 6;

/// The frontends that wait.
#[derive(Debug, Default)]
pub(super) struct Retries {
    waiting: BTreeMap<Frontend, Attempts>,
    /// The same in the order of time; those that are under way are in `waiting` only.
    due: BTreeSet<(Instant, Frontend)>,
}

#[derive(Debug, Default)]
struct Attempts {
    count: u32,
    backoff: Backoff,
}

impl Retries {
    /// A write of the frontend failed.
    pub(super) fn failed(&mut self, frontend: Frontend, now: Instant) {
        let attempts = self.waiting.entry(frontend).or_default();
        attempts.count += 1;
        self.due.insert((now + attempts.backoff.next_delay(), frontend));
    }

    /// All of the frontend's writes have succeeded.
    pub(super) fn succeeded(&mut self, frontend: &Frontend) {
        self.waiting.remove(frontend);
    }

    /// When the next ones are due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Those that are due, which are under way from now on.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Frontend> {
        let mut frontends = Vec::new();
        while let Some((at, frontend)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, frontend));
                break;
            }
            frontends.push(frontend);
        }
        frontends
    }

    /// Number of frontends that a write failed of and that have not been written since.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a frontend is worth waiting for.
    pub(super) fn are_fresh(&self) -> bool {
        self.waiting.values().any(|attempts| attempts.count < ATTEMPTS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_model::snapshot::Protocol;

    use super::*;

    #[test]
    fn each_frontend_has_a_pause_of_its_own() {
        let frontend = |port| Frontend { address: [10, 0, 0, 1].into(), port, protocol: Protocol::Tcp };
        let (mut retries, start) = (Retries::default(), Instant::now());
        assert_eq!((retries.next(), retries.are_fresh()), (None, false));
        let mut now = start;
        for _ in 0..ATTEMPTS {
            retries.failed(frontend(1), now);
            assert!(retries.take_due(now).is_empty());
            now = retries.next().unwrap();
            assert_eq!(retries.take_due(now), [frontend(1)]);
        }
        assert!(now - start > Duration::from_secs(3) && !retries.are_fresh());
        retries.failed(frontend(1), now);
        retries.failed(frontend(2), now);
        let soon = now + Duration::from_millis(200);
        assert_eq!(retries.take_due(soon), [frontend(2)], "the other one has waited for long already");
        assert!(retries.are_fresh());
        retries.succeeded(&frontend(2));
        assert_eq!((retries.len(), retries.are_fresh()), (1, false));
    }
}
