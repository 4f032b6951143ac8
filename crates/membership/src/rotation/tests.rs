use std::slice::from_ref;

use mesh_admin::cluster::Problem;
use serde_json::json;

use super::*;

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn pem(roots: &[&str]) -> String {
    let one = |text: &&str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    roots.iter().map(one).collect()
}

fn named(at: &str, knows: &[(&str, &[&str])]) -> Named {
    let entry = |(peer, roots): &(&str, &[&str])| PeerEntry {
        name: (*peer).into(),
        file: serde_json::from_value(
            json!({"id": 1, "endpoints": ["https://a:1"], "ranges": {"pods": ["10.1.0.0/16"]},
            "trust": pem(roots)}),
        )
        .unwrap(),
        reason: None,
    };
    Named { name: name(at), peers: knows.iter().map(entry).collect() }
}

fn obstacle(peer: Option<&str>, who: Actor) -> Obstacle {
    let problem = Problem { who, error: "why".into(), remedy: "what".into() };
    Obstacle { peer: peer.map(name), problem }
}

fn state(phase: RotationPhase, roots: &[&str], obstacles: &[Obstacle]) -> AuthorityRotation {
    AuthorityRotation { phase, obstacles: obstacles.into(), trust: pem(roots), fingerprints: Vec::new() }
}

fn next(state: &AuthorityRotation, is_begun: bool, without: &[ClusterName], named: &[Named]) -> String {
    let cluster = name("hoth");
    match (Rotation { cluster: &cluster, state, is_begun, without }).next(named) {
        Step::Tell { at, file } => format!("tell {at} {}", file.trust.unwrap().matches("BEGIN").count()),
        Step::Advance(to) => format!("{to}"),
        Step::Wait(all) => format!("wait {}", all.len()),
        Step::Blocked(all) => format!("blocked {}", all.len()),
        Step::Done => "done".into(),
    }
}

/// The cluster's state, whether it has begun, what yavin trusts for it, whom it goes on without, and what comes next.
type Case = (AuthorityRotation, bool, &'static [&'static str], &'static [&'static str], &'static str);

#[test]
fn each_state_has_one_next_step() {
    use RotationPhase::{Announced, Settled, Switched};
    let (old, both, new): (&[&str], &[&str], &[&str]) = (&["a"], &["a", "b"], &["b"]);
    let (nobody, yavin, endor) = (
        obstacle(None, Actor::Nobody),
        obstacle(Some("yavin"), Actor::Peer),
        obstacle(Some("endor"), Actor::Peer),
    );
    let (etcd, both_kinds) = (obstacle(None, Actor::Operator), [nobody.clone(), endor.clone()]);
    let (nobody, yavin, endor, etcd) =
        (from_ref(&nobody), from_ref(&yavin), from_ref(&endor), from_ref(&etcd));
    let told =
        |roots| [named("hoth", &[("yavin", &["y"])]), named("yavin", &[("hoth", roots), ("endor", &["e"])])];
    let cases: &[Case] = &[
        (state(Settled, old, &[]), false, old, &[], "announced"),
        (state(Announced, both, &[]), true, old, &[], "tell yavin 2"),
        (state(Announced, both, yavin), true, both, &[], "wait 1"),
        (state(Announced, both, &both_kinds), true, both, &[], "wait 2"),
        (state(Announced, both, endor), true, both, &[], "blocked 1"),
        (state(Announced, both, etcd), true, both, &[], "blocked 1"),
        (state(Announced, both, endor), true, both, &["endor"], "switched"),
        (state(Announced, both, &[]), true, &["b", "a"], &[], "switched"),
        (state(Switched, both, nobody), true, both, &[], "wait 1"),
        (state(Switched, both, &[]), true, both, &[], "settled"),
        (state(Settled, new, &[]), true, both, &[], "tell yavin 1"),
        (state(Settled, new, &[]), true, new, &[], "done"),
    ];
    for (state, is_begun, known, without, expected) in cases {
        let without: Vec<ClusterName> = without.iter().map(|peer| name(peer)).collect();
        assert_eq!(next(state, *is_begun, &without, &told(known)), *expected, "{state:?}");
    }
}

#[test]
fn only_trust_is_changed_and_nobody_becomes_a_peer() {
    let state = state(RotationPhase::Announced, &["a", "b"], &[]);
    let cluster = name("hoth");
    let rotation = Rotation { cluster: &cluster, state: &state, is_begun: true, without: &[] };
    let before = named("yavin", &[("hoth", &["a"])]);
    let Step::Tell { at, file } = rotation.next(from_ref(&before)) else { panic!() };
    let kept = PeerDocument { trust: before.peers[0].file.as_ref().unwrap().trust.clone(), ..file };
    assert_eq!((at.as_str(), Some(kept)), ("yavin", before.peers[0].file.clone()));
    let stranger = named("endor", &[("yavin", &["y"])]);
    let mut plain = named("dantooine", &[("hoth", &["a"])]);
    plain.peers[0].file.as_mut().unwrap().trust = None;
    assert_eq!(
        next(&state, true, &[], &[stranger, plain]),
        "switched",
        "who reads without TLS trusts nobody"
    );
}

#[test]
fn a_rotation_that_was_left_before_its_last_files_is_finished_first() {
    let cluster = name("hoth");
    let left = |known: &[&str]| is_unfinished(&cluster, &pem(&["b"]), &[named("yavin", &[("hoth", known)])]);
    assert!(left(&["a", "b"]) && left(&["b", "a"]));
    assert!(!left(&["b"]), "it is finished");
    let stranger = named("yavin", &[("hoth", &["x"])]);
    let state = state(RotationPhase::Announced, &["a", "b"], &[]);
    assert_eq!(next(&state, true, &[], from_ref(&stranger)), "switched", "it is told nothing");
    assert!(
        knows_another(&cluster, &state.trust, &stranger) && !left(&["x"]),
        "whoever trusts another authority altogether knows another cluster of that name"
    );
}
