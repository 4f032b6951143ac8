use std::fs;
use std::time::Duration;

use mesh_secrets::Secrets;
use mesh_secrets::testing::FakeSecrets;
use mesh_trust::{Authority, Side, Trust};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::Instant;

use super::*;
use crate::certificates::look::tests::look;
use crate::certificates::{Folder, SecretStore, Store};

const DEADLINE: Duration = Duration::from_secs(20);

/// As a process that has just become the leader.
async fn leader(store: Store) -> Orders {
    let look = Arc::new(look(store));
    look.pass(UnixTime::now(), true).await.unwrap();
    orders(look, true)
}

fn orders(look: Arc<Look>, leads: bool) -> Orders {
    // The receiver goes on saying it.
    let leading = watch::Sender::new(leads).subscribe();
    Orders::new(look, leading, OwnEtcd::default())
}

fn folder(scratch: &tempfile::TempDir) -> Store {
    Store::Folder(Folder::new(scratch.path().into()))
}

fn secrets(fake: &FakeSecrets) -> Store {
    let placements = Holder::ALL.map(|holder| format!("{0}=mesh-{0}", holder.as_str()).parse().unwrap());
    Store::Secrets(SecretStore::new(Secrets::new(fake.access()), placements))
}

async fn pem(orders: &Orders, holder: Holder) -> String {
    orders.look.store.read(holder).await.unwrap().unwrap().entry.pair.certificate_pem
}

const AGENT: Holder = Holder::Process(Role::Agent);

fn admits(trust: &str, pem: &str) -> bool {
    let cluster = ClusterName::new("hoth").unwrap();
    let trust = Trust::in_one(cluster, Bundle::from_pem(trust).unwrap().into());
    let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    trust.admit(&leaf, &[], Side::Client, UnixTime::now()).is_ok()
}

