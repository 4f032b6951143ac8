//! An exporter in this process, with a source that the test holds in its hands.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub)]

pub mod folder;
#[path = "../../src/exporter/testing.rs"]
mod objects;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clustermesh_apiserver::exporter::{ExportMetrics, Exporter, Source};
use mesh_kv::testing::Etcd;
use mesh_kv::{Dialer, EtcdEndpoint, Session};
use mesh_model::address_policy::OwnRanges;
use mesh_model::name::{NodeName, ServiceName};
use mesh_model::snapshot::{ClusterSnapshot, Endpoint, Service};
use mesh_model::table::Knowledge;
use mesh_runtime::{Readiness, Registry};
use mesh_source::{Manifests, Status};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use self::objects::{endpoint, identity};

pub const DEADLINE: Duration = Duration::from_secs(30);
pub const PREFIX: &str = "clustermesh/v1/";

pub struct Running {
    pub source: watch::Sender<Option<Arc<ClusterSnapshot>>>,
    status: watch::Sender<Arc<Status>>,
    pub ranges: watch::Sender<Option<Arc<OwnRanges>>>,
    pub readiness: Readiness,
    heard: Arc<AtomicBool>,
    registry: Registry,
    task: tokio::task::JoinHandle<()>,
    token: CancellationToken,
    _end: DropGuard,
}

impl Running {
    pub fn start(etcd: &Etcd) -> Self {
        Self::start_as(etcd.endpoint(), "hoth", 2)
    }

    pub fn start_as(etcd: EtcdEndpoint, name: &str, id: u64) -> Self {
        Self::start_on(dialer(etcd), (name, id), None, None)
    }

    /// With a source that runs by itself.
    pub fn start_with(etcd: &Etcd, source: &Manifests) -> Self {
        Self::start_on(dialer(etcd.endpoint()), ("hoth", 2), Some(source), None)
    }

    /// One of several replicas; its source confirms what it says until it is silenced.
    pub fn replica(dialer: Dialer, resign_after: Duration) -> Self {
        Self::start_on(Arc::new(dialer), ("hoth", 2), None, Some(resign_after))
    }

    fn start_on(
        dialer: Arc<Dialer>,
        (name, id): (&str, u64),
        source_of_its_own: Option<&Manifests>,
        resign_after: Option<Duration>,
    ) -> Self {
        let identity = identity(name, id);
        let (source, snapshots) = watch::channel(None);
        let readiness = Readiness::default();
        let mut registry = Registry::new("test", "0");
        let metrics = ExportMetrics::register(registry.root());
        let complete = Status { knowledge: Knowledge::Complete, ..Status::default() };
        let (status, said) = watch::channel(Arc::new(complete));
        let (ranges, known) = watch::channel(Some(Arc::new(identity.ranges.clone())));
        let (confirm, confirmed) = watch::channel(None);
        let source_said = match source_of_its_own {
            Some(it) => Source {
                snapshots: it.snapshots(),
                status: it.status(),
                confirmed: it.confirmed(),
                ranges: known,
            },
            None => Source { snapshots, status: said, confirmed, ranges: known },
        };
        let mut exporter = Exporter::new(identity, dialer, source_said, &readiness, metrics);
        let (token, heard) = (CancellationToken::new(), Arc::new(AtomicBool::new(true)));
        if let Some(resign_after) = resign_after {
            exporter = exporter.resigning_after(resign_after);
            tokio::spawn(token.clone().run_until_cancelled_owned(confirming(confirm, Arc::clone(&heard))));
        }
        let task = tokio::spawn(exporter.run(token.clone()));
        let _end = token.clone().drop_guard();
        Self { source, status, ranges, readiness, heard, registry, task, token, _end }
    }

    /// Its source confirms nothing any more.
    pub fn silence(&self) {
        self.heard.store(false, Ordering::Relaxed);
    }

    /// Its source is heard again.
    pub fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    pub fn is_leading(&self) -> bool {
        self.has_metric("clustermesh_export_leading 1")
    }

    pub fn has_metric(&self, line: &str) -> bool {
        self.registry.encode().lines().any(|found| found == line)
    }

    pub async fn until_leading(&self) {
        until("leading", || self.has_metric("clustermesh_export_leading 1")).await;
    }

    /// A standby is ready although it does not lead: it could at once.
    pub async fn until_standing_by(&self) {
        until("standing by", || self.readiness.is_ready() && self.has_metric("clustermesh_export_leading 0"))
            .await;
    }

    pub fn say(&self, services: &[(&str, &[u8])]) {
        self.say_all(services.iter().map(|(name, slices)| (name.parse().unwrap(), service(slices))));
    }

