//! Exports a cluster's global services to its etcd, and serves them to the node-agents of its peers.

mod admin;
mod certificates;
pub mod config;
pub mod exporter;
pub mod forget;
mod invites;
mod membership;
mod peers;
mod serve;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_runtime::admin::{AdminError, health_routes};
use mesh_runtime::clock::{rfc3339, unix_seconds};
use mesh_runtime::shutdown::SignalError;
use mesh_runtime::{AdminServer, Listen, Readiness, Registry, Supervisor, SupervisorError};
use mesh_secrets::{MirrorMetrics, MirrorState};
use mesh_source::kubernetes::{Events, Options};
use mesh_source::ranges::RangesTask;
use mesh_source::{IdentityError, ProblemAges, Source, SourceMetrics, Status};
use tokio::sync::watch;

use certificates::{CertificateMetrics, Keeper};
use config::{ConfigError, RunArgs};
use exporter::{ExportMetrics, Exporter};
use invites::{JoinError, JoinMetrics};
use peers::{Known, PeerFiles, PeerMetrics};
use serve::{MeshApi, ServeError, ServeMetrics};

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
    let mut supervisor = Supervisor::with_signals("clustermesh-apiserver")?;
    let token = supervisor.token();
    log_start(args);

    let mut registry = Registry::new("clustermesh-apiserver", env!("CARGO_PKG_VERSION"));
    let readiness = Readiness::default();
    let metrics = ExportMetrics::register(registry.root());
    let source_metrics = SourceMetrics::register(registry.root());
    let certificate_metrics = CertificateMetrics::register(registry.root());
    let mirror_metrics = MirrorMetrics::register(registry.root(), ["certificates"]);
    let serve_metrics = ServeMetrics::register(registry.root());
    let join_metrics = JoinMetrics::register(registry.root());
    let peer_metrics = PeerMetrics::register(registry.root());
    let peers = follow_peers(args, &mut supervisor, &readiness, peer_metrics);
    let mut listens = None;
    if let Some(config) = args.mesh.config(&identity.name, &args.certificates) {
        let api = MeshApi::bind(config, peers, &readiness, serve_metrics).await?;
        listens = Some(api.address());
        api.spawn(&mut supervisor, Arc::clone(&dialer), &readiness);
    }
    let service_ranges = args.identity.service_cidrs.clone();
    let service_cidrs = service_ranges.is_empty();
    let quiet = args.election.quiet();
    let options = Options { service_cidrs, service_ranges, quiet, latest: true, ..Options::default() };
    let source = Source::new(&args.source, options, source_metrics.clone());
    let (ranges_task, ranges) = RangesTask::new(&args.identity, &args.identity.identity()?, source.ranges());
    let said = exporter::Source {
        snapshots: source.snapshots(),
        status: source.status(),
        confirmed: source.confirmed(),
        ranges,
    };
    let (cluster, own_ranges) = (identity.name.clone(), said.ranges.clone());
    let invites_dialer = Arc::clone(&dialer);
    let exporter = Exporter::new(identity, dialer, said, &readiness, metrics)
        .compacting_every(Duration::from_secs(args.etcd.compact_every_seconds))
        .resigning_after(args.election.resign_after);
    let admin = AdminServer::bind(Listen::Tcp(args.admin.admin_address)).await?;
    let routes = health_routes(readiness.clone(), Arc::new(registry));

    if let Some(reports) = source.reports() {
        let (access, leading) = (args.source.access(), exporter.leading());
        let events = Events::new(access, &host_name(), reports, leading, source_metrics);
        supervisor.spawn("events", events.run(token.clone()));
    }
    if let Some(store) = args.certificates.store(args.source.access()) {
        let condition = readiness.condition("certificates", "they have not been looked at");
        let wanted = args.certificates.wanted(&args.etcd.server.endpoints);
        let looks = (condition, exporter.leading());
        let keeper = Keeper::new((cluster, store), wanted, looks, certificate_metrics);
        supervisor.spawn("certificates", keeper.run(token.clone()));
    }
    if let Some(mirror) = args.certificates.mirror(args.source.access(), &mirror_metrics) {
        let said = |state: &MirrorState| state.problems.clone();
        let remarks = readiness.clone().remark_on("certificates", mirror.state(), said, token.clone());
        supervisor.spawn("certificate-remarks", remarks);
        supervisor.spawn("certificate-mirror", mirror.run(token.clone()));
    }
    let described = membership::Described::new(args, own_ranges, exporter.leading(), listens);
    admin::spawn(described, (invites_dialer, join_metrics), &mut supervisor, args).await?;
    let mut ages = ProblemAges::default();
    let lines =
        move |status: &Arc<Status>| ages.lines(status, SystemTime::now(), |time| rfc3339(unix_seconds(time)));
    supervisor.spawn("remarks", readiness.remark_on("source", source.status(), lines, token.clone()));
    supervisor.spawn("source", source.run(token.clone()));
    supervisor.spawn("ranges", ranges_task.run(token.clone()));
    supervisor.spawn("export", exporter.run(token.clone()));
    supervisor.spawn("admin", admin.serve(routes, token));
    supervisor.run(STOP_DEADLINE).await?;
    Ok(())
}

/// What the peer files say, from now on. Nothing where there is no folder of them.
fn follow_peers(
    args: &RunArgs,
    supervisor: &mut Supervisor,
    readiness: &Readiness,
    metrics: PeerMetrics,
) -> watch::Receiver<Arc<Known>> {
    let (own_name, own_id) = (&args.identity.cluster_name, args.identity.cluster_id);
    let Some(config) = args.peers.config(own_name, own_id) else { return watch::channel(Arc::default()).1 };
    let files = PeerFiles::start(config, metrics);
    let (known, token) = (files.known(), supervisor.token());
    let lines = |known: &Arc<Known>| known.remarks();
    supervisor
        .spawn("peers remarks", readiness.clone().remark_on("peers", known.clone(), lines, token.clone()));
    supervisor.spawn("peers memory", files.remember(token.clone()));
    supervisor.spawn("peers", files.run(token));
    known
}

/// Who writes Events: in a pod, the pod's name.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().into())
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
