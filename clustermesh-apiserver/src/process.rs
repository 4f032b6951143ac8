//! The tasks of the process: what each is given, and what it hands on to the next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_kv::Dialer;
use mesh_model::export::Identity;
use mesh_runtime::admin::health_routes;
use mesh_runtime::clock::{rfc3339, unix_seconds};
use mesh_runtime::shutdown::SignalError;
use mesh_runtime::{AdminServer, Readiness, Registry, Supervisor};
use mesh_secrets::{Mirror, MirrorMetrics, MirrorState};
use mesh_source::kubernetes::{Events, Options};
use mesh_source::ranges::{Known as Ranges, RangesTask};
use mesh_source::{IdentityError, ProblemAges, Source, SourceMetrics, Status};
use prometheus_client::registry::Registry as Root;
use tokio::sync::watch;

use crate::certificates::{CertificateMetrics, Keeper, Look, Orders};
use crate::config::RunArgs;
use crate::exporter::{self, ExportMetrics, Exporter};
use crate::invites::JoinMetrics;
use crate::peers::{Known, MIRRORED, PeerFiles, PeerMetrics};
use crate::serve::{MeshApi, ServeError, ServeMetrics};

/// What is counted of all of them.
pub(crate) struct Metrics {
    pub(crate) export: ExportMetrics,
    pub(crate) source: SourceMetrics,
    pub(crate) certificates: CertificateMetrics,
    pub(crate) mirrors: MirrorMetrics,
    pub(crate) serve: ServeMetrics,
    pub(crate) join: JoinMetrics,
    pub(crate) peers: PeerMetrics,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Root) -> Self {
        Self {
            export: ExportMetrics::register(registry),
            source: SourceMetrics::register(registry),
            certificates: CertificateMetrics::register(registry),
            mirrors: MirrorMetrics::register(registry, ["certificates", MIRRORED]),
            serve: ServeMetrics::register(registry),
            join: JoinMetrics::register(registry),
            peers: PeerMetrics::register(registry),
        }
    }
}

/// The process in the making.
pub(crate) struct Process<'a> {
    args: &'a RunArgs,
    pub(crate) supervisor: Supervisor,
    readiness: Readiness,
}

impl<'a> Process<'a> {
    pub(crate) fn new(args: &'a RunArgs) -> Result<Self, SignalError> {
        let supervisor = Supervisor::with_signals("clustermesh-apiserver")?;
        Ok(Self { args, supervisor, readiness: Readiness::default() })
    }

    /// What the peer files say, from now on. Nothing where there are none.
    pub(crate) async fn follow_peers(
        &mut self,
        metrics: PeerMetrics,
        mirrors: &MirrorMetrics,
    ) -> watch::Receiver<Arc<Known>> {
        let (own_name, own_id) = (&self.args.identity.cluster_name, self.args.identity.cluster_id);
        let Some(config) = self.args.peers.config(own_name, own_id) else {
            return watch::channel(Arc::default()).1;
        };
        if let Some(mirror) = self.args.peers.mirror(own_name, self.args.source.access(), mirrors) {
            let mirrored = mirror.state();
            self.follow_secret("peers-secret", mirror);
            MirrorState::settled(mirrored).await;
        }
        let files = PeerFiles::start(config, metrics);
        let (known, token) = (files.known(), self.supervisor.token());
        let lines = |known: &Arc<Known>| known.remarks();
        let remarks = self.readiness.clone().remark_on("peers", known.clone(), lines, token.clone());
        self.supervisor.spawn("peers remarks", remarks);
        self.supervisor.spawn("peers memory", files.remember(token.clone()));
        self.supervisor.spawn("peers", files.run(token));
        known
    }

    /// Keeps a folder as a Secret is; readiness says what is wrong with that.
    fn follow_secret(&mut self, name: &'static str, mirror: Mirror) {
        let token = self.supervisor.token();
        let said = |state: &MirrorState| state.problems.clone();
        let remarks = self.readiness.clone().remark_on(name, mirror.state(), said, token.clone());
        self.supervisor.spawn(&format!("{name} remarks"), remarks);
        self.supervisor.spawn(&format!("{name} mirror"), mirror.run(token));
    }

