//! How a cluster gets its connections back: after a hold that grows with every relapse, and then step by step.

use std::time::Duration;

use crate::report::Share;
use crate::settings::Settings;
use crate::time::Monotonic;

/// What a returning cluster gets, step by step, of what it would get.
const STEPS: [u8; 4] = [10, 25, 50, 75];
/// More doublings than any hold has room for.
const MOST_RELAPSES: u32 = 16;

/// How often a cluster has been demoted shortly after it came back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Relapses {
    count: u32,
    /// Since when it has been fully in use after the last demotion.
    restored: Option<Monotonic>,
}

impl Relapses {
    pub(crate) fn demoted(&mut self, now: Monotonic, demoted_before: bool, settings: &Settings) {
        let forgiven = self.restored.is_some_and(|at| now.since(at) >= settings.forgive_after);
        self.count = if forgiven || !demoted_before { 0 } else { (self.count + 1).min(MOST_RELAPSES) };
        self.restored = None;
    }

    pub(crate) fn restored(&mut self, now: Monotonic) {
        self.restored = Some(now);
    }

    /// How long probes have to be good.
    pub(crate) fn hold(self, settings: &Settings) -> Duration {
        let (first, longest) = settings.hold;
        (first * 2_u32.pow(self.count)).min(longest)
    }
}

/// What a cluster gets that has been good for so long after its hold.
pub(crate) fn share(after_hold: Duration, settings: &Settings) -> Share {
    // Steps that take no time are no ramp.
    let step = after_hold.as_nanos().checked_div(settings.ramp_step.as_nanos());
    let step = step.and_then(|step| usize::try_from(step).ok());
    step.and_then(|step| STEPS.get(step)).map_or(Share::ALL, |percent| Share::from_percent(*percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_doubles_with_every_relapse_up_to_its_cap_and_is_forgiven() {
        let settings = Settings::default();
        let at = |seconds: u64| Monotonic::from_millis(seconds * 1000);
        let mut relapses = Relapses::default();
        let mut holds = Vec::new();
        for round in 0..8 {
            relapses.demoted(at(round * 400), round > 0, &settings);
            holds.push(relapses.hold(&settings).as_secs());
            relapses.restored(at(round * 400 + 300));
        }
        assert_eq!(holds, [15, 30, 60, 120, 240, 300, 300, 300]);
        relapses.demoted(at(7 * 400 + 300 + 600), true, &settings);
        assert_eq!(relapses.hold(&settings).as_secs(), 15);
    }

    #[test]
    fn a_ramp_has_steps_and_an_end() {
        let settings = Settings::default();
        let after = |seconds| share(Duration::from_secs(seconds), &settings);
        for (seconds, percent) in [(0, 10), (4, 10), (5, 25), (10, 50), (19, 75), (20, 100)] {
            assert_eq!(after(seconds), Share::from_percent(percent), "{seconds} s");
        }
    }
}
