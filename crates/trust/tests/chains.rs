//! Which chains count, and what is said of those that don't.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::name::ClusterName;
use mesh_trust::{
    Authority, Bundle, Certificate, Fingerprint, Identity, Issued, Lifetime, Refusal, RefusalReason,
    Revocations, Role, Serial, Side, Trust,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
}

fn later(by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs()) + by)
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn authority(name: &str) -> Authority {
    Authority::new(&cluster(name), now()).unwrap()
}

fn issue(authority: &Authority, role: Role) -> Issued {
    authority.issue(role, &[], Lifetime::starting(now(), 7 * DAY)).unwrap()
}

fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()
}

fn trust(bundles: &[(&str, &str)]) -> Trust {
    let bundle = |pem: &str| Arc::new(Bundle::from_pem(pem).unwrap());
    Trust::new(bundles.iter().map(|(name, pem)| (cluster(name), bundle(pem))).collect::<BTreeMap<_, _>>())
}

fn admit(trust: &Trust, issued: &Issued, side: Side) -> Result<Identity, Refusal> {
    trust.admit(&der(issued), &[], side, now())
}

#[test]
fn a_clusters_processes_are_known_by_its_own_authority() {
    let (hoth, yavin) = (authority("hoth"), authority("yavin"));
    let trust = trust(&[("hoth", hoth.certificate_pem()), ("yavin", yavin.certificate_pem())]);
    let identity = admit(&trust, &issue(&hoth, Role::Agent), Side::Client).unwrap();
    assert_eq!(identity.to_string(), "clustermesh://hoth/agent");
    let identity = admit(&trust, &issue(&yavin, Role::Apiserver), Side::Server).unwrap();
    assert_eq!(identity.to_string(), "clustermesh://yavin/apiserver");
    assert!(admit(&trust, &issue(&yavin, Role::Apiserver), Side::Client).is_ok(), "it reads peers, too");
}

#[test]
fn an_authority_vouches_for_its_own_cluster_only() {
    let (hoth, yavin) = (authority("hoth"), authority("yavin"));
    // Yavin's authority signs what says that it is hoth.
    let forger = Authority::from_pem(&cluster("hoth"), yavin.certificate_pem(), yavin.key_pem()).unwrap();
    let forged = issue(&forger, Role::Agent);
    let both = trust(&[("hoth", hoth.certificate_pem()), ("yavin", yavin.certificate_pem())]);
    let refusal = admit(&both, &forged, Side::Client).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::UnknownIssuer);
    assert!(
        refusal.to_string().starts_with("clustermesh://hoth/agent shows a certificate that leads to no root")
    );
    // Where hoth isn't trusted at all, yavin's root does not help either.
    let refusal = admit(&trust(&[("yavin", yavin.certificate_pem())]), &forged, Side::Client).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownCluster { cluster: cluster("hoth") });
}

#[test]
fn a_certificate_counts_within_its_lifetime_only() {
    let hoth = authority("hoth");
    let trust = trust(&[("hoth", hoth.certificate_pem())]);
    let leaf = der(&issue(&hoth, Role::Agent));
    let at = |time| trust.admit(&leaf, &[], Side::Client, time);
    assert!(at(later(7 * DAY)).is_ok());
    let expired = at(later(7 * DAY + Duration::from_secs(90))).unwrap_err();
    assert_eq!(expired.reason(), RefusalReason::Expired);
    assert!(expired.to_string().contains("expired 90 s ago"), "{expired}");
    let before = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - 400));
    let early = at(before).unwrap_err();
    assert!(early.to_string().contains("counts only in 100 s"), "{early}");
    let slack = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - 299));
    assert!(at(slack).is_ok(), "other clocks may be five minutes late");
}

#[test]
fn an_etcd_is_nobodys_client() {
    let hoth = authority("hoth");
    let trust = trust(&[("hoth", hoth.certificate_pem())]);
    let etcd = issue(&hoth, Role::Etcd);
    assert!(admit(&trust, &etcd, Side::Server).is_ok());
    let refused = admit(&trust, &etcd, Side::Client).unwrap_err();
    assert_eq!(refused.reason(), RefusalReason::Role, "{refused}");
}

