//! The return of an agent to maps whose services have passed to kube-proxy meanwhile.
//!
//! Such maps show the cluster of some time ago: a sign of life would send connections to pods that may be gone. There is
//! none until the maps are right again. Pure: reads no clock, writes no map.

use std::time::{Duration, Instant};

/// How long a silent peer holds up the return, once everything that is known is in the maps. Until then services with
/// local backends are served by those alone; afterwards the silent peer's are taken for what they were.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether signs of life must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comeback {
    /// The maps hold what is known since this moment, if they do.
    Waiting {
        settled_at: Option<Instant>,
    },
    Over,
}

impl Comeback {
    /// `has_yielded`: the last sign of life in the maps is too old.
    pub fn new(has_yielded: bool) -> Self {
        if has_yielded { Self::Waiting { settled_at: None } } else { Self::Over }
    }

    /// Whether a sign of life may be given now, when the maps hold everything that is known or don't (`settled`), and
    /// everything is known or not (`all_spoke`).
    pub fn may_beat(&mut self, settled: bool, all_spoke: bool, now: Instant) -> bool {
        if let (Self::Waiting { settled_at }, true) = (&mut *self, settled) {
            let since = *settled_at.get_or_insert(now);
            if all_spoke || now.duration_since(since) >= PATIENCE {
                *self = Self::Over;
            }
        }
        *self == Self::Over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_have_not_yielded_need_no_wait() {
        assert!(Comeback::new(false).may_beat(false, false, Instant::now()));
    }

    #[test]
    fn a_sign_of_life_waits_until_the_maps_are_right() {
        let (mut comeback, now) = (Comeback::new(true), Instant::now());
        assert!(!comeback.may_beat(false, false, now));
        assert!(!comeback.may_beat(false, true, now + PATIENCE));
        assert!(!comeback.may_beat(true, false, now + PATIENCE));
        assert!(comeback.may_beat(true, true, now + PATIENCE));
        assert!(comeback.may_beat(false, false, now + PATIENCE), "there is no way back");
    }

    #[test]
    fn a_silent_peer_holds_the_return_up_only_for_a_while() {
        let (mut comeback, now) = (Comeback::new(true), Instant::now());
        assert!(!comeback.may_beat(true, false, now));
        assert!(!comeback.may_beat(true, false, now + PATIENCE / 2));
        assert!(comeback.may_beat(true, false, now + PATIENCE));
    }
}
