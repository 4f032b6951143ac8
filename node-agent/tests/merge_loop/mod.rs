//! The real merge loop over the real maps, told what its cluster has by the test.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_model::annotation::Scope;
use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::snapshot::{
    ClusterSnapshot, Condition, Endpoint, Protocol, Service, ServicePort, Slice, SlicePort,
};
use mesh_runtime::{Readiness, Registry};
use node_agent::admin::events::Events;
use node_agent::datapath::actual::Capacity;
use node_agent::datapath::maps::Maps;
use node_agent::merge::merger::Merger;
use node_agent::merge::names::Names;
use node_agent::merge::query::Reader;
use node_agent::merge::task::{Inputs, MergeTask, Outputs, Start};
use node_agent::metrics::Metrics;
use node_agent::peers::PeerSet;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::support::{CAPACITY, INSTANCE, World};

const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn frontend() -> Frontend {
    Frontend { address: "10.96.0.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp }
}

/// One service with these hosts.
pub(crate) fn snapshot(hosts: Range<u8>) -> ClusterSnapshot {
    let endpoints = hosts.map(|host| Endpoint::new([10, 1, 0, host], Condition::READY));
    let ports = vec![SlicePort { name: None, protocol: Protocol::Tcp, port: 8080 }];
    let slice = Slice { ports, endpoints: endpoints.collect() };
    let service = Service {
        scope: Scope::GLOBAL,
        cluster_ips: vec![frontend().address],
        ports: vec![ServicePort { name: None, protocol: Protocol::Tcp, port: 80 }],
        session_affinity_seconds: None,
        node_local: false,
        created_at: None,
        slices: BTreeMap::from([("s".parse().unwrap(), Arc::new(slice))]),
    };
    let services = [("ns/svc".parse().unwrap(), Arc::new(service))];
    ClusterSnapshot { services: services.into_iter().collect(), ..ClusterSnapshot::default() }
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The loop, on threads of its own.
pub(crate) struct MergeLoop {
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    pub(crate) events: Events,
    pub(crate) runtime: Runtime,
    pub(crate) local: watch::Sender<Option<Arc<ClusterSnapshot>>>,
    pub(crate) peers: watch::Sender<Arc<PeerSet>>,
    reader: Option<Reader>,
    token: CancellationToken,
    running: JoinHandle<()>,
}

impl MergeLoop {
    pub(crate) fn start(world: &World) -> Self {
        Self::start_with(world, CAPACITY)
    }

    /// The same with maps of other sizes.
    pub(crate) fn start_with(world: &World, capacity: Capacity) -> Self {
        let installed = world.installed_with(capacity, "");
        let (registry, metrics) = Metrics::register();
        let (events, token) = (Events::default(), CancellationToken::new());
        let (local, own) = (watch::channel(None).0, ClusterId::new(1).unwrap());
        let no_peers = PeerSet { claimed: Some([].into()), ..PeerSet::default() };
        let (view, published) = watch::channel(Arc::default());
        let peers = watch::channel(Arc::new(no_peers)).0;
        let names = Names {
            own: (own, ClusterName::new("hoth").unwrap()),
            local: local.subscribe(),
            peers: peers.subscribe(),
            earlier: Arc::default(),
        };
        let confirmed = watch::channel(None).1;
        let inputs = Inputs { local: local.subscribe(), confirmed, peers: peers.subscribe() };
        let readiness = Readiness::default();
        let planned = readiness.condition("plan", "waiting");
        let source = Readiness::default().condition("source", "waiting");
        let writes = Readiness::default().condition("writes", "waiting");
        let outputs =
            Outputs { events: events.clone(), metrics: metrics.merge, planned, source, writes, view };
        let Maps { services, control, outcomes, .. } = *installed.maps;
        let start = Start {
            services,
            control: Box::new(control),
            outcomes: Box::new(outcomes),
            first: installed.control,
            failback: installed.failback,
            merger: Merger::new(own, false, installed.actual),
            leftover: installed.leftover,
            retiring: installed.retiring,
        };
        let task = MergeTask::new(inputs, outputs, start, Arc::new(installed.grace_periods));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let running = runtime.spawn(task.run(token.clone()));
        let maps = Maps::open_pinned(&world.bpffs, INSTANCE).unwrap();
        let source = watch::channel(Arc::default()).1;
        let reader = Some(Reader { maps, names, view: published, source });
        Self { registry, readiness, events, runtime, local, peers, reader, token, running }
    }

    /// The own source says this from now on.
    pub(crate) fn hear(&self, snapshot: ClusterSnapshot) {
        self.local.send_replace(Some(Arc::new(snapshot)));
    }

    /// What answers questions.
    pub(crate) fn reader(&mut self) -> Reader {
        self.reader.take().expect("there is one")
    }

    pub(crate) fn stop(self) {
        self.token.cancel();
        self.runtime.block_on(self.running).unwrap();
    }
}
