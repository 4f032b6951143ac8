//! Puts the agent together: which tasks there are, and what connects them.

use std::sync::Arc;
use std::time::Duration;

use mesh_kv::backoff::Backoff;
use mesh_runtime::admin::{AdminError, health_routes};
use mesh_runtime::args::{Identity, IdentityError};
use mesh_runtime::ranges::{Known, RangesTask};
use mesh_runtime::shutdown::SignalError;
use mesh_runtime::{AdminServer, Condition, Listen, Readiness, Supervisor, SupervisorError};
use mesh_source::Source;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admin::events::Events;
use crate::admin::routes::{Sources, routes};
use crate::config::{RunArgs, names_file, socket, source_options};
use crate::datapath::canary;
use crate::datapath::programs::ProgramsError;
use crate::install::{Installed, install};
use crate::merge::merger::Merger;
use crate::merge::task::{Inputs, MergeTask, Outputs, Settings, Start};
use crate::metrics::Metrics;
use crate::peers::folder::{FolderConfig, PeerFolder};

/// For all tasks to end after a signal.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Questions that may wait for the merge loop.
const QUERIES: usize = 16;
/// How often the canary is sent once it has been well.
const CANARY_INTERVAL: Duration = Duration::from_secs(60);

/// Why the agent ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Signals(#[from] SignalError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

/// Runs until SIGTERM or SIGINT. Stopping changes nothing in the datapath.
pub async fn run(args: &RunArgs) -> Result<(), RunError> {
    let identity = args.identity()?;
    let mut supervisor = Supervisor::with_signals("node-agent")?;
    let token = supervisor.token();
    log_start(args, &identity);

    // Bound before anything is touched: a second agent of the same instance stops here.
    let admin_socket = AdminServer::bind(Listen::Unix(socket(&args.pins.instance_dir()))).await?;
    let admin = AdminServer::bind(Listen::Tcp(args.admin.admin_address)).await?;

    let (registry, metrics) = Metrics::register();
    let readiness = Readiness::default();
    let source = Source::new(&args.source, source_options(args), metrics.source);
    let (ranges_task, ranges) = RangesTask::new(&args.identity, &identity, source.ranges());
    let events = Events::default();
    let (folder, peer_set) = PeerFolder::new(
        folder_config(args, &identity, ranges),
        supervisor.child("peers"),
        events.clone(),
        metrics.peers,
    );
    let (query, queries) = mpsc::channel(QUERIES);
    let installed = install(&args.pins, &args.datapath, &events)?;
    let cgroup = installed.installation.cgroup().to_owned();
    let outputs = Outputs {
        events: events.clone(),
        metrics: metrics.merge,
        planned: readiness.condition("plan", "waiting for the own source's first full list"),
        names_file: names_file(&args.pins.instance_dir()),
    };
    let inputs = Inputs { local: source.snapshots(), peers: peer_set.clone(), queries };
    // Elsewhere nothing but the mesh serves ClusterIPs.
    let plain_ok_allowed = args.source.is_kubernetes();
    let task = merge_task(&identity, plain_ok_allowed, inputs, outputs, installed);
    let canary_condition = readiness.condition("canary", "waiting for the canary's first answer");
    // The link, not what it leads to: an upgrade may replace or remove that file while this process runs.
    let exe = std::path::PathBuf::from("/proc/self/exe");

    supervisor.spawn("source", source.run(token.clone()));
    supervisor.spawn("ranges", ranges_task.run(token.clone()));
    supervisor.spawn("peers", folder.run());
    supervisor.spawn("merge", task.run(token.clone()));
    supervisor.spawn("canary", watch_canary(exe, cgroup, canary_condition, token.clone()));
    let health = health_routes(readiness, Arc::new(registry));
    let answers = routes(Sources { queries: query, peers: peer_set, events }).merge(health.clone());
    supervisor.spawn("admin", admin.serve(health, token.clone()));
    supervisor.spawn("admin socket", admin_socket.serve(answers, token));
    supervisor.run(STOP_DEADLINE).await?;
    Ok(())
}

fn log_start(args: &RunArgs, identity: &Identity) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        cluster = %identity.name,
        id = %identity.id,
        node = %args.datapath.node_name,
        instance = args.pins.instance,
        source = %args.source,
        peers = %args.peers.peers_dir.display(),
        "starting"
    );
}

pub(crate) fn folder_config(args: &RunArgs, identity: &Identity, own_ranges: Known) -> FolderConfig {
    FolderConfig {
        folder: args.peers.peers_dir.clone(),
        own_name: identity.name.clone(),
        own_id: identity.id,
        own_ranges,
        identity: args.peers.tls_dir.clone(),
    }
}

fn merge_task(
    identity: &Identity,
    plain_ok_allowed: bool,
    inputs: Inputs,
    outputs: Outputs,
    installed: Installed,
) -> MergeTask {
    let Installed { maps, control, comeback, actual, leftover, beside, .. } = installed;
    let settings = Settings { own_id: identity.id, own_name: identity.name.clone() };
    let merger = Merger::new(identity.id, plain_ok_allowed, actual);
    MergeTask::new(settings, inputs, outputs, Start { maps, control, comeback, merger, leftover, beside })
}

/// Sends the canary until it is well, then now and then.
async fn watch_canary(
    exe: std::path::PathBuf,
    cgroup: std::path::PathBuf,
    condition: Condition,
    token: CancellationToken,
) {
    let mut backoff = Backoff::default();
    let mut well = None;
    loop {
        let pause = match canary::probe(&exe, &cgroup).await {
            Ok(()) => {
                if well != Some(true) {
                    tracing::info!("the canary is well: connects from other cgroups are translated");
                }
                condition.ready();
                well = Some(true);
                backoff.reset();
                CANARY_INTERVAL
            }
            Err(error) => {
                let reason = mesh_kv::fault::chain(&error);
                if well != Some(false) {
                    tracing::error!(error = reason, "the canary is not well: connects are not translated");
                }
                condition.not_ready(reason);
                well = Some(false);
                backoff.next_delay()
            }
        };
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
