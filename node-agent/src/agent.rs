//! Puts the agent together: which tasks there are, and what connects them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use mesh_admin::api::{HookPrograms, Node};
use mesh_admin::instance;
use mesh_runtime::admin::{AdminError, health_routes};
use mesh_runtime::shutdown::SignalError;
use mesh_runtime::{AdminServer, Condition, Listen, Readiness, Supervisor, SupervisorError};
use mesh_source::kubernetes::EventWriter;
use mesh_source::{Identity, IdentityError, Source, SourceMetrics};
use tokio::sync::watch;

use crate::admin::events::Events;
use crate::admin::routes::{Sources, routes};
use crate::config::RunArgs;
use crate::datapath::canary::Canary;
use crate::datapath::maps::Maps;
use crate::datapath::programs::ProgramsError;
use crate::datapath::service_maps::ServiceMaps;
use crate::findings::node;
use crate::findings::task::{CONTROLLER, Findings, Sources as Findable, Voice};
use crate::following::Following;
use crate::hooks::watch::{self as hook_watch, Watch};
use crate::install::{Installed, install};
use crate::merge::merger::Merger;
use crate::merge::names::Names;
use crate::merge::names_file;
use crate::merge::query::{Reader, View};
use crate::merge::task::{Inputs, MergeTask, Outputs, Start};
use crate::metrics::Metrics;

/// For all tasks to end after a signal.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

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
    let servers = Servers::bind(args).await?;

    let (registry, metrics) = Metrics::register();
    let (readiness, events) = (Readiness::default(), Events::default());
    let of_inputs = (metrics.source.clone(), metrics.peers);
    let following = Following::new(args, &identity, supervisor.child("peers"), events.clone(), of_inputs);
    let following = following.mirroring(args.peers_mirror(&metrics.mirrors));
    let installed = install(&args.pins, &args.datapath, &events)?;
    let following = following.reminded(installed.actual.frontend_count() == 0);

    let names_file = instance::names_file(&args.pins.instance_dir());
    let (names, peers) = (following.names(&identity, &names_file), following.peers.clone());
    let (view, published) = watch::channel(Arc::default());
    let maps = Maps::open_pinned(&args.pins.bpffs, &args.pins.instance).map_err(ProgramsError::from)?;
    let reader = Reader { maps, names: names.clone(), view: published, source: following.source.status() };
    let findings =
        findings(args, (&following.source, &names), &readiness, (metrics.source, metrics.findings));
    let outputs = merge_outputs(&readiness, events.clone(), metrics.merge, view);
    let (hook_watch, told, hooks) =
        hook_watch(args, &installed, &readiness, (outputs.planned.clone(), events.clone(), metrics.hooks));
    let task = merge_task(args, &identity, following.inputs(), outputs, installed);

    following.spawn(&mut supervisor, &readiness);
    supervisor.spawn("merge", task.run(token.clone()));
    supervisor.spawn("hooks", hook_watch.run(told, token.clone()));
    findings.into_iter().for_each(|findings| supervisor.spawn("findings", findings.run(token.clone())));
    supervisor.spawn("names", names_file::run(names_file, names, token));
    let health = health_routes(readiness, Arc::new(registry));
    let node = Arc::new(this_node(args, &identity));
    let sources = Sources { node, answers: Arc::new(reader), peers: Arc::new(peers), hooks, events };
    servers.spawn(&mut supervisor, health, sources);
    supervisor.run(STOP_DEADLINE).await?;
    Ok(())
}

/// Where questions are answered: on the instance's socket, and over the network about health alone.
struct Servers {
    socket: AdminServer,
    network: AdminServer,
}

impl Servers {
    async fn bind(args: &RunArgs) -> Result<Self, AdminError> {
        Ok(Self {
            socket: AdminServer::bind(Listen::Unix(instance::socket(&args.pins.instance_dir()))).await?,
            network: AdminServer::bind(Listen::Tcp(args.admin.admin_address)).await?,
        })
    }

    fn spawn(self, supervisor: &mut Supervisor, health: Router, sources: Sources) {
        let token = supervisor.token();
        let all = routes(sources).merge(health.clone());
        supervisor.spawn("admin", self.network.serve(health, token.clone()));
        supervisor.spawn("admin socket", self.socket.serve(all, token));
    }
}

