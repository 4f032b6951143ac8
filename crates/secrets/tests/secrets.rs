//! Writing Secrets beside others who write the same ones. What a real API server says to the same is in
//! `e2e/tests/kube_secrets.rs`.
#![allow(clippy::unwrap_used)]

use mesh_secrets::testing::FakeSecrets;
use mesh_secrets::{Applied, Content, KeyName, OnConflict, Removed, SecretName, Secrets};

fn name() -> SecretName {
    SecretName::new("clustermesh-ca").unwrap()
}

fn key(text: &str) -> KeyName {
    KeyName::new(text).unwrap()
}

fn content(pairs: &[(&str, &str)]) -> Content {
    let data = pairs.iter().map(|(key, text)| ((*key).into(), text.as_bytes().to_vec())).collect();
    Content { data, ..Content::default() }
}

#[tokio::test]
async fn of_two_that_create_one_succeeds() {
    let fake = FakeSecrets::start().await;
    let secrets = Secrets::new(fake.access());
    let name = name();
    assert!(secrets.read(&name).await.unwrap().is_none());
    let (one, two) = (content(&[("a", "one")]), content(&[("a", "two")]));
    let (first, second) = tokio::join!(secrets.create(&name, &one), secrets.create(&name, &two));
    let made = (first.unwrap(), second.unwrap());
    assert!(made.0 != made.1, "{made:?}");
    let held = secrets.read(&name).await.unwrap().unwrap();
    assert_eq!(held.value("a").unwrap(), if made.0 { b"one" } else { b"two" });
}

#[tokio::test]
async fn a_replacement_counts_for_what_was_read_only() {
    let fake = FakeSecrets::start().await;
    let (secrets, name) = (Secrets::new(fake.access()), name());
    fake.put(name.as_str(), &[("a", "1"), ("b", "1")]);
    let before = secrets.read(&name).await.unwrap().unwrap();
    assert!(secrets.replace(&name, &before, &content(&[("a", "2")])).await.unwrap());
    assert!(
        !secrets.replace(&name, &before, &content(&[("a", "3")])).await.unwrap(),
        "it was changed meanwhile"
    );
    assert_eq!((fake.value(name.as_str(), "a"), fake.value(name.as_str(), "b")), (Some("2".into()), None));
    fake.delete(name.as_str());
    assert!(!secrets.replace(&name, &before, &content(&[])).await.unwrap(), "it is gone");
}

#[tokio::test]
async fn each_managers_key_is_its_own() {
    let fake = FakeSecrets::start().await;
    let (secrets, name) = (Secrets::new(fake.access()), name());
    let (hoth, yavin) = (key("hoth.yaml"), key("yavin.yaml"));
    for (key, manager) in [(&hoth, "peer-hoth"), (&yavin, "peer-yavin")] {
        let applied = secrets.apply((&name, key), b"1", manager, OnConflict::Refuse).await.unwrap();
        assert_eq!(applied, Applied::Yes);
    }
    let conflict = secrets.apply((&name, &hoth), b"2", "peer-yavin", OnConflict::Refuse).await.unwrap();
    assert!(matches!(conflict, Applied::Conflict(ref who) if who.contains("peer-hoth")), "{conflict:?}");
    assert_eq!(secrets.remove((&name, &hoth), "peer-hoth").await.unwrap(), Removed::Yes);
    assert_eq!(secrets.remove((&name, &hoth), "peer-hoth").await.unwrap(), Removed::Absent);
    assert_eq!(fake.value(name.as_str(), "yavin.yaml").unwrap(), "1");
}

#[tokio::test]
async fn what_others_have_set_is_removed_and_they_are_named() {
    let fake = FakeSecrets::start().await;
    let (secrets, name, hoth) = (Secrets::new(fake.access()), name(), key("hoth.yaml"));
    assert_eq!(secrets.remove((&name, &hoth), "peer-hoth").await.unwrap(), Removed::Absent);
    assert!(fake.object(name.as_str()).is_none(), "nothing is made in order to remove something");
    fake.put(name.as_str(), &[("hoth.yaml", "1"), ("other", "1")]);
    let said = secrets.remove((&name, &hoth), "peer-hoth").await.unwrap();
    assert_eq!(said, Removed::FromOthers(vec!["somebody".into()]));
    // Set by both.
    fake.put(name.as_str(), &[("hoth.yaml", "1"), ("other", "1")]);
    secrets.apply((&name, &hoth), b"1", "peer-hoth", OnConflict::Refuse).await.unwrap();
    let said = secrets.remove((&name, &hoth), "peer-hoth").await.unwrap();
    assert_eq!(said, Removed::FromOthers(vec!["somebody".into()]));
    assert_eq!(
        (fake.value(name.as_str(), "hoth.yaml"), fake.value(name.as_str(), "other")),
        (None, Some("1".into()))
    );
}

#[tokio::test]
async fn a_refusal_says_what_to_do_and_never_a_value() {
    let fake = FakeSecrets::start().await;
    let (secrets, name) = (Secrets::new(fake.access()), name());
    fake.put(name.as_str(), &[("a", "geheim")]);
    let read = secrets.read(&name).await.unwrap().unwrap();
    let shown = format!("{read:?} {:?}", content(&[("a", "geheim")]));
    assert!(shown.contains("keys: [\"a\"]") && !shown.contains("geheim"), "{shown}");
    fake.refuse(Some(403));
    let said = secrets.create(&name, &content(&[("a", "geheim")])).await.unwrap_err().to_string();
    assert!(
        said.starts_with("creating the Secret clustermesh-ca: let this process's service account"),
        "{said}"
    );
}
