//! Who may join by an invite, and who may not.

use proptest::prelude::*;

use super::super::record::MAX_WRONG_SECRETS;
use super::*;

const NOW: u64 = 1_800_000_000;

fn ranges(pods: &[&str], nodes: &[&str]) -> Ranges {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Ranges { pods: parse(pods), nodes: parse(nodes) }
}

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn record() -> InviteRecord {
    InviteRecord {
        name: name("hoth"),
        id: ClusterId::try_from(2).unwrap(),
        ranges: ranges(&["10.2.0.0/16"], &["192.168.2.0/24"]),
        expires_unix_s: NOW + 60,
        secret_sha256: Digest::new([1; 32]),
        used_by: None,
        wrong_secrets: 0,
    }
}

fn file(id: u64, ranges: PeerRanges) -> PeerDocument {
    let endpoints = vec!["https://mesh.hoth.example:2379".into()];
    PeerDocument { id: ClusterId::try_from(id).unwrap(), endpoints, ranges, trust: Some("PEM".into()) }
}

fn good() -> PeerDocument {
    file(2, PeerRanges::Agreed(ranges(&["10.2.0.0/16"], &["192.168.2.0/25"])))
}

/// The verdict on hoth with the right secret, and the authority of this byte.
fn judge(record: &InviteRecord, file: &PeerDocument, authority: u8) -> Result<Verdict, ClaimError> {
    let (secret_sha256, authority, name) = (Digest::new([1; 32]), Digest::new([authority; 32]), name("hoth"));
    record.judge(&Claim { secret_sha256, name: &name, file, authority }, NOW)
}

fn taken(by: u8) -> InviteRecord {
    match judge(&record(), &good(), by) {
        Ok(Verdict::Take(record)) => record,
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_is_invited_takes_the_invite_and_may_repeat_that() {
    let taken = taken(7);
    assert_eq!(taken, InviteRecord { used_by: Some(Digest::new([7; 32])), ..record() });
    assert_eq!(judge(&taken, &good(), 7), Ok(Verdict::Again));
}

#[test]
fn an_invite_that_was_taken_is_nobody_elses() {
    assert_eq!(judge(&taken(7), &good(), 8), Err(ClaimError::Used { by: Digest::new([7; 32]) }));
}

#[test]
fn an_invite_is_for_one_name_and_one_id() {
    let (file, authority) = (good(), Digest::new([7; 32]));
    let other = name("echo");
    let claim = Claim { secret_sha256: Digest::new([1; 32]), name: &other, file: &file, authority };
    assert_eq!(
        record().judge(&claim, NOW),
        Err(ClaimError::Name { invited: name("hoth"), claimed: other.clone() })
    );
    let ranges = good().ranges;
    let error = judge(&record(), &super::tests::file(3, ranges), 7).unwrap_err();
    assert_eq!(error.to_string(), "the invite is for the id 2, not for 3");
}

#[test]
fn ranges_may_be_narrower_and_never_wider() {
    let with = |pods: &[&str], nodes: &[&str]| {
        judge(&record(), &file(2, PeerRanges::Agreed(ranges(pods, nodes))), 7).map(drop)
    };
    assert_eq!(with(&["10.2.3.0/24", "10.2.4.0/24"], &[]), Ok(()));
    for (pods, nodes, told) in [
        (
            &["10.0.0.0/8"][..],
            &[][..],
            "10.0.0.0/8 is no pod range that the invite allows (those are: 10.2.0.0/16)",
        ),
        (&["10.3.0.0/16"], &[], "10.3.0.0/16 is no pod range"),
        (&["192.168.2.0/24"], &[], "192.168.2.0/24 is no pod range"),
        (&["10.2.0.0/16"], &["10.2.0.0/24"], "10.2.0.0/24 is no node range"),
        (&["fd00::/8"], &[], "fd00::/8 is no pod range"),
    ] {
        let error = with(pods, nodes).unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
    }
    assert_eq!(judge(&record(), &file(2, PeerRanges::DECLARED), 7), Err(ClaimError::Declared));
}

#[test]
fn an_expired_invite_is_good_for_nobody_not_even_who_took_it() {
    for record in [record(), taken(7)] {
        let expired = InviteRecord { expires_unix_s: NOW, ..record };
        assert_eq!(judge(&expired, &good(), 7), Err(ClaimError::Expired));
    }
}

#[test]
fn wrong_secrets_are_counted_and_then_the_right_one_does_not_count_either() {
    let (file, hoth, mut record) = (good(), name("hoth"), record());
    let claim = Claim {
        secret_sha256: Digest::new([2; 32]),
        name: &hoth,
        file: &file,
        authority: Digest::new([7; 32]),
    };
    for _ in 0..MAX_WRONG_SECRETS {
        assert!(judge(&record, &file, 7).is_ok());
        let Err(ClaimError::WrongSecret { counted }) = record.judge(&claim, NOW) else {
            panic!("not counted")
        };
        record = *counted;
    }
    assert_eq!(record.judge(&claim, NOW), Err(ClaimError::Locked));
    assert_eq!(judge(&record, &file, 7), Err(ClaimError::Locked));
}

#[test]
fn whoever_lacks_the_secret_learns_nothing_of_the_invite() {
    let (file, other, now) = (file(9, PeerRanges::DECLARED), name("echo"), NOW + 1000);
    let (secret_sha256, authority) = (Digest::new([2; 32]), Digest::new([7; 32]));
    let claim = Claim { secret_sha256, name: &other, file: &file, authority };
    for record in [record(), taken(8)] {
        let error = record.judge(&claim, now).unwrap_err();
        assert_eq!(error.to_string(), "the secret is not the one of this invite");
    }
}

#[test]
fn the_record_is_a_contract() {
    let id = super::super::InviteId::new(*b"\x01\x23\x45\x67\x89\xab\xcd\xef");
    let golden = include_str!("../../tests/golden/invite.json").trim();
    let text = String::from_utf8(taken(7).encode()).unwrap();
    assert_eq!(text, golden);
    assert_eq!(InviteRecord::decode(id, golden.as_bytes()).unwrap(), taken(7));
    let error = InviteRecord::decode(id, b"{}").unwrap_err().to_string();
    assert_eq!(error, "the record of invite 0123456789abcdef can't be read: revoke it, and make another one");
    assert_eq!(super::super::key(&name("yavin"), id), "clustermesh/invite/yavin/0123456789abcdef");
}

proptest! {
    /// Whatever the order in which two joiners claim an invite, exactly one of them ever has it.
    #[test]
    fn of_any_claims_one_joiner_gets_the_invite(claims in prop::collection::vec((0..2_u8, any::<bool>()), 1..20)) {
        let (mut record, mut admitted) = (record(), std::collections::BTreeSet::new());
        let (file, hoth) = (good(), name("hoth"));
        for (joiner, has_secret) in claims {
            let secret_sha256 = Digest::new([if has_secret { 1 } else { 2 }; 32]);
            let claim = Claim { secret_sha256, name: &hoth, file: &file, authority: Digest::new([joiner; 32]) };
            match record.judge(&claim, NOW) {
                Ok(Verdict::Take(next)) => { record = next; admitted.insert(joiner); }
                Ok(Verdict::Again) => { prop_assert!(admitted.contains(&joiner)); }
                Err(ClaimError::WrongSecret { counted }) => { prop_assert!(!has_secret); record = *counted; }
                Err(_) => {}
            }
        }
        prop_assert!(admitted.len() <= 1);
    }
}
