//! The mesh API: the read-only part of etcd's v3 API, answered from memory, over TLS with certificates on both sides.
//!
//! The core: [`cache`] holds what etcd holds and its recent past; [`range`] and [`watch`] answer from it as etcd would;
//! [`view`] says what of it there is for whom. None of them waits, reads a clock or knows a connection. The shell: [`feed`]
//! keeps the cache as etcd is, [`rpc`] carries the calls, [`listener`] the connections, [`tls`] and [`reload`] say who may have one. Never writes to etcd.

mod cache;
mod feed;
mod listener;
mod metrics;
mod probe;
mod range;
mod record;
mod reload;
mod rpc;
mod seats;
mod tls;
mod view;
mod watch;
mod wire;

#[cfg(test)]
mod audience_tests;
#[cfg(test)]
mod differential_tests;
#[cfg(test)]
mod etcdctl_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod reload_tests;
#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod testing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_kv::{Dialer, RawWatch};
use mesh_model::name::ClusterName;
use mesh_runtime::{Readiness, Supervisor};
use mesh_trust::Refusal;
use tokio::net::TcpListener;
use tokio::sync::watch::Receiver;

use cache::Window;
use feed::{FOLLOWED, Feed};
use listener::Listener;
use reload::Reload;
use rpc::{Budget, Served};
use tls::{Admission, Judgement};
use view::Scope;

use crate::peers::Known;

pub(crate) use metrics::ServeMetrics;
pub use probe::answer_bytes;
pub(crate) use tls::OwnFiles;

/// How often idle watches that want it are told of progress: etcd's default.
const PROGRESS: Duration = Duration::from_secs(600);

/// Big answers that may be on their way to the readers of one cluster at once, and how long others wait for that.
const BUDGET_BYTES: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(3);

/// Why the mesh API can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("listening for the mesh API on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
}

/// Where and as whom the mesh API is served.
#[derive(Clone, Debug)]
pub(crate) struct ServeConfig {
    pub(crate) address: SocketAddr,
    pub(crate) cluster: ClusterName,
    /// Holds what is shown to clients.
    pub(crate) own: OwnFiles,
    /// Whether clients without an identity are refused.
    pub(crate) requires_identity: bool,
}

/// A server that listens, and is not run yet.
pub(crate) struct MeshApi {
    config: ServeConfig,
    listener: TcpListener,
    reload: Reload,
    metrics: ServeMetrics,
}

impl MeshApi {
    /// Listens, and reads the certificates.
    pub(crate) async fn bind(
        config: ServeConfig,
        peers: Receiver<Arc<Known>>,
        readiness: &Readiness,
        metrics: ServeMetrics,
    ) -> Result<Self, ServeError> {
        let counted = metrics.clone();
        let refused = Arc::new(move |refusal: &Refusal| {
            counted.refused(refusal.reason());
            tracing::warn!(error = mesh_failure::chain(refusal), "refused a client of the mesh API");
        });
        let (cluster, requires_identity) = (config.cluster.clone(), config.requires_identity);
        let judgement = Judgement { cluster, requires_identity, refused };
        let shown = readiness.condition("mesh-api-certificates", "waiting for certificates");
        let reload = Reload::start((config.own.clone(), peers), judgement, shown, metrics.clone());
        let address = config.address;
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        tracing::info!(address = %address, "mesh API listens");
        Ok(Self { config: ServeConfig { address, ..config }, listener, reload, metrics })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.config.address
    }

    /// Serves what the etcd that is dialled holds.
    pub(crate) fn spawn(self, supervisor: &mut Supervisor, dialer: Arc<Dialer>, readiness: &Readiness) {
        let Self { config: ServeConfig { cluster, .. }, listener, reload, metrics } = self;
        let token = supervisor.token();
        let scope = Scope::of_cluster(&cluster);
        let condition = readiness.condition("mesh-api", "waiting for etcd's first list");
        let mut feed = Feed::new(&cluster, scope, Window::default(), condition, metrics.clone());
        let served = Served {
            snapshots: feed.snapshots(),
            heard: feed.heard(),
            member_id: member_id(&cluster),
            metrics,
            budget: Budget::new(BUDGET_BYTES, PATIENCE),
            progress_every: PROGRESS,
            token: token.clone(),
        };
        let raw = RawWatch::new(dialer, &cluster, FOLLOWED);
        supervisor.spawn("mesh-api-cache", raw.run(token, move |event| feed.take(event)));
        let listener =
            Listener { listener, cluster, admission: reload.admission(), served: Arc::new(served) };
        let left_out =
            |now: &Option<Arc<Admission>>| now.as_ref().map_or_else(Vec::new, |now| now.left_out.clone());
        let remarks =
            readiness.clone().remark_on("mesh-api", reload.admission(), left_out, supervisor.token());
        supervisor.spawn("mesh-api-remarks", remarks);
        supervisor.spawn("mesh-api-certificates", reload.run(supervisor.token()));
        supervisor.spawn("mesh-api", listener.run());
    }
}

/// Tells replicas apart.
fn member_id(cluster: &ClusterName) -> u64 {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    feed::fnv1a(format!("{cluster} {host} {}", std::process::id()).as_bytes())
}