#[test]
fn a_role_is_not_another() {
    let hoth = authority("hoth");
    let trust = trust(&[("hoth", hoth.certificate_pem())]);
    let refusal = admit(&trust, &issue(&hoth, Role::Agent), Side::Server).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::Unusable, "an agent serves nothing: {refusal}");
}

#[test]
fn a_revoked_certificate_is_refused_and_its_neighbour_is_not() {
    let hoth = authority("hoth");
    let (stolen, other) = (issue(&hoth, Role::Agent), issue(&hoth, Role::Agent));
    let serial = Certificate::read(&der(&stolen)).unwrap().serial;
    let list = hoth.revoke(&[serial], 1, Lifetime::starting(now(), DAY)).unwrap();
    let bundle = format!("{}{list}", hoth.certificate_pem());
    let trust = trust(&[("hoth", &bundle)]);
    assert_eq!(admit(&trust, &stolen, Side::Client).unwrap_err().reason(), RefusalReason::Revoked);
    assert!(admit(&trust, &other, Side::Client).is_ok());
    // A list that nobody has renewed still revokes, and cuts nobody else off.
    let a_week = later(6 * DAY);
    assert!(trust.admit(&der(&other), &[], Side::Client, a_week).is_ok());
    let refusal = trust.admit(&der(&stolen), &[], Side::Client, a_week).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::Revoked);
}

#[test]
fn a_list_of_another_authority_revokes_nothing() {
    let (hoth, yavin) = (authority("hoth"), authority("yavin"));
    let leaf = issue(&hoth, Role::Agent);
    let serial = Certificate::read(&der(&leaf)).unwrap().serial;
    let list = yavin.revoke(&[serial], 1, Lifetime::starting(now(), DAY)).unwrap();
    let trust = trust(&[("hoth", &format!("{}{list}", hoth.certificate_pem()))]);
    assert!(admit(&trust, &leaf, Side::Client).is_ok());
}

#[test]
fn old_and_new_authority_are_trusted_while_one_replaces_the_other() {
    let (old, new) = (authority("hoth"), authority("hoth"));
    let (before, after) = (issue(&old, Role::Agent), issue(&new, Role::Agent));
    let both = trust(&[("hoth", &format!("{}{}", old.certificate_pem(), new.certificate_pem()))]);
    assert!(admit(&both, &before, Side::Client).is_ok() && admit(&both, &after, Side::Client).is_ok());
    let only_new = trust(&[("hoth", new.certificate_pem())]);
    let refusal = admit(&only_new, &before, Side::Client).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::UnknownIssuer, "the name is the same, the key is not");
    let bundle = |trust: &Trust| Arc::clone(trust.bundle(&cluster("hoth")).unwrap());
    assert!(bundle(&both).shares_a_root(&bundle(&only_new)));
}

#[test]
fn an_authority_reads_as_it_was_written() {
    let hoth = authority("hoth");
    let again = Authority::from_pem(&cluster("hoth"), hoth.certificate_pem(), hoth.key_pem()).unwrap();
    let trust = trust(&[("hoth", hoth.certificate_pem())]);
    assert!(admit(&trust, &issue(&again, Role::Agent), Side::Client).is_ok());
    let other = authority("hoth");
    let error = Authority::from_pem(&cluster("hoth"), hoth.certificate_pem(), other.key_pem()).err().unwrap();
    assert_eq!(error.to_string(), "the authority's key does not belong to its certificate");
    let leaf = issue(&hoth, Role::Agent);
    let error = Authority::from_pem(&cluster("hoth"), &leaf.certificate_pem, &leaf.key_pem).err().unwrap();
    assert_eq!(error.to_string(), "the authority's certificate may not vouch for others (it is no CA)");
}

#[test]
fn a_certificate_is_renewed_after_a_third_of_its_life() {
    let lifetime = Lifetime::starting(now(), 6 * DAY);
    let waited = lifetime.renewal().as_secs() - now().as_secs();
    assert!((waited as i64 - 2 * DAY.as_secs() as i64).abs() <= 300, "{waited} s");
}