/// The outputs of the merge loop.
fn merge_outputs(
    readiness: &Readiness,
    events: Events,
    metrics: crate::merge::metrics::Metrics,
    view: watch::Sender<Arc<View>>,
) -> Outputs {
    Outputs {
        events,
        metrics,
        planned: readiness.condition("plan", "waiting for the own source's first full list"),
        source: readiness.condition("source", "waiting for the own source to confirm what the maps hold"),
        writes: readiness
            .condition(node::WRITES, "waiting for the first look whether the maps can be written"),
        view,
    }
}

/// The watch of the hooks, its outputs, and the part of them that the admin API shows.
fn hook_watch(
    args: &RunArgs,
    installed: &Installed,
    readiness: &Readiness,
    (planned, events, metrics): (Condition, Events, crate::hooks::metrics::Metrics),
) -> (Watch, hook_watch::Outputs, watch::Receiver<Arc<Vec<HookPrograms>>>) {
    let (seen, hooks) = watch::channel(Arc::default());
    let told = hook_watch::Outputs {
        metrics,
        events,
        hooks: seen,
        served: readiness.condition(node::CANARY, "waiting for the canary's first answer"),
        balances: readiness
            .condition(node::HOOKS, "waiting for the kernel's first answer, who else is at the hooks"),
    };
    let watch = Watch {
        canary: canary(installed),
        installation: installed.installation.clone(),
        interval: hook_watch::INTERVAL,
        planned,
        allow_taken: args.datapath.allow_taken,
    };
    (watch, told, hooks)
}

/// None where nothing is to be told.
fn findings(
    args: &RunArgs,
    (source, names): (&Source, &Names),
    readiness: &Readiness,
    (of_events, metrics): (SourceMetrics, crate::findings::metrics::Metrics),
) -> Option<Findings> {
    let (node, every) = (&args.datapath.node_name, args.findings.tell_after);
    let voice = if args.source.is_kubernetes() {
        let writer = EventWriter::new(args.source.access(), CONTROLLER, node.as_str(), of_events);
        Voice::Events(Box::new(writer))
    } else {
        Voice::Log(of_events)
    };
    let sources = Findable {
        node: node.clone(),
        names: names.clone(),
        status: source.status(),
        uids: source.uids(),
        readiness: readiness.clone(),
    };
    (!every.is_zero()).then_some(Findings { sources, voice, every, metrics })
}

fn this_node(args: &RunArgs, identity: &Identity) -> Node {
    Node {
        cluster: identity.name.clone(),
        cluster_id: identity.id,
        node: args.datapath.node_name.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

fn log_start(args: &RunArgs, identity: &Identity) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        cluster = %identity.name,
        id = %identity.id,
        node = %args.datapath.node_name,
        instance = args.pins.instance,
        source = %args.source,
        peers = %args.peers_folder().display(),
        "starting"
    );
}

fn canary(installed: &Installed) -> Canary {
    Canary {
        // The link, not what it leads to: an upgrade may replace or remove that file while this process runs.
        exe: "/proc/self/exe".into(),
        cgroup: installed.installation.cgroup().to_owned(),
        links: installed.installation.links(),
        maps: installed.installation.pinned_maps(),
    }
}

fn merge_task(
    args: &RunArgs,
    identity: &Identity,
    inputs: Inputs,
    outputs: Outputs,
    installed: Installed,
) -> MergeTask<ServiceMaps> {
    let Installed { maps, control: first, failback, actual, leftover, grace_periods, retiring, .. } =
        installed;
    // Nobody judges clusters: what CLUSTERS says stays.
    let Maps { services, control, outcomes, .. } = *maps;
    // Elsewhere nothing but the mesh serves ClusterIPs.
    let plain_ok_allowed = args.source.is_kubernetes();
    let merger = Merger::new(identity.id, plain_ok_allowed, actual).with_quotas(args.quotas.clone());
    let (control, outcomes) = (Box::new(control), Box::new(outcomes));
    let start = Start { services, control, outcomes, first, failback, merger, leftover, retiring };
    MergeTask::new(inputs, outputs, start, Arc::new(grace_periods))
}
