//! Whether the programs of others keep this node from balancing. Pure.

use crate::datapath::hook_order::{Foreign, Order};
use crate::datapath::packetless::{Dialled, Dials};

/// Why the node does not balance, or not for certain. Programs of others that take nothing are no reason.
///
/// `planned`: what the sources say is in the maps, so that there was something to dial if there is anything at all.
pub(super) fn verdict(order: &Order, dialled: &Dialled, planned: bool) -> Result<(), String> {
    let taken: Vec<_> = dialled.taken().filter(|dials| dials.hook.translates()).collect();
    if !taken.is_empty() {
        let taken: Vec<_> = taken.into_iter().map(|dials| describe(order, dials)).collect();
        return Err(format!(
            "{}; `clustermesh hook list` shows them, docs/other-balancers.md says what to do",
            taken.join("; ")
        ));
    }
    if awaits_plan(order, dialled) && !planned {
        return Err(
            "programs of others run before ours; waiting for the first plan, to dial what it brings".into()
        );
    }
    Ok(())
}

/// Whether there was nothing to dial yet.
pub(super) fn awaits_plan(order: &Order, dialled: &Dialled) -> bool {
    !order.preceded().is_empty()
        && dialled.failed.is_none()
        && dialled.hooks.iter().all(|dials| dials.dialled == 0)
}

fn describe(order: &Order, dials: &Dials) -> String {
    let Dials { hook, dialled, taken, examples } = dials;
    let example = examples.first().map(|example| format!(", {example} among them"));
    let example = example.unwrap_or_default();
    let programs = order.foreign.iter().filter(|foreign| foreign.before && foreign.hook == *hook);
    let programs: Vec<_> = programs.map(program).collect();
    format!(
        "at {hook} something else takes {taken} of {dialled} frontends before the mesh sees them{example}; before ours \
         run {}",
        programs.join(", ")
    )
}

fn program(foreign: &Foreign) -> String {
    let name = foreign.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    format!("program {}{name} of cgroup {}", foreign.program, foreign.cgroup.display())
}

#[cfg(test)]
mod tests {
    use mesh_admin::Hook;

    use super::*;

    fn order(before: bool) -> Order {
        let foreign = Foreign {
            hook: Hook::Connect4,
            program: 17,
            before,
            cgroup: "/sys/fs/cgroup".into(),
            name: None,
            tag: None,
        };
        Order { ours: [(Hook::Connect4, 20)].into(), foreign: vec![foreign] }
    }

    fn dialled(hook: Hook, dialled: usize, taken: usize) -> Dialled {
        let frontend = crate::datapath::actual::CANARY;
        let dials = Dials { hook, dialled, taken, examples: vec![frontend; taken.min(1)] };
        Dialled { hooks: vec![dials], failed: None }
    }

    #[test]
    fn who_takes_nothing_is_no_obstacle() {
        assert_eq!(verdict(&order(true), &dialled(Hook::Connect4, 3, 0), false), Ok(()));
        assert_eq!(
            verdict(&order(false), &Dialled::default(), false),
            Ok(()),
            "behind ours there is nothing to take"
        );
        let shown = dialled(Hook::GetPeerName4, 3, 3);
        assert_eq!(verdict(&order(true), &shown, true), Ok(()), "connects work all the same");
    }

    #[test]
    fn who_takes_is_named_with_what_and_where() {
        let reason = verdict(&order(true), &dialled(Hook::Connect4, 3, 1), true).unwrap_err();
        for part in
            ["connect4", "1 of 3", "127.255.67.77:9", "program 17 of cgroup /sys/fs/cgroup", "hook list"]
        {
            assert!(reason.contains(part), "{part}: {reason}");
        }
    }

    #[test]
    fn before_the_first_plan_nothing_dialled_proves_nothing() {
        let nothing = dialled(Hook::Connect4, 0, 0);
        assert!(verdict(&order(true), &nothing, false).is_err());
        assert_eq!(verdict(&order(true), &nothing, true), Ok(()), "there are no global Services");
        let untold = Dialled { failed: Some("EPERM".into()), ..Dialled::default() };
        assert_eq!(verdict(&order(true), &untold, false), Ok(()), "a warning, no proof");
    }
}