    pub fn say_all(&self, services: impl IntoIterator<Item = (ServiceName, Arc<Service>)>) {
        let services = services.into_iter().collect();
        let nodes = [(NodeName::new("node-1").unwrap(), Arc::default())].into_iter().collect();
        self.source.send_replace(Some(Arc::new(ClusterSnapshot { services, nodes, ..Default::default() })));
    }

    pub fn know(&self, knowledge: Knowledge) {
        self.status.send_replace(Arc::new(Status { knowledge, ..Status::default() }));
    }

    pub async fn until_ready(&self) {
        until("ready", || self.readiness.is_ready()).await;
    }

    pub fn missing(&self) -> String {
        self.missing_of("export")
    }

    /// Why a condition does not hold; empty where it does.
    pub fn missing_of(&self, condition: &str) -> String {
        let missing = self.readiness.missing();
        let found = missing.into_iter().find(|missing| missing.condition == condition);
        found.map(|missing| missing.reason).unwrap_or_default()
    }

    pub async fn stop(self) {
        self.token.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }

    /// Ends it as a crash would.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn dialer(etcd: EtcdEndpoint) -> Arc<Dialer> {
    Arc::new(Dialer::new(vec![etcd], None).unwrap())
}

/// What a source says that is heard.
async fn confirming(confirm: watch::Sender<Option<std::time::Instant>>, heard: Arc<AtomicBool>) {
    loop {
        if heard.load(Ordering::Relaxed) {
            confirm.send_replace(Some(std::time::Instant::now()));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// A service with one slice of one endpoint per number.
pub fn service(slices: &[u8]) -> Arc<Service> {
    service_of(slices.iter().map(|last| vec![endpoint([10, 2, 0, *last])]))
}

fn service_of(slices: impl Iterator<Item = Vec<Endpoint>>) -> Arc<Service> {
    let named: Vec<_> = slices.enumerate().map(|(index, it)| (format!("slice-{index}"), it)).collect();
    objects::service(named.iter().map(|(name, endpoints)| (name.as_str(), endpoints.clone())))
}

/// Services with one endpoint each.
pub fn many_services(count: usize) -> Vec<(ServiceName, Arc<Service>)> {
    (0..count).map(|index| (format!("ns/s-{index}").parse().unwrap(), service(&[1]))).collect()
}

/// One service with slices of so many endpoints each, of 200 bytes and more.
pub fn wide_service(name: &str, slices: u8, endpoints: u8) -> Vec<(ServiceName, Arc<Service>)> {
    let node = NodeName::new(&["a-name-as-long-as-some-clouds-have-them"; 5].join(".")).unwrap();
    let wide = |third, last| Endpoint { node: Some(node.clone()), ..endpoint([10, 2, third, last]) };
    let slice = |third: u8| (0..endpoints).map(|last| wide(third, last)).collect();
    vec![(name.parse().unwrap(), service_of((0..slices).map(slice)))]
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What stands in etcd: value and revision by the key's part behind the prefix; alive and cluster left out.
pub type Stands = BTreeMap<String, (Vec<u8>, i64)>;

pub async fn stands(etcd: &Etcd) -> Stands {
    let dialer = Arc::new(Dialer::new(vec![etcd.endpoint()], None).unwrap());
    let session = Session::open(&dialer).await.unwrap();
    let mut all = Stands::new();
    let mut pages = session.list("reading", PREFIX);
    while let Some(page) = pages.next().await.unwrap() {
        for entry in page.entries {
            let key = entry.key.strip_prefix(PREFIX).unwrap().to_owned();
            if !key.starts_with("alive/") && !key.starts_with("clusters/") {
                all.insert(key, (entry.value, entry.mod_revision));
            }
        }
    }
    all
}

pub async fn until_stands(etcd: &Etcd, what: &str, holds: impl Fn(&Stands) -> bool) -> Stands {
    let end = Instant::now() + DEADLINE;
    loop {
        let all = stands(etcd).await;
        if holds(&all) {
            return all;
        }
        assert!(Instant::now() < end, "{what}: {:?}", all.keys().collect::<Vec<_>>());
        sleep(Duration::from_millis(20)).await;
    }
}

pub fn keys(all: &Stands) -> Vec<&str> {
    all.keys().map(String::as_str).collect()
}

pub const ALL_OF_A: [&str; 6] = [
    "endpoints/hoth/ns/a/slice-0",
    "nodes/hoth/node-1",
    "services/hoth/ns/a",
    "synced/hoth/endpoints",
    "synced/hoth/nodes",
    "synced/hoth/services",
];

pub fn etcd_of(dir: &tempfile::TempDir) -> Etcd {
    Etcd::start(Path::new(dir.path()))
}
