//! What real connections show of one backend.

use std::time::Duration;

use crate::signal::Outcome;
use crate::time::Monotonic;

/// So many failures in a row, or such a share of so many within `WINDOW`.
const IN_A_ROW: u32 = 3;
const WINDOW: Duration = Duration::from_secs(10);
const ENOUGH: u32 = 10;
/// How long the first quarantine takes, and the longest; each is twice the one before.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
const MOST_STRIKES: u32 = 16;
/// So many successes end a probation, and take one strike away each time.
const PROVEN: u32 = 3;

#[derive(Debug, Default)]
pub(crate) struct Evidence {
    in_a_row: u32,
    /// Successes in a row.
    good: u32,
    window: Option<Monotonic>,
    failed: u32,
    all: u32,
    strikes: u32,
    /// It came out of quarantine, and one failure brings it back.
    on_probation: bool,
}

impl Evidence {
    pub(crate) fn observe(&mut self, outcome: Outcome, at: Monotonic) {
        if self.window.is_none_or(|start| at.since(start) >= WINDOW) {
            (self.window, self.failed, self.all) = (Some(at), 0, 0);
        }
        self.all = self.all.saturating_add(1);
        if outcome == Outcome::Connected {
            self.in_a_row = 0;
            self.good = self.good.saturating_add(1);
            if self.good.is_multiple_of(PROVEN) {
                self.on_probation = false;
                self.strikes = self.strikes.saturating_sub(1);
            }
        } else {
            self.good = 0;
            self.failed = self.failed.saturating_add(1);
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
    }

    pub(crate) fn is_bad(&self) -> bool {
        let mostly = self.all >= ENOUGH && self.failed * 2 >= self.all && self.in_a_row > 0;
        let relapsed = self.on_probation && self.in_a_row > 0;
        self.in_a_row >= IN_A_ROW || mostly || relapsed
    }

    /// Into quarantine: for how long.
    pub(crate) fn sentence(&mut self) -> Duration {
        let time = (FIRST * 2_u32.pow(self.strikes)).min(LONGEST);
        let strikes = (self.strikes + 1).min(MOST_STRIKES);
        *self = Self { strikes, ..Self::default() };
        time
    }

    /// Out of quarantine.
    pub(crate) fn release(&mut self) {
        *self = Self { strikes: self.strikes, on_probation: true, ..Self::default() };
    }

    pub(crate) fn forget(&mut self) {
        *self = Self { strikes: self.strikes, on_probation: self.on_probation, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Connected, Refused, Unanswered};

    fn after(outcomes: &[Outcome]) -> Evidence {
        let mut evidence = Evidence::default();
        for (n, outcome) in outcomes.iter().enumerate() {
            evidence.observe(*outcome, Monotonic::from_millis(n as u64 * 100));
        }
        evidence
    }

    #[test]
    fn failures_in_a_row_or_most_of_many_are_bad() {
        let table: &[(&[Outcome], bool)] = &[
            (&[Refused, Refused], false),
            (&[Refused, Unanswered, Refused], true),
            (&[Refused, Refused, Connected, Refused, Refused], false),
            (&[Refused, Connected].repeat(5), false),
            (&[Connected, Refused].repeat(5), true),
            (&[Connected, Connected, Refused].repeat(5), false),
        ];
        for (outcomes, bad) in table {
            assert_eq!(after(outcomes).is_bad(), *bad, "{outcomes:?}");
        }
    }

    #[test]
    fn sentences_grow_to_a_cap_and_good_conduct_shortens_them() {
        let mut evidence = Evidence::default();
        let sentences: Vec<u64> = (0..7).map(|_| evidence.sentence().as_secs()).collect();
        assert_eq!(sentences, [10, 20, 40, 80, 160, 300, 300]);
        evidence.release();
        (0..21).for_each(|n| evidence.observe(Connected, Monotonic::from_millis(n)));
        assert_eq!(evidence.sentence(), FIRST);
    }

    #[test]
    fn on_probation_one_failure_is_enough() {
        let mut evidence = Evidence::default();
        evidence.sentence();
        evidence.release();
        evidence.observe(Connected, Monotonic::default());
        assert!(!evidence.is_bad());
        evidence.observe(Unanswered, Monotonic::default());
        assert!(evidence.is_bad());
    }
}
