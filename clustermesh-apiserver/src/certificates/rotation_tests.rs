use mesh_trust::{Issued, Lifetime, Role};

use super::super::store::Entry;
use super::*;

const START: u64 = 1_800_000_000;
const SPREAD: Duration = Duration::from_secs(150);

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(START + seconds))
}

fn issued(authority: &Authority, seconds: u64) -> Issued {
    authority.issue(Role::Agent, &[], Lifetime::starting(at(seconds), Duration::from_secs(9999))).unwrap()
}

fn in_phase(phase: RotationPhase) -> Authorities {
    let mut authorities = Authorities::first(&ClusterName::new("hoth").unwrap(), at(0)).unwrap();
    for to in [RotationPhase::Announced, RotationPhase::Switched] {
        if authorities.phase() != phase {
            authorities = authorities.advanced(to, at(0)).unwrap();
        }
    }
    authorities
}

fn holder(authorities: &Authorities, pair: Issued, trust: &str, is_own: bool) -> HolderSeen {
    let held = Held { entry: Entry::new(pair, trust), is_own, secret: None };
    HolderSeen::new((Holder::Process(Role::Agent), "the Secret a".into()), &held, authorities)
}

fn said(authorities: &Authorities, seconds: u64, holders: Vec<HolderSeen>, asked: Vec<Asked>) -> Vec<String> {
    let seen = Seen { now: at(seconds), spread: SPREAD, holders, asked };
    let line = |it: &Obstacle| {
        let peer = it.peer.as_ref().map_or("-", ClusterName::as_str);
        format!("{peer} {}: {}", it.problem.who, it.problem.error)
    };
    obstacles(authorities, &seen).iter().map(line).collect()
}

fn peer(answer: Answer) -> Asked {
    Asked { who: Party::Peer(ClusterName::new("yavin").unwrap()), answer }
}

/// Seconds after the beginning, what is seen, and what is said.
type Case = (u64, Vec<HolderSeen>, Vec<Asked>, &'static [&'static str]);

#[test]
fn the_new_authority_issues_once_everybody_who_meets_it_trusts_it() {
    let all = in_phase(RotationPhase::Announced);
    let told = |is_own| holder(&all, issued(&all.issuing, 0), all.trust(), is_own);
    let untold = |is_own| holder(&all, issued(&all.issuing, 0), all.issuing.certificate_pem(), is_own);
    let etcd = |answer| Asked { who: Party::Etcd("https://e:1".into()), answer };
    let cases: Vec<Case> = vec![
        (150, vec![told(true), told(false)], vec![peer(Answer::Trusts), etcd(Answer::Trusts)], &[]),
        (
            149,
            vec![told(true)],
            vec![],
            &["- nobody: not every process has read of the new authority yet: 1 s more"],
        ),
        (
            150,
            vec![untold(true)],
            vec![],
            &["- nobody: ca.crt of the agent does not have the new authority yet"],
        ),
        (
            150,
            vec![untold(false)],
            vec![],
            &["- operator: ca.crt of the agent is somebody else's, and does not have the new authority"],
        ),
        (
            150,
            vec![],
            vec![peer(Answer::Refuses("why".into())), etcd(Answer::Refuses("why".into()))],
            &[
                "yavin peer: yavin does not trust the new authority yet: why",
                "- operator: the own etcd at https://e:1 does not trust the new authority yet: why",
            ],
        ),
        (
            150,
            vec![],
            vec![peer(Answer::Silent("why".into())), etcd(Answer::Silent("why".into()))],
            &[
                "yavin peer: yavin can't be asked whether it trusts the new authority: why",
                "- operator: the own etcd at https://e:1 can't be asked whether it trusts the new authority: why",
            ],
        ),
    ];
    for (seconds, holders, asked, expected) in cases {
        assert_eq!(said(&all, seconds, holders, asked), expected);
    }
}

#[test]
fn the_old_authority_goes_once_nothing_is_shown_that_it_has_issued() {
    let all = in_phase(RotationPhase::Switched);
    let old = all.other().unwrap();
    let shown = |pair, is_own| holder(&all, pair, all.trust(), is_own);
    let cases: Vec<(u64, Vec<HolderSeen>, &[&str])> = vec![
        (250, vec![shown(issued(&all.issuing, 100), true), shown(issued(&all.issuing, 240), false)], &[]),
        (
            249,
            vec![shown(issued(&all.issuing, 100), true)],
            &["- nobody: not every process shows its new certificate yet: 1 s more"],
        ),
        (
            250,
            vec![shown(issued(old, 50), true)],
            &["- nobody: the certificate of the agent is not made anew yet"],
        ),
        (
            250,
            vec![shown(issued(old, 50), false)],
            &["- operator: the certificate of the agent is somebody else's, and not of the new authority"],
        ),
    ];
    for (seconds, holders, expected) in cases {
        // Whom peers trust makes no difference: both authorities count at all of them.
        let asked = vec![peer(Answer::Refuses("why".into()))];
        assert_eq!(said(&all, seconds, holders, asked), expected);
    }
}

#[test]
fn nothing_stands_against_announcing_an_authority() {
    let all = in_phase(RotationPhase::Settled);
    let old = holder(&all, issued(&all.issuing, 0), "", true);
    assert!(said(&all, 0, vec![old], vec![peer(Answer::Silent("why".into()))]).is_empty());
}
