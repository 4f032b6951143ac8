//! The table of docs/failover.md, and its cases.

use crate::world_tests::{Fault, HOME, What, World, power};
use crate::{ControlState, PathState, Staleness, Verdict};

const FOREVER: u64 = u64::MAX;
/// When things go wrong here, so that everybody has been heard.
const DEATH: u64 = 10_000;

fn fault(cluster: u16, what: What, from: u64, to: u64) -> Fault {
    Fault { cluster, what, from, to }
}

/// Faults of cluster 2, from `DEATH` on.
fn broken(what: &[What]) -> Vec<Fault> {
    what.iter().map(|what| fault(2, *what, DEATH, FOREVER)).collect()
}

#[test]
fn two_signals_make_four_cases() {
    use What::{Control, Path, Refused, Source, Unwitnessed};
    let table: &[(&str, &[What], Verdict, u8)] = &[
        ("nothing is wrong", &[], Verdict::Healthy, 100),
        ("B: its control plane is silent", &[Control], Verdict::Stale, 100),
        ("B: its control plane refuses", &[Refused], Verdict::Stale, 100),
        ("B: its control plane moves, and its source is frozen", &[Source], Verdict::Stale, 100),
        ("C: its data path is cut, its control path is open", &[Path, Unwitnessed], Verdict::PathBroken, 0),
        ("A: it is gone", &[Path, Control, Unwitnessed], Verdict::Gone, 0),
        (
            "A: it is gone, and something in front of it refuses",
            &[Path, Refused, Unwitnessed],
            Verdict::Gone,
            0,
        ),
        ("D: others reach it, this node does not", &[Path, Control], Verdict::PathBroken, 0),
    ];
    for (name, what, verdict, share) in table {
        let mut world = World::new(2, 3, broken(what));
        world.run(DEATH + 130_000);
        assert_eq!(world.verdict(2), *verdict, "{name}");
        let shares = world.shares(2);
        assert_eq!(shares.last().map_or(100, |(_, share)| *share), *share, "{name}: {shares:?}");
        assert!(shares.len() <= 1, "{name}: {shares:?}");
        assert_eq!(world.cuts(2).len(), usize::from(*verdict == Verdict::Gone), "{name}");
        assert_eq!((world.verdict(3), world.shares(3)), (Verdict::Healthy, vec![]), "{name}: the other peer");
    }
}

#[test]
fn a_cluster_that_loses_power_is_left_within_a_second_and_cut_after_three_more() {
    for (peers, nodes) in [(1, 0), (1, 3), (2, 0), (2, 3)] {
        let mut world = World::new(peers, nodes, power(2, DEATH, FOREVER));
        world.run(DEATH + 20_000);
        let (_, last) = world.answered.iter().find(|(cluster, _)| *cluster == 2).unwrap();
        let left = world.shares(2)[0].0 - last;
        let gone = world.became(2, Verdict::Gone).unwrap();
        assert!(left <= 1000, "{peers} peers, {nodes} nodes: left after {left} ms");
        assert!(gone - last <= 2000, "{peers} peers, {nodes} nodes: gone after {} ms", gone - last);
        assert_eq!(world.cuts(2), [gone + 3000]);
    }
}

#[test]
fn connections_that_succeed_until_the_end_do_not_delay_it() {
    let mut world = World::new(2, 3, power(2, DEATH, FOREVER));
    world.connections = Some(10);
    world.run(DEATH + 5000);
    let (_, last) = world.answered.iter().find(|(cluster, _)| *cluster == 2).unwrap();
    assert!(world.shares(2)[0].0 - last <= 1000);
}

#[test]
fn a_blip_of_two_and_a_half_seconds_moves_new_connections_and_cuts_none() {
    let mut world = World::new(1, 3, power(2, DEATH, DEATH + 2500));
    world.run(DEATH + 60_000);
    let shares = world.shares(2);
    let percents: Vec<u8> = shares.iter().map(|(_, share)| *share).collect();
    assert_eq!(percents, [0, 10, 25, 50, 75, 100]);
    assert!(shares[1].0 >= DEATH + 2500 + 15_000, "{shares:?}");
    assert_eq!(world.cuts(2), [0; 0]);
    assert_eq!(world.verdict(2), Verdict::Healthy);
}

