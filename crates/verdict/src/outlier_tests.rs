//! Which backends are quarantined, by what connections to them showed.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mesh_model::name::{ClusterId, NodeName};
use proptest::prelude::*;

use crate::outlier::{Cause, NodeKey, Occurrence, Order, Outliers};
use crate::{Monotonic, Outcome};
use Outcome::{Connected, Refused, Unanswered};

const FRONTEND: u64 = 1;

fn address(backend: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, backend], 80))
}

/// Two backends on each node.
fn node(backend: u8) -> NodeKey {
    let name = NodeName::new(&format!("node-{}", backend / 2)).unwrap();
    (ClusterId::new(2).unwrap(), name)
}

struct Fleet {
    outliers: Outliers,
    now: u64,
    quarantined: BTreeSet<SocketAddr>,
    orders: Vec<(u64, Order)>,
}

impl Fleet {
    fn new(backends: u8) -> Self {
        let mut fleet =
            Self { outliers: Outliers::new(), now: 0, quarantined: BTreeSet::new(), orders: Vec::new() };
        fleet.introduce(backends, &BTreeSet::new());
        fleet
    }

    fn introduce(&mut self, backends: u8, quarantined: &BTreeSet<SocketAddr>) {
        for backend in 0..backends {
            let (address, node) = (address(backend), Some(node(backend)));
            let quarantined = quarantined.contains(&address);
            self.step(Occurrence::Backend { backend: address, node, quarantined });
        }
        let backends = (0..backends).map(address).collect();
        self.step(Occurrence::Frontend { frontend: FRONTEND, backends });
    }

    fn step(&mut self, occurrence: Occurrence) {
        let orders = self.outliers.step(Monotonic::from_millis(self.now), occurrence);
        for order in orders {
            match &order {
                Order::Quarantine { backend, .. } => assert!(self.quarantined.insert(*backend), "twice"),
                Order::Release { backend } => assert!(self.quarantined.remove(backend), "released twice"),
                Order::Ask { .. } => {}
            }
            self.orders.push((self.now, order));
        }
    }

    fn connect(&mut self, backend: u8, outcome: Outcome) {
        let at = Monotonic::from_millis(self.now);
        self.step(Occurrence::Connect { backend: address(backend), outcome, at });
    }

    fn tick(&mut self) {
        self.step(Occurrence::Tick);
        self.now += 50;
    }

    fn wait(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            self.tick();
        }
    }

    fn quarantined(&self) -> Vec<SocketAddr> {
        self.quarantined.iter().copied().collect()
    }

    fn asked(&self) -> usize {
        self.orders.iter().filter(|(_, order)| matches!(order, Order::Ask { .. })).count()
    }
}

#[test]
fn a_backend_that_refuses_is_quarantined_and_tried_again_for_longer_each_time() {
    let mut fleet = Fleet::new(8);
    let mut times = Vec::new();
    for _ in 0..3 {
        (0..3).for_each(|_| fleet.connect(0, Refused));
        fleet.tick();
        assert_eq!(fleet.quarantined(), [address(0)]);
        let since = fleet.now;
        while !fleet.quarantined.is_empty() {
            fleet.tick();
        }
        times.push((fleet.now - since) / 1000);
    }
    assert_eq!(times, [10, 20, 40]);
}

#[test]
fn after_quarantine_real_traffic_decides() {
    let mut fleet = Fleet::new(8);
    (0..3).for_each(|_| fleet.connect(0, Refused));
    fleet.wait(11_000);
    assert_eq!(fleet.quarantined(), []);
    fleet.connect(0, Refused);
    fleet.tick();
    assert_eq!(fleet.quarantined(), [address(0)], "one failure is enough on probation");
    // It was dialled since nothing else was left.
    fleet.connect(0, Connected);
    fleet.tick();
    assert_eq!(fleet.quarantined(), []);
}

#[test]
fn a_frontend_keeps_most_of_its_backends_and_the_last_one() {
    for (backends, most) in [(1, 0), (2, 1), (3, 1), (8, 2), (20, 6)] {
        let mut fleet = Fleet::new(backends);
        for backend in 0..backends {
            (0..5).for_each(|_| fleet.connect(backend, Refused));
        }
        fleet.wait(1000);
        assert_eq!(fleet.quarantined.len(), most, "of {backends}");
    }
}

/// F: a node with 2 of 8 backends loses power, at 100 connections a second; a SYN shows it after a second.
#[test]
fn a_node_that_loses_power_takes_its_backends_with_it() {
    let mut fleet = Fleet::new(8);
    for millis in (0..2000).step_by(10) {
        let backend = (millis / 10 % 8) as u8;
        if backend >= 2 {
            fleet.connect(backend, Connected);
        } else if millis >= 1000 {
            fleet.connect(backend, Unanswered);
        }
        if millis % 50 == 0 {
            fleet.tick();
        }
    }
    assert_eq!(fleet.quarantined(), [address(0), address(1)]);
    let (at, order) =
        fleet.orders.iter().find(|(_, order)| matches!(order, Order::Quarantine { .. })).unwrap();
    assert!(*at <= 1150, "after {at} ms");
    assert!(matches!(order, Order::Quarantine { cause: Cause::Node, .. }));
    assert!(fleet.asked() >= 1);
}

