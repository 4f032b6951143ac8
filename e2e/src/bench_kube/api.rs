//! The bench's own way to an API server: from within the cluster's network, over connections of its own.

use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{Stream, StreamExt};
use http::Method;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use kube::{Client, Config};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::lab::netns;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests under way at the same time; more only make the server's queue longer.
const IN_FLIGHT: usize = 32;

/// Changes between two words about how far it is.
const STEP: usize = 1000;

/// Where it is, and what opens it.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// An admin's.
    pub(crate) kubeconfig: PathBuf,
    /// The namespace from which to dial.
    pub(crate) netns: String,
}

/// As much of any object as is needed to recognise it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Sighting {
    pub(crate) metadata: Version,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Version {
    pub(crate) resource_version: String,
}

/// A request that changes an object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) object: Value,
}

impl Door {
    /// Runs `work` with a client on a thread in the cluster's network, and waits for it.
    pub(crate) fn with<T, F>(&self, work: impl FnOnce(Api) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
    {
        let done = self.beside(work)?.join();
        done.map_err(|_| anyhow::anyhow!("a thread at the API server panicked"))?
    }

    /// The same beside the caller.
    pub(crate) fn beside<T, F>(
        &self,
        work: impl FnOnce(Api) -> F + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
    {
        let door = self.clone();
        let run = move || {
            netns::enter_by_path(&netns::path_of(&door.netns))?;
            // Its sockets belong to the thread that opens them.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { work(door.api().await?).await })
        };
        thread::Builder::new().name("api".into()).spawn(run).context("starting a thread")
    }

    async fn api(&self) -> Result<Api> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).context("reading the kubeconfig")?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let config = config.context("reading the kubeconfig")?;
        Ok(Api(Client::try_from(config).context("preparing a client")?))
    }
}

/// A client; clones share its connections.
#[derive(Clone)]
pub(crate) struct Api(Client);

impl Api {
    /// Makes a change; gives the version that it led to.
    pub(crate) async fn change(&self, change: Change) -> Result<String> {
        let what = format!("{} {}", change.method, change.path);
        let request = http::Request::builder()
            .method(change.method)
            .uri(&change.path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&change.object)?)?;
        let answer = tokio::time::timeout(PATIENCE, self.0.request::<Sighting>(request)).await;
        let sighting = answer.with_context(|| format!("{what}: no answer within {PATIENCE:?}"))?;
        Ok(sighting.with_context(|| what)?.metadata.resource_version)
    }

    /// The events of a path, which says that it is a watch.
    pub(crate) async fn watch(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = kube::Result<WatchEvent<Sighting>>> + use<>> {
        let request = http::Request::get(path).body(Vec::new())?;
        self.0.request_events(request).await.with_context(|| format!("GET {path}"))
    }

    /// Makes many changes, several at a time, and says how far it is.
    pub(crate) async fn change_all(&self, what: &str, changes: Vec<Change>) -> Result<()> {
        let (all, started) = (changes.len(), Instant::now());
        let api = self.clone();
        let made = futures::stream::iter(changes).map(move |change| {
            let api = api.clone();
            async move { api.change(change).await }
        });
        let mut made = std::pin::pin!(made.buffer_unordered(IN_FLIGHT).enumerate());
        while let Some((number, result)) = made.next().await {
            result.with_context(|| format!("creating {what}"))?;
            if (number + 1) % STEP == 0 {
                let seconds = started.elapsed().as_secs_f64();
                eprintln!("bench:     {:>6} of {all} {what} after {seconds:.0} s", number + 1);
            }
        }
        Ok(())
    }

    /// Makes changes at a rate; gives the rate that was reached.
    pub(crate) async fn change_at_rate(
        &self,
        per_second: u32,
        changes: impl Iterator<Item = Change>,
    ) -> Result<f64> {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second);
        let (started, mut under_way, mut made) = (Instant::now(), JoinSet::new(), 0_u32);
        for change in changes {
            tick.tick().await;
            let api = self.clone();
            under_way.spawn(async move { api.change(change).await });
            made += 1;
            // At least one that has ended is taken away for each that is begun.
            while under_way.len() > IN_FLIGHT {
                finish(&mut under_way).await?;
            }
        }
        ensure!(made > 0, "nothing to change");
        while !under_way.is_empty() {
            finish(&mut under_way).await?;
        }
        Ok(f64::from(made) / started.elapsed().as_secs_f64())
    }
}

async fn finish(under_way: &mut JoinSet<Result<String>>) -> Result<()> {
    let ended = under_way.join_next().await.context("nothing is under way")?;
    ended.context("a writer panicked")?.map(drop)
}