    /// Serves the mesh API, where it is served; says on which address.
    pub(crate) async fn serve(
        &mut self,
        peers: watch::Receiver<Arc<Known>>,
        dialer: &Arc<Dialer>,
        metrics: ServeMetrics,
    ) -> Result<Option<SocketAddr>, ServeError> {
        let cluster = &self.args.identity.cluster_name;
        let Some(config) = self.args.mesh.config(cluster, &self.args.certificates) else { return Ok(None) };
        let api = MeshApi::bind(config, peers, &self.readiness, metrics).await?;
        let address = api.address();
        api.spawn(&mut self.supervisor, Arc::clone(dialer), &self.readiness);
        Ok(Some(address))
    }

    /// What this cluster says of itself; not followed yet.
    pub(crate) fn source(&self, metrics: SourceMetrics) -> Source {
        let service_ranges = self.args.identity.service_cidrs.clone();
        let service_cidrs = service_ranges.is_empty();
        let quiet = self.args.election.quiet();
        let options = Options { service_cidrs, service_ranges, quiet, latest: true, ..Options::default() };
        Source::new(&self.args.source, options, metrics)
    }

    /// The cluster's own address ranges, from now on.
    pub(crate) fn follow_ranges(&mut self, source: &Source) -> Result<Ranges, IdentityError> {
        let identity = &self.args.identity;
        let (task, ranges) = RangesTask::new(identity, &identity.identity()?, source.ranges());
        self.supervisor.spawn("ranges", task.run(self.supervisor.token()));
        Ok(ranges)
    }

    /// Exports what the source says; tells whether this process leads.
    pub(crate) fn export(
        &mut self,
        identity: Identity,
        (dialer, source, ranges): (&Arc<Dialer>, &Source, &Ranges),
        metrics: ExportMetrics,
    ) -> watch::Receiver<bool> {
        let said = exporter::Source {
            snapshots: source.snapshots(),
            status: source.status(),
            confirmed: source.confirmed(),
            ranges: ranges.clone(),
        };
        let exporter = Exporter::new(identity, Arc::clone(dialer), said, &self.readiness, metrics)
            .compacting_every(Duration::from_secs(self.args.etcd.compact_every_seconds))
            .resigning_after(self.args.election.resign_after);
        let leading = exporter.leading();
        self.supervisor.spawn("export", exporter.run(self.supervisor.token()));
        leading
    }

    /// Tells owners of Services what is wrong with them, where there is an API server.
    pub(crate) fn write_events(
        &mut self,
        source: &Source,
        leading: watch::Receiver<bool>,
        metrics: SourceMetrics,
    ) {
        if let Some(reports) = source.reports() {
            let events = Events::new(self.args.source.access(), &host_name(), reports, leading, metrics);
            self.supervisor.spawn("events", events.run(self.supervisor.token()));
        }
    }

    /// Makes the cluster's certificates, and follows those that this process shows, where they are its business; says what
    /// carries out what an operator asks for.
    pub(crate) fn keep_certificates(
        &mut self,
        leading: watch::Receiver<bool>,
        metrics: CertificateMetrics,
        mirrors: &MirrorMetrics,
    ) -> Option<Orders> {
        let args = &self.args.certificates;
        if let Some(mirror) = args.mirror(self.args.source.access(), mirrors) {
            self.follow_secret("certificates", mirror);
        }
        let store = args.store(self.args.source.access())?;
        let cluster = self.args.identity.cluster_name.clone();
        let wanted = args.wanted(&self.args.etcd.server.endpoints);
        let look = Arc::new(Look::new((cluster, store), wanted, metrics));
        let condition = self.readiness.condition("certificates", "they have not been looked at");
        let keeper = Keeper::new(Arc::clone(&look), condition, leading.clone());
        self.supervisor.spawn("certificates", keeper.run(self.supervisor.token()));
        Some(Orders::new(look, leading, self.args.own_etcd()))
    }

    /// Follows the source, which everybody has heard of by now.
    pub(crate) fn follow_source(&mut self, source: Source) {
        let (mut ages, token) = (ProblemAges::default(), self.supervisor.token());
        let lines = move |status: &Arc<Status>| {
            ages.lines(status, SystemTime::now(), |time| rfc3339(unix_seconds(time)))
        };
        let remarks = self.readiness.clone().remark_on("source", source.status(), lines, token.clone());
        self.supervisor.spawn("remarks", remarks);
        self.supervisor.spawn("source", source.run(token));
    }

    /// Answers probes and Prometheus; behind everything that readiness depends on.
    pub(crate) fn serve_health(&mut self, server: AdminServer, registry: Registry) {
        let routes = health_routes(self.readiness.clone(), Arc::new(registry));
        self.supervisor.spawn("admin", server.serve(routes, self.supervisor.token()));
    }
}

/// Who writes Events: in a pod, the pod's name.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().into())
}
