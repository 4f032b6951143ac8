//! When our programs are moved before those of others. No contest: at most once an hour, and never again for programs that
//! stayed before ours. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::datapath::hook_order::Order;

/// Another balancer may insist on being first, too.
const AGAIN: Duration = Duration::from_secs(3600);

/// The attempt.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    last: Option<Instant>,
    /// No look since.
    unseen: bool,
    /// Programs that a move does not pass.
    stayed: BTreeSet<u32>,
}

impl Ahead {
    /// Whether to move the programs now; then that counts as tried.
    pub(super) fn is_due(&mut self, order: &Order, now: Instant) -> bool {
        let before: BTreeSet<_> =
            order.foreign.iter().filter(|foreign| foreign.before).map(|foreign| foreign.program).collect();
        if std::mem::take(&mut self.unseen) {
            self.stayed.clone_from(&before);
        }
        let rested = self.last.is_none_or(|last| now.duration_since(last) >= AGAIN);
        let due = rested && !before.is_subset(&self.stayed);
        if due {
            (self.last, self.unseen) = (Some(now), true);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::hook_order::Foreign;
    use mesh_admin::Hook;

    fn before(programs: &[u32]) -> Order {
        let foreign = |program: &u32| Foreign {
            hook: Hook::Connect4,
            program: *program,
            before: true,
            cgroup: "/".into(),
            name: None,
            tag: None,
        };
        Order { foreign: programs.iter().map(foreign).collect(), ..Order::default() }
    }

    #[test]
    fn a_program_that_comes_is_passed_once_an_hour() {
        let (mut ahead, start) = (Ahead::default(), Instant::now());
        assert!(!ahead.is_due(&before(&[]), start));
        assert!(ahead.is_due(&before(&[1]), start), "it came");
        assert!(!ahead.is_due(&before(&[]), start), "it was passed");
        assert!(!ahead.is_due(&before(&[2]), start + AGAIN / 2), "it insists");
        assert!(ahead.is_due(&before(&[2]), start + AGAIN));
    }

    #[test]
    fn one_that_cant_be_passed_is_left_alone() {
        let (mut ahead, start) = (Ahead::default(), Instant::now());
        assert!(ahead.is_due(&before(&[1]), start));
        assert!(!ahead.is_due(&before(&[1]), start), "it stayed");
        assert!(!ahead.is_due(&before(&[1]), start + 2 * AGAIN));
        assert!(ahead.is_due(&before(&[1, 2]), start + 2 * AGAIN), "another came");
    }
}
