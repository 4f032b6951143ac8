//! How long an answer may take, as RFC 6298 estimates it.

use std::time::Duration;

use crate::settings::Settings;

/// No answer is late before this: a scheduler's hiccup on a LAN is no loss.
const SHORTEST: Duration = Duration::from_millis(150);
/// So many deadlines without a sign of life are a loss.
const DEADLINES: u32 = 6;

#[derive(Debug, Default)]
pub(crate) struct Rtt {
    /// The smoothed round trip and its variation.
    estimate: Option<(Duration, Duration)>,
}

impl Rtt {
    pub(crate) fn measured(&mut self, rtt: Duration) {
        self.estimate = Some(match self.estimate {
            None => (rtt, rtt / 2),
            Some((smooth, variation)) => {
                (smooth * 7 / 8 + rtt / 8, variation * 3 / 4 + smooth.abs_diff(rtt) / 4)
            }
        });
    }

    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.estimate.map(|(smooth, _)| smooth)
    }

    /// How long the answer to a probe may take.
    pub(crate) fn deadline(&self, settings: &Settings) -> Duration {
        let (smooth, variation) = self.estimate.unwrap_or_default();
        (smooth + variation * 4).clamp(SHORTEST, settings.lost_after.1 / DEADLINES)
    }

    /// How long after the last answer the data path is lost.
    pub(crate) fn lost_after(&self, settings: &Settings) -> Duration {
        let (floor, ceiling) = settings.lost_after;
        (self.deadline(settings) * DEADLINES).clamp(floor, ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_the_round_trip_between_a_floor_and_a_ceiling() {
        let settings = Settings::default();
        let table = [(1, 900), (60, 900), (200, 1300), (400, 2500), (2000, 3000)];
        for (rtt, at_most) in table {
            let mut measured = Rtt::default();
            (0..50).for_each(|_| measured.measured(Duration::from_millis(rtt)));
            let lost = measured.lost_after(&settings).as_millis();
            assert!(lost >= 900 && lost <= at_most, "{rtt} ms: {lost} ms");
        }
    }
}
