//! Both stores come to the same; what only Secrets have, several who write, is tested with them.

use std::fs;

use mesh_runtime::Registry;
use mesh_secrets::Secrets;
use mesh_secrets::testing::FakeSecrets;
use mesh_trust::{Authority, Role};
use serde_json::json;

use super::*;
use crate::certificates::{Folder, SecretStore};

const DAY: Duration = Duration::from_secs(24 * 3600);
const AGENT: Holder = Holder::Process(Role::Agent);
const APISERVER: Holder = Holder::Process(Role::Apiserver);

fn at(after: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000) + after)
}

pub(in crate::certificates) fn look(store: Store) -> Look {
    let mut registry = Registry::new("test", "0");
    let metrics = CertificateMetrics::register(registry.root());
    let cluster = ClusterName::new("hoth").unwrap();
    let wanted = |role, names: &[&str]| Wanted {
        role,
        names: names.iter().map(ToString::to_string).collect(),
        length: 6 * DAY,
    };
    let wanted = [
        wanted(Role::Apiserver, &["mesh.example"]),
        wanted(Role::Agent, &[]),
        wanted(Role::Etcd, &["etcd.example", "127.0.0.1"]),
    ];
    Look::new((cluster, store), wanted, metrics)
}

fn in_a_folder(scratch: &tempfile::TempDir) -> Look {
    look(Store::Folder(Folder::new(scratch.path().into())))
}

fn in_secrets(fake: &FakeSecrets) -> Look {
    let placements = Holder::ALL.map(|holder| format!("{0}=mesh-{0}", holder.as_str()).parse().unwrap());
    look(Store::Secrets(SecretStore::new(Secrets::new(fake.access()), placements)))
}

async fn held(look: &Look) -> Vec<String> {
    let mut held = Vec::new();
    for holder in look.store.holders() {
        held.push(look.store.read(holder).await.unwrap().unwrap().entry.pair.certificate_pem);
    }
    held
}

#[tokio::test]
async fn what_is_missing_is_made_and_what_is_due_is_renewed_by_the_same_authority() {
    let (scratch, fake) = (tempfile::tempdir().unwrap(), FakeSecrets::start().await);
    for look in [in_a_folder(&scratch), in_secrets(&fake)] {
        look.pass(at(Duration::ZERO), true).await.unwrap();
        let first = held(&look).await;
        look.pass(at(DAY), true).await.unwrap();
        assert_eq!(held(&look).await, first, "nothing is due");
        look.pass(at(3 * DAY), true).await.unwrap();
        let second = held(&look).await;
        assert_eq!(second[0], first[0], "the authority stays");
        assert!(second[1..].iter().zip(&first[1..]).all(|(second, first)| second != first));
        match &look.store {
            Store::Folder(_) => fs::remove_file(scratch.path().join("agent")).unwrap(),
            Store::Secrets(_) => fake.delete("mesh-agent"),
        }
        look.pass(at(3 * DAY), true).await.unwrap();
        let third = held(&look).await;
        assert_eq!(third[1], second[1], "only what is missing is made");
        assert!(third[2] != second[2]);
        assert_eq!(look.store.read(AGENT).await.unwrap().unwrap().entry.trust, third[0]);
    }
    assert!(fake.value("mesh-etcd", "tls.key").is_some() && !scratch.path().join("etcd").exists());
    assert_eq!(fake.object("mesh-ca").unwrap()["type"], "kubernetes.io/tls");
}

#[tokio::test]
async fn a_companys_certificates_stay_as_they_are() {
    let (scratch, fake) = (tempfile::tempdir().unwrap(), FakeSecrets::start().await);
    for look in [in_a_folder(&scratch), in_secrets(&fake)] {
        let theirs = Authority::new(&look.cluster, at(Duration::ZERO)).unwrap();
        let put = |holder: &str, certificate: &str, key: &str| match &look.store {
            Store::Folder(_) => {
                let folder = scratch.path().join(holder);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("tls.crt"), certificate).unwrap();
                fs::write(folder.join("tls.key"), key).unwrap();
            }
            Store::Secrets(_) => {
                fake.put(&format!("mesh-{holder}"), &[("tls.crt", certificate), ("tls.key", key)])
            }
        };
        put("ca", theirs.certificate_pem(), "");
        put("agent", "theirs", "theirs");
        look.pass(at(Duration::ZERO), true).await.unwrap();
        let agent = look.store.read(AGENT).await.unwrap().unwrap();
        assert_eq!((agent.entry.pair.certificate_pem.as_str(), agent.is_own), ("theirs", false));
        assert!(look.store.read(APISERVER).await.unwrap().is_none(), "nobody can make it here");
        // With their key it could be made here, but for what is theirs.
        put("ca", theirs.certificate_pem(), theirs.key_pem());
        let said = mesh_failure::chain(&look.pass(at(Duration::ZERO), true).await.unwrap_err());
        assert!(said.contains("the agent is somebody else's"), "{said}");
        assert!(look.store.read(APISERVER).await.unwrap().is_some(), "the others are kept");
        assert_eq!(look.store.read(AGENT).await.unwrap().unwrap().entry.pair.certificate_pem, "theirs");
    }
}

