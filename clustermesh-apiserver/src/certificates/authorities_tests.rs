use std::time::Duration;

use mesh_trust::{Bundle, Lifetime, Refusal, Side, Trust};

use super::*;

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
}

fn cluster() -> ClusterName {
    ClusterName::new("hoth").unwrap()
}

fn first() -> Authorities {
    Authorities::first(&cluster(), now()).unwrap()
}

/// As another process finds them.
fn stored(authorities: &Authorities) -> Authorities {
    Authorities::of(&cluster(), &authorities.entry()).unwrap()
}

fn leaf(authority: &Authority) -> String {
    let lifetime = Lifetime::starting(now(), Duration::from_secs(3600));
    authority.issue(Role::Agent, &[], lifetime).unwrap().certificate_pem
}

/// Whether a peer that was given `trust` lets the holder of a certificate in.
fn admit(trust: &str, leaf: &str) -> Result<(), Refusal> {
    let trust = Trust::in_one(cluster(), Bundle::from_pem(trust).unwrap().into());
    let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
    trust.admit(&leaf, &[], Side::Client, now()).map(drop)
}

const PHASES: [RotationPhase; 4] =
    [RotationPhase::Settled, RotationPhase::Announced, RotationPhase::Switched, RotationPhase::Settled];

#[test]
fn in_every_phase_what_is_shown_and_what_was_shown_before_is_trusted_by_who_knows_this_phase_or_the_one_before()
 {
    let mut authorities = first();
    let mut known = authorities.trust().to_owned();
    let mut shown = leaf(&authorities.issuing);
    for to in &PHASES[1..] {
        authorities = stored(&authorities.advanced(*to, now()).unwrap());
        assert_eq!(authorities.phase(), *to);
        // Certificates are made anew after the switch, and before the old authority goes.
        let new = leaf(&authorities.issuing);
        admit(&known, &new).unwrap();
        admit(authorities.trust(), &new).unwrap();
        if *to != RotationPhase::Settled {
            admit(authorities.trust(), &shown).unwrap();
        }
        (known, shown) = (authorities.trust().to_owned(), new);
    }
    assert_eq!(known.matches("BEGIN CERTIFICATE").count(), 1);
}

#[test]
fn a_phase_that_has_begun_begins_once_and_none_is_left_out() {
    let mut authorities = first();
    for (from, to) in PHASES.iter().zip(&PHASES[1..]) {
        let before = authorities.entry();
        let again = stored(&authorities.advanced(*from, now()).unwrap());
        assert_eq!(again.entry().files(), before.files(), "{from} again");
        for wrong in PHASES.iter().filter(|wrong| *wrong != from && *wrong != to) {
            let refused = stored(&again).advanced(*wrong, now()).err().unwrap();
            assert!(refused.to_string().contains(&format!("is {from}, so that {wrong}")), "{refused}");
        }
        authorities = again.advanced(*to, now()).unwrap();
    }
}

#[test]
fn who_is_revoked_stays_so_until_its_authority_goes() {
    let serial = |leaf: &str| certificate(leaf).unwrap().serial;
    let mut authorities = first();
    let (good, stolen) = (leaf(&authorities.issuing), leaf(&authorities.issuing));
    let revoked;
    (authorities, revoked) = authorities.revoking(&[serial(&stolen)], now()).unwrap();
    assert_eq!(revoked, [serial(&stolen)]);
    let before = authorities.trust().to_owned();
    (authorities, _) = authorities.revoking(&[serial(&stolen)], now()).unwrap();
    assert_eq!(authorities.trust(), before, "a second time changes nothing");
    authorities = stored(&authorities).advanced(RotationPhase::Announced, now()).unwrap();
    authorities = stored(&authorities).advanced(RotationPhase::Switched, now()).unwrap();
    // One that the old authority has issued, and one of the new one.
    let [late, new, fine] =
        [leaf(authorities.other().unwrap()), leaf(&authorities.issuing), leaf(&authorities.issuing)];
    (authorities, _) = authorities.revoking(&[serial(&late), serial(&new)], now()).unwrap();
    let authorities = stored(&authorities);
    for gone in [&stolen, &late, &new] {
        let refusal = admit(authorities.trust(), gone).unwrap_err();
        assert!(refusal.to_string().contains("revoked"), "{refusal}");
    }
    admit(authorities.trust(), &good).unwrap();
    admit(authorities.trust(), &fine).unwrap();
    assert_eq!(authorities.revoked().count(), 3);
    let settled = stored(&authorities.advanced(RotationPhase::Settled, now()).unwrap());
    assert!(admit(settled.trust(), &new).is_err() && admit(settled.trust(), &good).is_err());
    admit(settled.trust(), &fine).unwrap();
    assert_eq!(settled.trust().matches("BEGIN X509 CRL").count(), 1, "the old list goes with its authority");
    assert!(!settled.trust_of(Holder::Process(Role::Etcd)).contains("CRL"), "etcd reads certificates only");
}

#[test]
fn a_list_that_would_grow_without_end_is_refused() {
    let serials: Vec<Serial> = (1..=MAX_REVOKED + 1).map(|at| format!("{at:08x}").parse().unwrap()).collect();
    let refused = first().revoking(&serials, now()).err().unwrap();
    assert!(refused.to_string().contains("cert rotate --ca"), "{refused}");
    let (full, _) = first().revoking(&serials[1..], now()).unwrap();
    assert!(full.trust().len() < 100_000, "{} bytes of a peer file", full.trust().len());
}
