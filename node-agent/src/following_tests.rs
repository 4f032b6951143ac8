//! Peers of a Secret: the agent follows its mirror, over restarts and outages of the API server.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::address_policy::OwnRanges;
use mesh_peers::folder::Remembered;
use mesh_runtime::Supervisor;
use mesh_secrets::testing::FakeSecrets;
use mesh_secrets::{Layout, Mirror, MirrorMetrics, SecretName};
use mesh_source::ranges::fixed;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::timeout;

use super::follow;
use crate::admin::events::Events;
use crate::config::MIRRORED;
use crate::datapath::actual::Capacity;
use crate::peers::PeerSet;
use crate::peers::folder::{FolderConfig, PeerFolder};
use crate::peers::metrics::Metrics;
use crate::quota::QuotaArgs;

const NAME: &str = "clustermesh-peers";
/// Nobody answers there, which does not matter.
const YAVIN: &str = "id: 1\nendpoints: ['http://127.0.0.1:1']\nranges: {pods: [10.1.0.0/16]}\n";
const SOON: Duration = Duration::from_secs(20);

/// An agent's tasks that follow the mirror of a Secret.
struct Running {
    supervisor: Supervisor,
    set: watch::Receiver<Arc<PeerSet>>,
    known: watch::Receiver<Option<Remembered>>,
}

impl Running {
    fn start(fake: &FakeSecrets, state: &Path, remembered: Remembered) -> Self {
        let mut supervisor = Supervisor::new("test", Default::default());
        let name = (MIRRORED, SecretName::new(NAME).unwrap());
        let metrics = MirrorMetrics::register(&mut Registry::default(), [MIRRORED]);
        let mirror = Mirror::new(fake.access(), name, state.join("peers-secret"), Layout::Files, &metrics);
        let config = FolderConfig {
            folder: state.join("peers-secret"),
            own_name: "hoth".parse().unwrap(),
            own_id: "2".parse().unwrap(),
            own_ranges: fixed(OwnRanges::default()),
            identity: None,
            remembered,
            local: None,
            quotas: QuotaArgs::default(),
            capacity: Capacity { services: 16, slots: 64, backends: 64, counters: 16 },
        };
        let metrics = Metrics::register(&mut Registry::default());
        let (folder, set) = PeerFolder::new(config, supervisor.child("peers"), Events::default(), metrics);
        let (known, mirrored) = (folder.known(), mirror.state());
        supervisor.spawn("mirror", mirror.run(supervisor.token()));
        supervisor.spawn("peers", follow(folder, Some(mirrored)));
        Self { supervisor, set, known }
    }

    /// Waits until all that the folder says is known, and that it names these peers.
    async fn until_peers(&mut self, names: &[&str]) {
        let known = self.set.wait_for(|set| {
            let good = set.peers.iter().filter(|(_, peer)| peer.file.is_some());
            set.claimed.is_some() && good.map(|(name, _)| name.as_str()).eq(names.iter().copied())
        });
        assert!(timeout(SOON, known).await.is_ok(), "not {names:?}: {:?}", self.set.borrow());
    }

    /// Gives what the next agent is reminded of.
    async fn stop(mut self) -> Remembered {
        self.supervisor.stop(SOON).await.unwrap();
        self.known.borrow().clone().unwrap()
    }
}

#[tokio::test]
async fn the_peers_of_a_secret_are_followed_and_stay_while_it_cannot_be_read() {
    let (mut fake, scratch) = (FakeSecrets::start().await, tempfile::tempdir().unwrap());
    fake.put(NAME, &[("yavin.yaml", YAVIN)]);
    let mut first = Running::start(&fake, scratch.path(), Remembered::default());
    first.until_peers(&["yavin"]).await;
    let endor = YAVIN.replace("id: 1", "id: 3");
    fake.put(NAME, &[("yavin.yaml", YAVIN), ("endor.yaml", &endor)]);
    first.until_peers(&["endor", "yavin"]).await;
    let remembered = first.stop().await;

    fake.stop();
    let mut second = Running::start(&fake, scratch.path(), remembered);
    second.until_peers(&["endor", "yavin"]).await;
    // The Secret is another one meanwhile, and gone for a while.
    fake.delete(NAME);
    fake.resume().await;
    fake.put(NAME, &[("endor.yaml", &endor)]);
    second.until_peers(&["endor"]).await;
    second.stop().await;
}

#[tokio::test]
async fn without_a_mirror_yet_it_is_not_known_who_is_a_peer() {
    let (mut fake, scratch) = (FakeSecrets::start().await, tempfile::tempdir().unwrap());
    fake.stop();
    let mut agent = Running::start(&fake, scratch.path(), Remembered::default());
    let told = timeout(SOON, agent.set.wait_for(|set| set.problem.is_some())).await;
    assert!(told.unwrap().unwrap().claimed.is_none(), "what the maps hold is nobody's to drain");
    fake.resume().await;
    fake.put(NAME, &[]);
    agent.until_peers(&[]).await;
    agent.stop().await;
}