#[test]
fn names_stand_beside_the_identity() {
    let hoth = authority("hoth");
    let names = ["mesh.hoth.example".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let issued = hoth.issue(Role::Apiserver, &names, Lifetime::starting(now(), DAY)).unwrap();
    let leaf = der(&issued);
    let parsed = webpki::EndEntityCert::try_from(&leaf).unwrap();
    for name in names {
        let name = rustls::pki_types::ServerName::try_from(name).unwrap();
        parsed.verify_is_valid_for_subject_name(&name).unwrap();
    }
    let error =
        hoth.issue(Role::Apiserver, &["h\u{f4}th".into()], Lifetime::starting(now(), DAY)).err().unwrap();
    assert!(error.to_string().contains("can't stand in a certificate as a name"), "{error}");
}

#[test]
fn what_is_no_bundle_is_said() {
    let error = |text: &str| Bundle::from_pem(text).unwrap_err().to_string();
    assert_eq!(error(""), "it holds no certificate: put the PEM certificate of the cluster's CA there");
    let hoth = authority("hoth");
    let leaf = issue(&hoth, Role::Agent).certificate_pem;
    assert!(error(&leaf).contains("is no CA's: use the certificate that signed it"), "{}", error(&leaf));
    let broken = hoth.certificate_pem().replace("MII", "!!!");
    assert_eq!(error(&broken), "it is no valid PEM: write it again from its source");
    assert_eq!(error(&hoth.certificate_pem().repeat(17)), "it holds 17 certificates; at most 16 are allowed");
}

#[test]
fn a_certificate_without_an_identity_says_so() {
    let hoth = authority("hoth");
    let trust = trust(&[("hoth", hoth.certificate_pem())]);
    let refusal = trust.admit(hoth.certificate(), &[], Side::Client, now()).unwrap_err();
    assert_eq!(refusal, Refusal::NoIdentity);
    let garbage = CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x00]);
    let refusal = trust.admit(&garbage, &[], Side::Client, now()).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::Unreadable);
}

#[test]
fn the_lists_of_an_authority_and_of_its_successor_count_beside_each_other() {
    let (old, new) = (authority("hoth"), authority("hoth"));
    let mut text = format!("{}{}", old.certificate_pem(), new.certificate_pem());
    let mut leaves = Vec::new();
    for issuer in [&old, &new] {
        let (stolen, good) = (issue(issuer, Role::Agent), issue(issuer, Role::Agent));
        let serial = Certificate::read(&der(&stolen)).unwrap().serial;
        text += &issuer.revoke(&[serial], 1, Lifetime::starting(now(), DAY)).unwrap();
        leaves.push((stolen, good));
    }
    let trust = trust(&[("hoth", &text)]);
    for (stolen, good) in &leaves {
        assert_eq!(admit(&trust, stolen, Side::Client).unwrap_err().reason(), RefusalReason::Revoked);
        admit(&trust, good, Side::Client).unwrap();
    }
}

#[test]
fn a_list_says_again_what_the_one_before_it_said() {
    let (hoth, other) = (authority("hoth"), authority("hoth"));
    assert_eq!(hoth.revoked(""), Revocations::default());
    let [one, two] = ["00:A1", "ff02"].map(|text| text.parse::<Serial>().unwrap());
    let mut revocations = Revocations { number: 1, revoked: [(one, now())].into() };
    let first = hoth.relist(&revocations, now()).unwrap();
    assert_eq!(hoth.revoked(&first), revocations);
    revocations = Revocations { number: 2, ..revocations };
    revocations.revoked.insert(two, later(DAY));
    let second = hoth.relist(&revocations, later(DAY)).unwrap();
    let text = format!("{second}{}{first}", other.relist(&Revocations::default(), now()).unwrap());
    assert_eq!(hoth.revoked(&text), revocations, "the newest of its own counts");
}

#[test]
fn what_is_shown_of_a_certificate_is_read_again() {
    let read = Certificate::read(&der(&issue(&authority("hoth"), Role::Agent))).unwrap();
    assert_eq!(read.serial.to_string().parse(), Ok(read.serial.clone()));
    assert_eq!(read.serial.to_string().replace(':', "").to_lowercase().parse(), Ok(read.serial));
    assert_eq!(read.fingerprint.to_string().parse(), Ok(read.fingerprint));
    assert_eq!(Certificate::read(&der(&issue(&authority("hoth"), Role::Agent))).unwrap().made(), now());
    for bad in ["", "1", "0x12", "00", "zz", "a:b:c", &"11".repeat(22)] {
        assert!(bad.parse::<Serial>().is_err(), "{bad}");
    }
    assert!("A1:B2".parse::<Fingerprint>().is_err());
}
