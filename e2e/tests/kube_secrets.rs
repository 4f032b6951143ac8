//! What real API servers say to what `mesh-secrets` asks of them: its own tests ask one that is made for them.
//!
//! Run by `make test-kube`, which brings the lab up and takes it down.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::kube::kubectl::Context as Kubectl;
use mesh_e2e::kube::testing::Fixture;
use mesh_e2e::wait;
use mesh_secrets::{
    Access, Applied, Content, KeyName, Layout, Mirror, MirrorMetrics, OnConflict, Removed, SecretName,
    Secrets,
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Where the test's Secrets are.
const PLAYGROUND: &str = "secrets";
const PATIENCE: Duration = Duration::from_secs(20);

/// A kubeconfig whose context says which namespace is meant.
fn access(kubectl: &Kubectl, folder: &tempfile::TempDir) -> Result<Access> {
    let mut config = kubectl.json(&["config", "view", "--raw", "--minify"])?;
    config["contexts"][0]["context"]["namespace"] = json!(PLAYGROUND);
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, config.to_string()).context("writing a kubeconfig")?;
    Ok(Access { kubeconfig: Some(path) })
}

fn name(text: &str) -> Result<SecretName> {
    SecretName::new(text).context("a name")
}

fn key(text: &str) -> Result<KeyName> {
    KeyName::new(text).context("a key")
}

fn content(pairs: &[(&str, &str)]) -> Content {
    let data = pairs.iter().map(|(key, text)| ((*key).into(), text.as_bytes().to_vec())).collect();
    Content { data, ..Content::default() }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes lab: make test-kube"]
async fn secrets_are_written_beside_others_who_write_them() -> Result<()> {
    let fixture = Fixture::enter()?;
    let kubectl = fixture.pair()?[0].context();
    let folder = tempfile::tempdir().context("a folder")?;
    let secrets = Secrets::new(access(&kubectl, &folder)?);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLAYGROUND}});
    kubectl.apply(&namespace.to_string())?;
    let ended = async {
        creations_and_replacements(&secrets).await?;
        keys_and_their_managers(&secrets, &kubectl).await?;
        a_mirror(&secrets, &kubectl, &folder).await
    };
    let ended = ended.await;
    kubectl.kubectl(&["delete", "namespace", PLAYGROUND, "--wait=false"])?;
    ended
}

async fn creations_and_replacements(secrets: &Secrets) -> Result<()> {
    let name = name("made")?;
    ensure!(secrets.read(&name).await?.is_none());
    let (one, two) = (content(&[("a", "one")]), content(&[("a", "two"), ("b", "two")]));
    let (first, second) = tokio::join!(secrets.create(&name, &one), secrets.create(&name, &two));
    ensure!(first? != second?, "of two that create one succeeds");
    let before = secrets.read(&name).await?.context("it was made")?;
    ensure!(secrets.replace(&name, &before, &content(&[("c", "3")])).await?);
    ensure!(!secrets.replace(&name, &before, &one).await?, "it has changed meanwhile");
    let after = secrets.read(&name).await?.context("it is there")?;
    ensure!(after.data().collect::<Vec<_>>() == [("c", &b"3"[..])], "{after:?}");
    ensure!(!secrets.replace(&self::name("missing")?, &before, &one).await?, "there is none");
    Ok(())
}

async fn keys_and_their_managers(secrets: &Secrets, kubectl: &Kubectl) -> Result<()> {
    let name = name("peers")?;
    let (hoth, yavin) = (key("hoth.yaml")?, key("yavin.yaml")?);
    ensure!(secrets.remove((&name, &hoth), "peer-hoth").await? == Removed::Absent);
    ensure!(secrets.read(&name).await?.is_none(), "nothing is made in order to remove something");
    for (key, manager) in [(&hoth, "peer-hoth"), (&yavin, "peer-yavin")] {
        ensure!(secrets.apply((&name, key), b"1", manager, OnConflict::Refuse).await? == Applied::Yes);
    }
    let conflict = secrets.apply((&name, &hoth), b"2", "peer-yavin", OnConflict::Refuse).await?;
    ensure!(matches!(&conflict, Applied::Conflict(who) if who.contains("peer-hoth")), "{conflict:?}");
    ensure!(secrets.remove((&name, &hoth), "peer-hoth").await? == Removed::Yes);
    let left = secrets.read(&name).await?.context("it is there")?;
    ensure!(left.value("hoth.yaml").is_none() && left.value("yavin.yaml") == Some(b"1"), "{left:?}");
    // Set by kubectl alone, and by both.
    for apply in [false, true] {
        let patch: Value = json!({"stringData": {"hoth.yaml": "1"}});
        kubectl.kubectl(&["-n", PLAYGROUND, "patch", "secret", "peers", "--patch", &patch.to_string()])?;
        if apply {
            ensure!(
                secrets.apply((&name, &hoth), b"1", "peer-hoth", OnConflict::Refuse).await? == Applied::Yes
            );
        }
        let said = secrets.remove((&name, &hoth), "peer-hoth").await?;
        ensure!(said == Removed::FromOthers(vec!["kubectl-patch".into()]), "{said:?}");
        let left = secrets.read(&name).await?.context("it is there")?;
        ensure!(left.value("hoth.yaml").is_none() && left.value("yavin.yaml").is_some(), "{left:?}");
    }
    Ok(())
}

async fn a_mirror(secrets: &Secrets, kubectl: &Kubectl, folder: &tempfile::TempDir) -> Result<()> {
    let mirrored = folder.path().join("mirrored");
    let metrics = MirrorMetrics::register(&mut Registry::default(), ["peers"]);
    let access = access(kubectl, folder)?;
    let mirror = Mirror::new(access, ("peers", name("mirrored")?), mirrored.clone(), Layout::Files, &metrics);
    let mut state = mirror.state();
    let token = CancellationToken::new();
    let task = tokio::spawn(mirror.run(token.clone()));
    let missing = state.wait_for(|state| state.problems.iter().any(|it| it.contains("does not exist")));
    tokio::time::timeout(PATIENCE, missing).await.context("that it is missing")??;
    let name = name("mirrored")?;
    for text in ["1", "2"] {
        secrets.apply((&name, &key("a.yaml")?), text.as_bytes(), "peer-a", OnConflict::Refuse).await?;
        let path = mirrored.join("a.yaml");
        tokio::task::block_in_place(|| {
            wait::until("the file", PATIENCE, || {
                let found = std::fs::read_to_string(&path).context("reading it")?;
                ensure!(found == text, "{found}");
                Ok(())
            })
        })?;
    }
    kubectl.kubectl(&["-n", PLAYGROUND, "delete", "secret", "mirrored"])?;
    let gone = state.wait_for(|state| state.problems.iter().any(|it| it.contains("does not exist")));
    tokio::time::timeout(PATIENCE, gone).await.context("that it is gone")??;
    ensure!(mirrored.join("a.yaml").exists(), "what is mirrored stays");
    token.cancel();
    task.await.context("the mirror")
}