/// Everything that this node sends is lost.
fn cut_off(peers: u16, from: u64, to: u64) -> Vec<Fault> {
    let of =
        |cluster| [What::Path, What::Control, What::Unwitnessed].map(|what| fault(cluster, what, from, to));
    (HOME..=HOME + peers).flat_map(of).collect()
}

#[test]
fn a_node_that_is_cut_off_withdraws_nothing() {
    for peers in [1, 2, 7, 16, 60] {
        let mut world = World::new(peers, 2, cut_off(peers, DEATH, DEATH + 60_000));
        world.witnesses = false;
        world.run(DEATH + 30_000);
        assert_eq!(world.verdict(2), Verdict::IsolatedSelf);
        world.run(DEATH + 90_000);
        for peer in 2..2 + peers {
            assert_eq!((world.shares(peer), world.cuts(peer)), (vec![], vec![]), "of {peers}: {peer}");
            assert_eq!(world.verdict(peer), Verdict::Healthy);
        }
    }
}

#[test]
fn nodes_that_have_been_down_for_long_are_not_asked_whether_this_one_is_cut_off() {
    let mut faults = power(2, DEATH + 60_000, FOREVER);
    faults.push(fault(HOME, What::Path, DEATH, FOREVER));
    let mut world = World::new(1, 1, faults);
    world.run(DEATH + 62_000);
    assert_eq!(world.verdict(2), Verdict::Gone);
}

#[test]
fn a_partition_is_seen_from_each_side_as_it_is() {
    // The way to cluster 2 is cut, and 3 reaches both.
    let mut world = World::new(2, 3, broken(&[What::Path, What::Control]));
    world.run(DEATH + 30_000);
    assert_eq!((world.verdict(2), world.verdict(3)), (Verdict::PathBroken, Verdict::Healthy));
    assert_eq!(world.cuts(2), [0; 0]);
    // The own cluster is cut from both: its nodes answer each other.
    let mut world = World::new(2, 3, [power(2, DEATH, FOREVER), power(3, DEATH, FOREVER)].concat());
    world.run(DEATH + 30_000);
    assert_eq!((world.verdict(2), world.verdict(3)), (Verdict::Gone, Verdict::Gone));
}

#[test]
fn a_node_that_was_cut_off_finds_the_others_gone_anew_before_it_cuts() {
    // The way to cluster 2 is cut, which witnesses know; and for a while nobody can be asked.
    let mut faults = broken(&[What::Path, What::Control]);
    faults.extend(cut_off(2, DEATH + 20_000, DEATH + 35_000));
    let mut world = World::new(2, 3, faults);
    world.run(DEATH + 60_000);
    assert_eq!((world.verdict(2), world.cuts(2)), (Verdict::PathBroken, vec![]));
}

#[test]
fn an_echo_that_is_blocked_demotes_nobody() {
    // From the beginning, and from some time on, with applications or connects on suspicion.
    for from in [0, DEATH] {
        let mut world = World::new(1, 3, vec![fault(2, What::Echo, from, FOREVER)]);
        world.connections = Some(300);
        world.run(DEATH + 60_000);
        assert_eq!((world.verdict(2), world.shares(2)), (Verdict::Healthy, vec![]));
    }
    let mut world = World::new(1, 3, vec![fault(2, What::Echo, 0, FOREVER)]);
    world.run(DEATH);
    assert_eq!(world.judge.reports(Default::default()).next().unwrap().path, PathState::Unknown);
}

#[test]
fn without_an_echo_connections_that_nobody_answers_are_evidence() {
    let mut faults = power(2, DEATH, FOREVER);
    faults.push(fault(2, What::Echo, 0, FOREVER));
    let mut world = World::new(2, 3, faults);
    world.connections = Some(200);
    world.run(DEATH + 10_000);
    assert_eq!(world.verdict(2), Verdict::Gone);
    assert!(world.shares(2)[0].0 <= DEATH + 2500, "{:?}", world.shares(2));
}

