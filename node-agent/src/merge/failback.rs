//! Failback: an agent returns to maps whose services have passed to kube-proxy meanwhile.
//!
//! Such maps show the cluster of some time ago: a sign of life would send connections to pods that may be gone. There is
//! none until the maps are right again. Pure: reads no clock, writes no map.

use std::time::{Duration, Instant};

use mesh_abi::Control;

/// A silent peer delays the failback for this long, once everything known is in the maps. Until then services with local
/// backends are served by those alone; afterwards the silent peer's last known backends count. Watches have as long to catch
/// up after the agent itself was suspended.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether signs of life must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// The maps hold what is known since this moment, if they do.
    Waiting {
        settled_at: Option<Instant>,
    },
    /// The agent was suspended until this moment: its knowledge is older, and it can't know how much of it is wrong.
    Suspended {
        at: Instant,
    },
    Over,
}

impl Failback {
    /// `has_yielded`: the last sign of life in the maps is too old.
    pub fn new(has_yielded: bool) -> Self {
        if has_yielded { Self::Waiting { settled_at: None } } else { Self::Over }
    }

    /// A running agent finds its last sign of life too old: it was suspended, and so were its watches.
    pub(crate) fn suspended(&mut self, has_yielded: bool, now: Instant) {
        if has_yielded && *self == Self::Over {
            *self = Self::Suspended { at: now };
        }
    }

    /// Whether a sign of life may be given now, when the maps hold everything that is known or don't (`settled`), and
    /// everything is known or not (`all_synced`).
    pub(crate) fn may_beat(&mut self, settled: bool, all_synced: bool, now: Instant) -> bool {
        let over = match self {
            Self::Over => true,
            Self::Waiting { settled_at } => {
                settled && {
                    let since = *settled_at.get_or_insert(now);
                    all_synced || now.duration_since(since) >= PATIENCE
                }
            }
            Self::Suspended { at } => settled && now.duration_since(*at) >= PATIENCE,
        };
        if over {
            *self = Self::Over;
        }
        over
    }
}

/// Whether the last sign of life is too old at `now_ns` (`CLOCK_MONOTONIC`, nanoseconds), as the programs judge it.
pub(crate) fn has_yielded(control: &Control, now_ns: u64) -> bool {
    let age_ns = now_ns.saturating_sub(control.heartbeat_ns);
    control.yield_after_ns != 0 && age_ns > control.yield_after_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_have_not_yielded_need_no_wait() {
        assert!(Failback::new(false).may_beat(false, false, Instant::now()));
    }

    #[test]
    fn a_sign_of_life_waits_until_the_maps_are_right() {
        let (mut failback, now) = (Failback::new(true), Instant::now());
        assert!(!failback.may_beat(false, false, now));
        assert!(!failback.may_beat(false, true, now + PATIENCE));
        assert!(!failback.may_beat(true, false, now + PATIENCE));
        assert!(failback.may_beat(true, true, now + PATIENCE));
        assert!(failback.may_beat(false, false, now + PATIENCE), "there is no way back");
    }

    #[test]
    fn a_silent_peer_holds_the_return_up_only_for_a_while() {
        let (mut failback, now) = (Failback::new(true), Instant::now());
        assert!(!failback.may_beat(true, false, now));
        assert!(!failback.may_beat(true, false, now + PATIENCE / 2));
        assert!(failback.may_beat(true, false, now + PATIENCE));
    }

    #[test]
    fn an_agent_that_was_stopped_gives_its_watches_time_although_all_were_synced() {
        let (mut failback, now) = (Failback::Over, Instant::now());
        failback.suspended(false, now);
        assert!(failback.may_beat(true, true, now));
        failback.suspended(true, now);
        assert!(!failback.may_beat(true, true, now));
        failback.suspended(true, now + PATIENCE / 2);
        assert!(!failback.may_beat(false, true, now + PATIENCE));
        assert!(failback.may_beat(true, true, now + PATIENCE));
    }
}
