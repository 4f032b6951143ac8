//! Peers of a Secret: its mirror is followed as any folder is.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_runtime::StateFile;
use mesh_secrets::testing::FakeSecrets;
use mesh_secrets::{Layout, Mirror, MirrorMetrics, MirrorState, SecretName};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Known, PeerFiles, PeerMetrics, PeersConfig};

const NAME: &str = "clustermesh-peers";
const YAVIN: &str = "id: 1\nendpoints: ['http://192.0.2.1:2379']\nranges: {pods: [10.1.0.0/16]}\n";
const SOON: Duration = Duration::from_secs(20);

/// A process that follows the mirror of a Secret.
struct Running {
    known: watch::Receiver<Arc<Known>>,
    _end: DropGuard,
}

impl Running {
    async fn start(fake: &FakeSecrets, state: &Path) -> Self {
        let token = CancellationToken::new();
        let metrics = MirrorMetrics::register(&mut Registry::default(), ["peers"]);
        let (name, folder) = (("peers", SecretName::new(NAME).unwrap()), state.join("peers-secret"));
        let mirror = Mirror::new(fake.access(), name, folder.clone(), Layout::Files, &metrics);
        let mirrored = mirror.state();
        let memory = StateFile::new(state.join("peers"), 1, "hoth");
        let (own_name, own_id) = ("hoth".parse().unwrap(), "2".parse().unwrap());
        let config = PeersConfig { folder, own_name, own_id, memory };
        tokio::spawn(mirror.run(token.clone()));
        MirrorState::settled(mirrored).await;
        let files = PeerFiles::start(config, PeerMetrics::register(&mut Registry::default()));
        let known = files.known();
        tokio::spawn(files.run(token.clone()));
        Self { known, _end: token.drop_guard() }
    }

    async fn until_peers(&mut self, names: &[&str]) {
        let known = self.known.wait_for(|known| {
            known
                .peers
                .iter()
                .filter(|(_, peer)| peer.file.is_some())
                .map(|(name, _)| name.as_str())
                .eq(names.iter().copied())
        });
        assert!(timeout(SOON, known).await.is_ok(), "not {names:?}: {:?}", self.known.borrow().peers);
    }
}

#[tokio::test]
async fn a_change_of_the_secret_is_a_change_of_the_peers_and_its_loss_is_none() {
    let (mut fake, scratch) = (FakeSecrets::start().await, tempfile::tempdir().unwrap());
    fake.put(NAME, &[("yavin.yaml", YAVIN)]);
    let mut first = Running::start(&fake, scratch.path()).await;
    first.until_peers(&["yavin"]).await;
    let endor = YAVIN.replace("id: 1", "id: 3");
    fake.put(NAME, &[("yavin.yaml", YAVIN), ("endor.yaml", &endor)]);
    first.until_peers(&["endor", "yavin"]).await;
    // What breaks stays, and what is gone from a Secret that can be read goes.
    fake.put(NAME, &[("yavin.yaml", "id: [")]);
    first.until_peers(&["yavin"]).await;
    fake.put(NAME, &[("yavin.yaml", YAVIN), ("endor.yaml", &endor)]);
    first.until_peers(&["endor", "yavin"]).await;
    fake.delete(NAME);
    drop(first);
    // The next process starts without an API server, and finds the Secret gone afterwards.
    fake.stop();
    let mut second = Running::start(&fake, scratch.path()).await;
    second.until_peers(&["endor", "yavin"]).await;
    fake.resume().await;
    fake.put(NAME, &[("endor.yaml", &endor)]);
    second.until_peers(&["endor"]).await;
}

#[tokio::test]
async fn a_process_begins_with_what_the_secret_is_now() {
    let (mut fake, scratch) = (FakeSecrets::start().await, tempfile::tempdir().unwrap());
    fake.put(NAME, &[("yavin.yaml", YAVIN)]);
    Running::start(&fake, scratch.path()).await.until_peers(&["yavin"]).await;
    fake.stop();
    fake.put(NAME, &[]);
    fake.resume().await;
    let running = Running::start(&fake, scratch.path()).await;
    assert!(running.known.borrow().problem.is_none(), "{:?}", running.known.borrow());
    assert!(running.known.borrow().trusted().is_empty());
}