#[test]
fn an_owner_that_was_frozen_declares_nobody_dead() {
    let mut world = World::new(3, 3, vec![]);
    world.frozen = Some((DEATH, DEATH + 30_000));
    world.run(DEATH + 60_000);
    for peer in 2..5 {
        assert_eq!(world.shares(peer), []);
    }
    // Its probes went out meanwhile, and the answers found no room in its sockets.
    let mut world = World::new(3, 3, vec![]);
    (world.frozen, world.deaf) = (Some((DEATH, DEATH + 5000)), true);
    world.run(DEATH + 60_000);
    for peer in 2..5 {
        assert_eq!(world.shares(peer), []);
    }
}

#[test]
fn an_owner_that_was_frozen_finds_the_dead_anew_before_it_cuts() {
    let mut world = World::new(1, 3, power(2, DEATH, DEATH + 32_000));
    world.frozen = Some((DEATH + 2500, DEATH + 30_000));
    world.run(DEATH + 60_000);
    assert_eq!(world.cuts(2), [0; 0], "it came back within the time");
    let mut world = World::new(1, 3, power(2, DEATH, FOREVER));
    world.frozen = Some((DEATH + 2500, DEATH + 30_000));
    world.run(DEATH + 30_000);
    world.probing = false;
    world.run(DEATH + 60_000);
    assert_eq!(world.cuts(2), [0; 0], "nobody asked it");
    world.probing = true;
    world.run(DEATH + 90_000);
    assert_eq!(world.cuts(2).len(), 1);
}

#[test]
fn a_drain_ends_by_itself_and_comes_back_by_the_ramp() {
    let mut world = World::new(1, 3, vec![]);
    world.run(DEATH);
    world.drain(2, DEATH + 30_000);
    world.run(DEATH + 80_000);
    let (at, percents): (Vec<u64>, Vec<u8>) = world.shares(2).into_iter().unzip();
    assert_eq!(percents, [0, 10, 25, 50, 75, 100]);
    assert_eq!((at[0], at[1]), (DEATH, DEATH + 30_000));
    assert_eq!(world.cuts(2), [0; 0]);
}

#[test]
fn a_restart_goes_on_from_what_the_map_says() {
    // While it is dead: it stays demoted, is found gone again, and is cut.
    let mut world = World::new(1, 3, power(2, DEATH, FOREVER));
    world.run(DEATH + 1500);
    world.restart();
    assert_eq!(world.verdict(2), Verdict::PathBroken);
    world.run(DEATH + 30_000);
    assert_eq!((world.verdict(2), world.shares(2).len()), (Verdict::Gone, 1));
    assert_eq!(world.cuts(2).len(), 1);
    // While it returns: it waits for its hold again.
    let mut world = World::new(1, 3, power(2, DEATH, DEATH + 10_000));
    world.run(DEATH + 20_000);
    world.restart();
    world.run(DEATH + 60_000);
    assert!(world.shares(2)[1].0 >= DEATH + 20_000 + 15_000, "{:?}", world.shares(2));
    assert_eq!(world.verdict(2), Verdict::Healthy);
}

#[test]
fn a_report_says_what_a_verdict_rests_on() {
    let mut world = World::new(2, 3, power(2, DEATH, FOREVER));
    world.run(DEATH + 8000);
    let now = crate::Monotonic::from_millis(DEATH + 8000);
    let report = world.judge.reports(now).next().unwrap();
    assert_eq!(report.verdict, Verdict::Gone);
    assert_eq!((report.path, report.control), (PathState::Failed, ControlState::Stale(Staleness::NoAnswer)));
    assert!(report.path_age.is_some_and(|age| (7900..8200).contains(&age.as_millis())), "{report:?}");
    assert!(report.control_age.is_some_and(|age| age.as_millis() >= 8000), "{report:?}");
    assert_eq!(world.judge.reaches(crate::world_tests::id(2), now), Some(false));
    assert_eq!(world.judge.reaches(crate::world_tests::id(3), now), Some(true));
}