async fn until_nothing_stands_against_it(orders: &Orders) {
    let end = Instant::now() + DEADLINE;
    loop {
        let rotation = orders.rotation(&Peers::default()).await.unwrap();
        if rotation.obstacles.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{rotation:?}");
        assert!(rotation.obstacles.iter().all(|it| it.problem.who.to_string() == "nobody"), "{rotation:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_rotation_goes_on_wherever_the_process_before_it_was_interrupted() {
    let scratch = tempfile::tempdir().unwrap();
    let mut orders = leader(folder(&scratch)).await;
    let first = orders.rotation(&Peers::default()).await.unwrap();
    let mut shown = pem(&orders, AGENT).await;
    for to in [RotationPhase::Announced, RotationPhase::Switched, RotationPhase::Settled] {
        until_nothing_stands_against_it(&orders).await;
        // The phase is written, and nothing that follows from it.
        orders.begin(to, &[], &Peers::default()).await.unwrap();
        orders = leader(folder(&scratch)).await;
        let now = orders.advance(to, &[], &Peers::default()).await.unwrap();
        assert_eq!(now.phase, to, "once more changes nothing");
        let next = pem(&orders, AGENT).await;
        assert!(admits(&now.trust, &next));
        assert_eq!(
            next != shown,
            to == RotationPhase::Switched,
            "certificates change at the switch, and once"
        );
        shown = next;
        assert_eq!(orders.look.store.read(AGENT).await.unwrap().unwrap().entry.trust, now.trust);
    }
    let last = orders.rotation(&Peers::default()).await.unwrap();
    assert_eq!((first.fingerprints.len(), last.fingerprints.len()), (1, 1));
    assert_ne!(first.fingerprints, last.fingerprints);
    assert!(!scratch.path().join("ca/previous.key").exists() && scratch.path().join("ca/tls.key").exists());
}

#[tokio::test]
async fn no_phase_begins_before_its_time_but_without_peers_that_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let orders = leader(folder(&scratch)).await;
    let (yavin, endor) = (ClusterName::new("yavin").unwrap(), ClusterName::new("endor").unwrap());
    let refused = vec![(yavin.clone(), "it is empty".into()), (endor.clone(), "it is empty".into())];
    let peers = Peers { files: Vec::new(), refused };
    let (announced, switched) = (RotationPhase::Announced, RotationPhase::Switched);
    orders.advance(announced, &[], &peers).await.unwrap();
    let early = orders.advance(switched, &[yavin.clone(), endor.clone()], &peers).await.unwrap_err();
    assert!(matches!(early, OrderError::NotYet(_)), "nobody has had the time to read of it: {early}");
    until_nothing_stands_against_it(&orders).await;
    let refused = orders.advance(switched, std::slice::from_ref(&yavin), &peers).await.unwrap_err();
    let OrderError::NotYet(obstacles) = refused else { panic!("{refused}") };
    assert_eq!(obstacles.iter().map(|it| it.peer.clone()).collect::<Vec<_>>(), [Some(endor.clone())]);
    assert_eq!(orders.show().await.unwrap().phase, announced);
    orders.advance(switched, &[yavin, endor], &peers).await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_made_anew_when_asked_and_its_neighbours_are_not() {
    let (scratch, fake) = (tempfile::tempdir().unwrap(), FakeSecrets::start().await);
    for store in [folder(&scratch), secrets(&fake)] {
        let orders = leader(store).await;
        let apiserver = pem(&orders, Holder::Process(Role::Apiserver)).await;
        let agent = pem(&orders, AGENT).await;
        let made = orders.rotate("agent").await.unwrap();
        let now = pem(&orders, AGENT).await;
        assert_ne!(agent, now);
        assert_eq!(Some(made), shown("agent", &now, true));
        assert_eq!(pem(&orders, Holder::Process(Role::Apiserver)).await, apiserver);
        let said = orders.rotate("admin").await.unwrap_err().to_string();
        assert!(said.contains("no certificate of a holder \"admin\""), "{said}");
    }
}

#[tokio::test]
async fn what_is_revoked_is_replaced_where_it_is_in_use_and_counts_nowhere() {
    let (scratch, fake) = (tempfile::tempdir().unwrap(), FakeSecrets::start().await);
    for store in [folder(&scratch), secrets(&fake)] {
        let orders = leader(store).await;
        let (old, read) = (pem(&orders, AGENT).await, orders.show().await.unwrap());
        let agent = read.certificates.iter().find(|it| it.holder == "agent").unwrap().clone();
        let revoked = orders.revoke(&[agent.fingerprint.clone(), "0a:0b".into()]).await.unwrap();
        assert_eq!(revoked.renewed, ["agent"]);
        let serials: Vec<_> = revoked.revoked.iter().map(|it| it.serial.as_str()).collect();
        assert_eq!(serials, [agent.serial.as_str(), "0A:0B"]);
        assert!(!admits(&revoked.trust, &old) && admits(&revoked.trust, &pem(&orders, AGENT).await));
        assert_eq!(orders.look.store.read(AGENT).await.unwrap().unwrap().entry.trust, revoked.trust);
        let again = orders.revoke(std::slice::from_ref(&agent.serial)).await.unwrap();
        assert!(again.revoked.is_empty() && again.renewed.is_empty() && again.trust == revoked.trust);
        assert_eq!(orders.show().await.unwrap().revoked.len(), 2);
        let said = orders.revoke(&[agent.fingerprint]).await.unwrap_err().to_string();
        assert!(said.contains("no certificate that is in use has the fingerprint"), "{said}");
        let ca = read.certificates.iter().find(|it| it.holder == "ca").unwrap();
        for text in [&ca.serial, &ca.fingerprint] {
            let refused = orders.revoke(std::slice::from_ref(text)).await.unwrap_err();
            assert!(matches!(refused, OrderError::OfAuthority(_)), "{refused}");
        }
        assert!(matches!(orders.revoke(&["hoth".into()]).await, Err(OrderError::Text(_))));
    }
    assert!(!fake.value("mesh-etcd", "ca.crt").unwrap().contains("CRL"), "etcd would not start with it");
}

#[tokio::test]
async fn who_stands_by_changes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    drop(leader(folder(&scratch)).await);
    let orders = orders(Arc::new(look(folder(&scratch))), false);
    let before = orders.show().await.unwrap();
    for refused in [
        orders.rotate("agent").await.map(drop),
        orders.advance(RotationPhase::Announced, &[], &Peers::default()).await.map(drop),
        orders.revoke(&["0a".into()]).await.map(drop),
    ] {
        assert!(matches!(refused, Err(OrderError::StandsBy)), "{refused:?}");
    }
    assert_eq!(orders.show().await.unwrap(), before);
}

#[tokio::test]
async fn what_somebody_else_has_made_is_left_to_them_and_they_are_named() {
    let (scratch, fake) = (tempfile::tempdir().unwrap(), FakeSecrets::start().await);
    let cluster = ClusterName::new("hoth").unwrap();
    let theirs = Authority::new(&cluster, UnixTime::now()).unwrap();
    for store in [folder(&scratch), secrets(&fake)] {
        let put = |key: &str| match &store {
            Store::Folder(_) => {
                fs::create_dir_all(scratch.path().join("ca")).unwrap();
                fs::write(scratch.path().join("ca/tls.crt"), theirs.certificate_pem()).unwrap();
                fs::write(scratch.path().join("ca/tls.key"), key).unwrap();
            }
            Store::Secrets(_) => {
                fake.put("mesh-ca", &[("tls.crt", theirs.certificate_pem()), ("tls.key", key)]);
            }
        };
        for (key, part) in [("", "is kept elsewhere"), (theirs.key_pem(), "is somebody else's")] {
            put(key);
            let orders = leader(store.clone()).await;
            let shown = orders.show().await.unwrap();
            assert!(shown.foreign.as_ref().unwrap().contains(part), "{shown:?}");
            for refused in [
                orders.advance(RotationPhase::Announced, &[], &Peers::default()).await.map(drop),
                orders.revoke(&["0a".into()]).await.map(drop),
            ] {
                let said = refused.unwrap_err().to_string();
                assert!(said.contains(part) && said.contains("ca"), "{said}");
            }
        }
    }
}
