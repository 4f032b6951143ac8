//! Clients whose certificates claim no identity: those of peers that were installed before there were identities.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use mesh_model::name::ClusterName;
use mesh_trust::{Authority, Bundle, Certificate, Identity, Lifetime, Refusal, RefusalReason, Side, Trust};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

const DAY: Duration = Duration::from_secs(24 * 3600);
const CLIENT: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
}

fn after(by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs()) + by)
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn authority(name: &str) -> Authority {
    Authority::new(&cluster(name), now()).unwrap()
}

/// A certificate with these URIs and usages, for a day.
fn signed(
    authority: &Authority,
    uris: &[&str],
    usages: &[ExtendedKeyUsagePurpose],
) -> CertificateDer<'static> {
    let key = KeyPair::from_pem(authority.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_der(authority.certificate(), key).unwrap();
    let mut params = CertificateParams::new(vec!["node-1".to_owned()]).unwrap();
    let uri = |uri: &&str| SanType::URI(Ia5String::try_from(*uri).unwrap());
    params.subject_alt_names.extend(uris.iter().map(uri));
    params.extended_key_usages = usages.to_vec();
    let date = |at: UnixTime| OffsetDateTime::from_unix_timestamp(at.as_secs().try_into().unwrap()).unwrap();
    (params.not_before, params.not_after) = (date(now()), date(after(DAY)));
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, &issuer).unwrap().der().clone()
}

fn nameless(authority: &Authority) -> CertificateDer<'static> {
    signed(authority, &[], CLIENT)
}

fn trust(bundles: &[(&str, &str)]) -> Trust {
    let bundle = |(name, pem): &(&str, &str)| (cluster(name), Arc::new(Bundle::from_pem(pem).unwrap()));
    Trust::new(bundles.iter().map(bundle).collect()).assuming_agents()
}

fn admit(trust: &Trust, leaf: &CertificateDer<'_>) -> Result<Identity, Refusal> {
    trust.admit(leaf, &[], Side::Client, now())
}

fn refused(trust: &Trust, leaf: &CertificateDer<'_>) -> RefusalReason {
    admit(trust, leaf).unwrap_err().reason()
}

#[test]
fn it_is_an_agent_of_the_only_cluster_whose_roots_its_chain_leads_to() {
    let (hoth, yavin) = (authority("hoth"), authority("yavin"));
    let both = trust(&[("hoth", hoth.certificate_pem()), ("yavin", yavin.certificate_pem())]);
    assert_eq!(admit(&both, &nameless(&yavin)).unwrap().to_string(), "clustermesh://yavin/agent");
    assert_eq!(admit(&both, &nameless(&hoth)).unwrap().to_string(), "clustermesh://hoth/agent");
    assert_eq!(refused(&both, &nameless(&authority("yavin"))), RefusalReason::NoIdentity);
    assert_eq!(refused(&trust(&[]), &nameless(&hoth)), RefusalReason::NoIdentity);
}

#[test]
fn roots_of_two_clusters_make_it_nobody() {
    let (company, own) = (authority("company"), authority("hoth"));
    let shared = trust(&[
        ("bespin", company.certificate_pem()),
        ("hoth", own.certificate_pem()),
        ("yavin", company.certificate_pem()),
    ]);
    let refusal = admit(&shared, &nameless(&company)).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::Ambiguous);
    assert!(refusal.to_string().contains("more than one cluster (bespin, yavin)"), "{refusal}");
    assert!(admit(&shared, &nameless(&own)).is_ok(), "whoever is not ambiguous counts");
}

#[test]
fn what_one_cluster_revoked_or_has_expired_does_not_pass_as_anothers() {
    let company = authority("company");
    let leaf = nameless(&company);
    let serial = Certificate::read(&leaf).unwrap().serial;
    let list = company.revoke(&[serial], 1, Lifetime::starting(now(), DAY)).unwrap();
    let revoked = format!("{}{list}", company.certificate_pem());
    let shared = trust(&[("hoth", &revoked), ("yavin", company.certificate_pem())]);
    assert_eq!(refused(&shared, &leaf), RefusalReason::Ambiguous);
    let one = trust(&[("hoth", &revoked)]);
    assert_eq!(refused(&one, &leaf), RefusalReason::Revoked);
    assert!(admit(&one, &nameless(&company)).is_ok(), "its neighbour counts");
}

#[test]
fn it_counts_within_its_lifetime_and_the_log_says_whose_it_is() {
    let hoth = authority("hoth");
    let (trust, leaf) = (trust(&[("hoth", hoth.certificate_pem())]), nameless(&hoth));
    let at = |time| trust.admit(&leaf, &[], Side::Client, time);
    assert!(at(after(DAY)).is_ok());
    let expired = at(after(DAY + Duration::from_secs(90))).unwrap_err();
    assert!(
        expired.to_string().starts_with("the certificate of clustermesh://hoth/agent expired 90 s ago"),
        "{expired}"
    );
    let early = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - 60));
    assert_eq!(at(early).unwrap_err().reason(), RefusalReason::NotYetValid);
}

#[test]
fn a_servers_certificate_is_no_clients() {
    let hoth = authority("hoth");
    let trust = trust(&[("hoth", hoth.certificate_pem())]);
    let server = signed(&hoth, &[], &[ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(refused(&trust, &server), RefusalReason::Unusable);
    let mail = signed(&hoth, &[], &[ExtendedKeyUsagePurpose::EmailProtection]);
    assert_eq!(refused(&trust, &mail), RefusalReason::NoIdentity);
    assert_eq!(refused(&trust, hoth.certificate()), RefusalReason::NoIdentity, "nor is an authority's");
    let refusal = trust.admit(&nameless(&hoth), &[], Side::Server, now()).unwrap_err();
    assert_eq!(refusal, Refusal::NoIdentity, "a server is never assumed");
}

#[test]
fn uris_of_others_are_no_identity_and_broken_ones_of_ours_are_refused() {
    let hoth = authority("hoth");
    let trust = trust(&[("hoth", hoth.certificate_pem())]);
    let with = |uris: &[&str]| signed(&hoth, uris, CLIENT);
    assert!(admit(&trust, &with(&["spiffe://company/mesh", "https://example.org"])).is_ok());
    for broken in [
        "clustermesh://hoth",
        "clustermesh://hoth/root",
        "ClusterMesh://hoth/agent",
        "clustermesh:hoth/agent",
        "clustermesh://",
    ] {
        assert_eq!(refused(&trust, &with(&[broken])), RefusalReason::Unreadable, "{broken}");
        assert_eq!(refused(&trust, &with(&["spiffe://x/y", broken])), RefusalReason::Unreadable, "{broken}");
    }
    assert_eq!(refused(&trust, &with(&["clustermesh://yavin/agent"])), RefusalReason::UnknownCluster);
}

#[test]
fn nobody_is_assumed_where_identities_are_required() {
    let hoth = authority("hoth");
    let bundle = Arc::new(Bundle::from_pem(hoth.certificate_pem()).unwrap());
    let strict = Trust::in_one(cluster("hoth"), bundle);
    assert_eq!(refused(&strict, &nameless(&hoth)), RefusalReason::NoIdentity);
}
