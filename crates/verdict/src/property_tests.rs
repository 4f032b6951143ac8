//! What holds of every history.

use proptest::prelude::*;

use crate::Verdict;
use crate::world_tests::{Fault, HOME, What, World, power};

const SECOND: u64 = 1000;
const FOREVER: u64 = u64::MAX;

fn what() -> impl Strategy<Value = Vec<What>> {
    use What::{Control, Echo, Path, Refused, Source, Unwitnessed};
    prop_oneof![
        Just(vec![Path, Control, Unwitnessed]),
        Just(vec![Path, Unwitnessed]),
        Just(vec![Path, Control]),
        Just(vec![Path, Refused, Unwitnessed]),
        Just(vec![Control]),
        Just(vec![Source]),
        Just(vec![Echo]),
    ]
}

/// Faults of cluster 2, one after another: each with how long it lasts, and how long all is well after it.
fn faults(lasts: std::ops::Range<u64>, pause: std::ops::Range<u64>) -> impl Strategy<Value = Vec<Fault>> {
    let one = (what(), lasts, pause);
    prop::collection::vec(one, 1..12).prop_map(|list| {
        let mut at = 10 * SECOND;
        let mut faults = Vec::new();
        for (what, lasts, pause) in list {
            faults.extend(what.iter().map(|what| Fault {
                cluster: 2,
                what: *what,
                from: at,
                to: at + lasts,
            }));
            at += lasts + pause;
        }
        faults
    })
}

fn end(faults: &[Fault]) -> u64 {
    faults.iter().map(|fault| fault.to).max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_cluster_that_lost_power_is_left_in_time_whenever_it_happens(
        death in 10 * SECOND..14 * SECOND,
        peers in 1_u16..5,
        nodes in 0_usize..4,
        connections in prop::option::of(prop_oneof![Just(10), Just(50), Just(330)]),
        witnesses: bool,
    ) {
        let mut world = World::new(peers, nodes, power(2, death / 10 * 10, FOREVER));
        world.connections = connections;
        world.witnesses = witnesses;
        world.run(death + 10 * SECOND);
        let (_, last) = *world.answered.iter().find(|(cluster, _)| *cluster == 2).unwrap();
        let (left, gone) = (world.shares(2)[0].0, world.became(2, Verdict::Gone).unwrap());
        prop_assert!(left - last <= 1000, "left after {} ms", left - last);
        prop_assert!(gone - last <= 2000, "gone after {} ms", gone - last);
        prop_assert_eq!(world.cuts(2), [gone + 3000]);
    }

    #[test]
    fn no_fault_shorter_than_cut_after_cuts_anything(faults in faults(10..3000, 200..3000)) {
        let until = end(&faults) + 5 * SECOND;
        let mut world = World::new(2, 3, faults);
        world.run(until);
        prop_assert_eq!(world.cuts(2), [0; 0]);
    }

    #[test]
    fn nobody_flaps_and_nobody_else_pays(faults in faults(10..20_000, 10..40_000)) {
        let until = end(&faults) + 400 * SECOND;
        let mut world = World::new(3, 3, faults);
        world.run(until);
        let shares = world.shares(2);
        let demoted: Vec<u64> = shares.iter().filter(|(_, share)| *share == 0).map(|(at, _)| *at).collect();
        for (round, pair) in demoted.windows(2).enumerate() {
            let hold = (15 * SECOND) << round.min(4);
            prop_assert!(pair[1] - pair[0] >= hold, "{:?}", shares);
        }
        prop_assert_eq!((world.verdict(2), shares.last().map_or(100, |(_, share)| *share)), (Verdict::Healthy, 100));
        prop_assert_eq!((world.shares(3), world.shares(4)), (vec![], vec![]));
    }

    #[test]
    fn a_node_that_is_cut_off_withdraws_nothing(
        from in 10 * SECOND..12 * SECOND,
        lasts in 10_u64..60_000,
        peers in 1_u16..5,
        nodes in 1_usize..4,
        connections in prop::option::of(Just(50)),
    ) {
        let of = |cluster| {
            [What::Path, What::Control, What::Unwitnessed]
                .map(|what| Fault { cluster, what, from: from / 10 * 10, to: from + lasts })
        };
        let mut world = World::new(peers, nodes, (HOME..=HOME + peers).flat_map(of).collect());
        world.connections = connections;
        world.witnesses = false;
        world.run(from + lasts + 30 * SECOND);
        for peer in 2..2 + peers {
            prop_assert_eq!((world.shares(peer), world.cuts(peer)), (vec![], vec![]));
        }
    }

    #[test]
    fn a_restart_in_any_state_forgets_no_verdict(
        faults in faults(10..20_000, 10..40_000),
        restarts in prop::collection::vec(5 * SECOND..100 * SECOND, 1..4),
    ) {
        let until = end(&faults) + 400 * SECOND;
        let mut world = World::new(2, 3, faults);
        let mut restarts = restarts;
        restarts.sort_unstable();
        for at in restarts {
            world.run(at);
            let before = world.shares(2).last().map_or(100, |(_, share)| *share);
            world.restart();
            world.run(world.now + SECOND);
            let after = world.shares(2).last().map_or(100, |(_, share)| *share);
            prop_assert!(before > 0 || after == 0, "lifted by a restart at {at}");
        }
        world.run(until);
        prop_assert_eq!(world.verdict(2), Verdict::Healthy);
        prop_assert_eq!((world.shares(3), world.cuts(3)), (vec![], vec![]));
    }

    #[test]
    fn an_owner_that_is_late_causes_no_verdict(from in 5000_u64..9000, lasts in 10_u64..5000) {
        let mut world = World::new(3, 3, vec![]);
        world.frozen = Some((from, from + lasts));
        world.run(30 * SECOND);
        for peer in 2..5 {
            prop_assert_eq!(world.shares(peer), vec![]);
        }
    }
}