#[tokio::test]
async fn a_broken_authority_is_told_and_nothing_is_made_in_its_place() {
    let scratch = tempfile::tempdir().unwrap();
    let look = in_a_folder(&scratch);
    look.pass(at(Duration::ZERO), true).await.unwrap();
    let before = held(&look).await;
    fs::write(scratch.path().join("ca/tls.key"), "broken").unwrap();
    let said = mesh_failure::chain(&look.pass(at(3 * DAY), true).await.unwrap_err());
    assert!(said.contains("put back its tls.crt and tls.key, or remove the folder ca"), "{said}");
    assert_eq!(held(&look).await, before);
}

#[tokio::test]
async fn replicas_that_begin_together_come_to_the_same_authority() {
    let fake = FakeSecrets::start().await;
    let looks: Vec<_> = (0..3).map(|_| in_secrets(&fake)).collect();
    let now = at(Duration::ZERO);
    // None of them leads: etcd can't start yet.
    let (one, two, three) =
        tokio::join!(looks[0].pass(now, false), looks[1].pass(now, false), looks[2].pass(now, false));
    for ended in [one, two, three] {
        ended.unwrap();
    }
    looks[0].pass(now, false).await.unwrap();
    let authorities = looks[0].authorities(now).await.unwrap().authorities.unwrap();
    for wanted in &looks[0].wanted {
        let holder = Holder::Process(wanted.role);
        let held = looks[0].store.read(holder).await.unwrap().unwrap();
        let upkeep =
            wanted.upkeep((&authorities.issuing, &authorities.list()), Some(&held.entry.pair), now).unwrap();
        assert!(matches!(upkeep, Upkeep::Keep { .. }), "{holder:?}: {upkeep:?}");
    }
}

#[tokio::test]
async fn who_does_not_lead_makes_only_what_no_longer_counts() {
    let fake = FakeSecrets::start().await;
    let look = in_secrets(&fake);
    look.pass(at(Duration::ZERO), false).await.unwrap();
    let first = held(&look).await;
    look.pass(at(3 * DAY), false).await.unwrap();
    assert_eq!(held(&look).await, first, "what is due is the leader's to renew");
    // Without this nobody could lead any more: etcd's certificate has expired as well.
    look.pass(at(7 * DAY), false).await.unwrap();
    let second = held(&look).await;
    assert_eq!(second[0], first[0]);
    assert!(second[1..].iter().zip(&first[1..]).all(|(second, first)| second != first));
}

#[tokio::test]
async fn what_processes_trust_follows_the_authoritys_secret() {
    let fake = FakeSecrets::start().await;
    let look = in_secrets(&fake);
    let now = at(Duration::ZERO);
    let (new, old) =
        (Authority::new(&look.cluster, now).unwrap(), Authority::new(&look.cluster, now).unwrap());
    let both = format!("{}{}", new.certificate_pem(), old.certificate_pem());
    let pair = [("tls.crt", new.certificate_pem()), ("tls.key", new.key_pem())];
    fake.put("mesh-ca", &pair);
    look.pass(now, true).await.unwrap();
    assert_eq!(fake.value("mesh-agent", "ca.crt").unwrap(), new.certificate_pem());
    let agent = fake.value("mesh-agent", "tls.crt");
    fake.put("mesh-ca", &[&pair[..], &[("ca.crt", old.certificate_pem())]].concat());
    look.pass(now, true).await.unwrap();
    assert_eq!(fake.value("mesh-agent", "ca.crt").unwrap(), both);
    assert_eq!(fake.value("mesh-agent", "tls.crt"), agent, "its certificate still serves");
}

#[tokio::test]
async fn a_certificate_that_was_handed_over_is_made_anew() {
    let fake = FakeSecrets::start().await;
    let look = in_secrets(&fake);
    let now = at(Duration::ZERO);
    fake.put("mesh-agent", &[("tls.crt", "of before"), ("tls.key", "of before")]);
    look.pass(now, true).await.unwrap_err();
    let mut handed = fake.object("mesh-agent").unwrap();
    handed["metadata"] = json!({"annotations": {"clustermesh.io/made-by": "clustermesh-apiserver"}});
    fake.put_object("mesh-agent", &handed);
    look.pass(now, true).await.unwrap();
    assert!(fake.value("mesh-agent", "tls.crt").unwrap().contains("BEGIN CERTIFICATE"));
}

#[tokio::test]
async fn who_is_taken_over_from_while_it_looks_looks_again_and_complains_of_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let look = in_a_folder(&scratch);
    let now = at(Duration::ZERO);
    look.pass(now, true).await.unwrap();
    let read = look.authorities(now).await.unwrap();
    // Now somebody else takes over: another authority, without its key, and what it has issued.
    let theirs = Authority::new(&look.cluster, now).unwrap();
    let agent = look.wanted[1].issue(&theirs, now).unwrap();
    let put = |holder: &str, files: &[(&str, &str)]| {
        let (link, folder) =
            (scratch.path().join(holder), scratch.path().join(format!("{holder}-of-theirs")));
        fs::create_dir(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
    };
    put("agent", &[("tls.crt", &agent.certificate_pem), ("tls.key", &agent.key_pem)]);
    assert!(matches!(look.keep_all(&read, (now, true)).await, Err(KeepError::Foreign { .. })));
    assert!(!look.is_outdated(&read).await.unwrap(), "nobody else's authority is there: it is a fault");
    put("ca", &[("tls.crt", theirs.certificate_pem())]);
    assert!(look.is_outdated(&read).await.unwrap());
    look.pass(now, true).await.unwrap();
}
