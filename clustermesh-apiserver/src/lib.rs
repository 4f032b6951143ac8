//! Exports a cluster's global services to its etcd, and serves them to the node-agents of its peers.

mod admin;
mod certificates;
pub mod config;
pub mod exporter;
pub mod forget;
mod invites;
mod membership;
mod peers;
mod process;
mod serve;

use std::time::Duration;

use mesh_runtime::admin::AdminError;
use mesh_runtime::shutdown::SignalError;
use mesh_runtime::{AdminServer, Listen, Registry, SupervisorError};
use mesh_source::IdentityError;

use config::{ConfigError, RunArgs};
use invites::JoinError;
use membership::Described;
use process::{Metrics, Process};
use serve::ServeError;

pub use serve::answer_bytes;

/// For all tasks to end after a signal.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why the process ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Signals(#[from] SignalError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: &RunArgs) -> Result<(), RunError> {
    let (identity, dialer) = (args.identity()?, args.etcd.server.dialer()?);
    let mut registry = Registry::new("clustermesh-apiserver", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(registry.root());
    let mut process = Process::new(args)?;
    log_start(args);

    let peers = process.follow_peers(metrics.peers, &metrics.mirrors).await;
    let listens = process.serve(peers, &dialer, metrics.serve).await?;
    let health = AdminServer::bind(Listen::Tcp(args.admin.admin_address)).await?;
    let source = process.source(metrics.source.clone());
    let ranges = process.follow_ranges(&source)?;
    let leading = process.export(identity, (&dialer, &source, &ranges), metrics.export);
    process.write_events(&source, leading.clone(), metrics.source);
    let orders = process.keep_certificates(leading.clone(), metrics.certificates, &metrics.mirrors);
    let described = Described::new(args, ranges, leading, listens);
    admin::spawn(described, (dialer, metrics.join), orders, &mut process.supervisor, args).await?;
    process.follow_source(source);
    process.serve_health(health, registry);
    process.supervisor.run(STOP_DEADLINE).await?;
    Ok(())
}

fn log_start(args: &RunArgs) {
    let endpoints: Vec<String> = args.etcd.server.endpoints.iter().map(ToString::to_string).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        cluster = %args.identity.cluster_name,
        id = %args.identity.cluster_id,
        source = %args.source,
        endpoints = endpoints.join(","),
        "starting"
    );
}