#[test]
fn one_backend_and_a_silent_echo_are_a_node() {
    let mut fleet = Fleet::new(8);
    fleet.step(Occurrence::Echo { node: node(2), answered: true });
    fleet.wait(5000);
    fleet.connect(2, Unanswered);
    fleet.tick();
    assert_eq!((fleet.asked(), fleet.quarantined.len()), (1, 0));
    fleet.step(Occurrence::Echo { node: node(2), answered: false });
    fleet.tick();
    assert_eq!(fleet.quarantined(), [address(2), address(3)]);
    // Back by good probes.
    for _ in 0..7 {
        fleet.step(Occurrence::Echo { node: node(2), answered: true });
        fleet.wait(1000);
    }
    assert_eq!(fleet.quarantined(), []);
}

#[test]
fn a_node_that_answers_is_not_blamed_for_its_backends() {
    let mut fleet = Fleet::new(8);
    fleet.connect(2, Unanswered);
    fleet.tick();
    fleet.step(Occurrence::Echo { node: node(2), answered: true });
    for _ in 0..3 {
        fleet.connect(2, Unanswered);
        fleet.tick();
    }
    assert_eq!(fleet.quarantined(), [address(2)], "for itself");
    // A host that refuses is there, too.
    let mut fleet = Fleet::new(8);
    for backend in [2, 3, 2, 3] {
        fleet.connect(backend, Refused);
    }
    fleet.tick();
    assert_eq!(fleet.quarantined(), []);
}

#[test]
fn a_real_connection_brings_a_node_back() {
    let mut fleet = Fleet::new(8);
    [0, 1, 0, 1].into_iter().for_each(|backend| fleet.connect(backend, Unanswered));
    fleet.tick();
    assert_eq!(fleet.quarantined.len(), 2);
    fleet.connect(1, Connected);
    fleet.tick();
    assert_eq!(fleet.quarantined(), []);
}

#[test]
fn a_node_that_never_answered_an_echo_is_tried_again() {
    let mut fleet = Fleet::new(8);
    [0, 1, 0, 1].into_iter().for_each(|backend| fleet.connect(backend, Unanswered));
    fleet.wait(29_000);
    assert_eq!(fleet.quarantined.len(), 2);
    fleet.wait(2000);
    assert_eq!(fleet.quarantined(), []);
}

#[test]
fn nothing_is_quarantined_while_this_node_is_cut_off() {
    let mut fleet = Fleet::new(8);
    fleet.connect(0, Unanswered);
    fleet.step(Occurrence::Isolated(true));
    for _ in 0..10 {
        (0..8).for_each(|backend| fleet.connect(backend, Unanswered));
        fleet.step(Occurrence::Echo { node: node(0), answered: false });
        fleet.tick();
    }
    fleet.step(Occurrence::Isolated(false));
    fleet.wait(1000);
    assert_eq!(fleet.quarantined(), []);
}

#[test]
fn a_restart_keeps_a_quarantine() {
    let mut fleet = Fleet::new(8);
    fleet.quarantined = BTreeSet::from([address(5)]);
    let before = fleet.quarantined.clone();
    fleet.outliers = Outliers::new();
    fleet.introduce(8, &before);
    fleet.wait(9000);
    assert_eq!(fleet.quarantined(), [address(5)]);
    // A plan that says it again doesn't prolong it.
    fleet.introduce(8, &before);
    fleet.wait(2000);
    assert_eq!(fleet.quarantined(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_fails_a_backend_is_left_and_all_come_back(
        backends in 1_u8..12,
        history in prop::collection::vec((0_u8..12, 0_u8..5, 0_u64..400), 1..300),
    ) {
        let mut fleet = Fleet::new(backends);
        for (backend, what, pause) in history {
            match what {
                0 => fleet.connect(backend, Connected),
                1 => fleet.connect(backend, Refused),
                2 => fleet.connect(backend, Unanswered),
                3 => fleet.step(Occurrence::Echo { node: node(backend), answered: false }),
                _ => fleet.step(Occurrence::Echo { node: node(backend), answered: true }),
            }
            fleet.wait(pause);
            prop_assert!(fleet.quarantined.len() < usize::from(backends));
            prop_assert!(fleet.quarantined.len() <= (usize::from(backends) / 2).max(1));
        }
        // Good traffic for as long as the longest quarantine.
        for _ in 0..400 {
            (0..backends).for_each(|backend| fleet.connect(backend, Connected));
            fleet.wait(1000);
        }
        prop_assert_eq!(fleet.quarantined(), []);
    }
}
