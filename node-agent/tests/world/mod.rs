//! A running peers component: its folder, what it publishes, counts and logs.
//!
//! Log lines of all tests of the process are collected together; a test finds its own by its peers' names, which
//! no other test uses.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, reason = "a test ends there; each uses a part")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use mesh_admin::api::{Event, Peer};
use mesh_kv::Credentials;
use mesh_kv::testing::{Etcd, free_port};
use mesh_model::address_policy::OwnRanges;
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::snapshot::ClusterSnapshot;
use mesh_peers::folder::Remembered;
use mesh_runtime::{Registry, Supervisor};
use mesh_source::ranges::fixed;
use node_agent::admin::events::Events;
use node_agent::datapath::actual::Capacity;
use node_agent::metrics::Metrics;
use node_agent::peers::PeerSet;
use node_agent::peers::folder::{FolderConfig, PeerFolder};
use node_agent::quota::QuotaArgs;
use tokio::sync::watch;
use tracing::field::{Field, Visit};

use super::DEADLINE;

/// What the peers component runs in, as cluster `hoth` with the id 1.
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) registry: Registry,
    dir: tempfile::TempDir,
    set: watch::Receiver<Arc<PeerSet>>,
    events: Events,
    supervisor: Supervisor,
    known: watch::Receiver<Option<Remembered>>,
    identity: Option<Credentials>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_identity(None)
    }

    pub(crate) fn with_identity(identity: Option<PathBuf>) -> Self {
        collect_lines();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("peers")).unwrap();
        let identity = identity.as_deref().map(Credentials::in_folder);
        Self::start(dir, identity, Remembered::default())
    }

    /// The next process on the same folder, with what this one knew; `meanwhile` happens while none runs.
    pub(crate) async fn restart(mut self, meanwhile: impl FnOnce(&Self)) -> Self {
        self.supervisor.stop(DEADLINE).await.unwrap();
        let known = self.known.borrow().clone().expect("the folder was looked at");
        meanwhile(&self);
        Self::start(self.dir, self.identity, known)
    }

    fn start(dir: tempfile::TempDir, identity: Option<Credentials>, remembered: Remembered) -> Self {
        let folder = dir.path().join("peers");
        Self::configured(dir, Self::config(folder, identity, remembered))
    }

    /// One whose own cluster asks for what it has only, on a folder that stays.
    pub(crate) fn asking(
        folder: &std::path::Path,
        local: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
        quotas: QuotaArgs,
        capacity: Capacity,
    ) -> Self {
        collect_lines();
        let config = Self::config(folder.to_owned(), None, Remembered::default());
        let config = FolderConfig { local: Some(local), quotas, capacity, ..config };
        Self::configured(tempfile::tempdir().unwrap(), config)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<PeerSet>> {
        let mut set = self.set.clone();
        set.mark_changed();
        set
    }

    fn config(folder: PathBuf, identity: Option<Credentials>, remembered: Remembered) -> FolderConfig {
        FolderConfig {
            folder,
            own_name: ClusterName::new("hoth").unwrap(),
            own_id: ClusterId::new(1).unwrap(),
            own_ranges: fixed(OwnRanges {
                pods: vec!["10.1.0.0/16".parse().unwrap()],
                ..OwnRanges::default()
            }),
            identity,
            remembered,
            local: None,
            quotas: QuotaArgs::default(),
            capacity: Capacity { services: 16, slots: 1 << 20, backends: 1 << 20, counters: 16 },
        }
    }

    fn configured(dir: tempfile::TempDir, config: FolderConfig) -> Self {
        let (folder, identity) = (config.folder.clone(), config.identity.clone());
        let (registry, metrics) = Metrics::register();
        let events = Events::default();
        let mut supervisor = Supervisor::new("test", Default::default());
        let (peers, set) = PeerFolder::new(config, supervisor.child("peers"), events.clone(), metrics.peers);
        let known = peers.known();
        supervisor.spawn("peers", peers.run());
        Self { folder, registry, dir, set, events, supervisor, known, identity }
    }

    /// An etcd with a data folder of its own.
    pub(crate) fn etcd(&self, name: &str) -> Etcd {
        Etcd::start(&self.dir.path().join(name))
    }

    /// Renames a peer file into place.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let temporary = self.dir.path().join("temporary");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, self.folder.join(format!("{name}.yaml"))).unwrap();
    }

    /// Puts a folder with these files in the place of the present one.
    pub(crate) fn replace_folder(&self, files: &[(&str, &str)]) {
        let next = self.dir.path().join("next");
        std::fs::create_dir(&next).unwrap();
        for (name, text) in files {
            std::fs::write(next.join(format!("{name}.yaml")), text).unwrap();
        }
        std::fs::remove_dir_all(&self.folder).unwrap();
        std::fs::rename(next, &self.folder).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.join(format!("{name}.yaml"))).unwrap();
    }

    pub(crate) fn set(&self) -> Arc<PeerSet> {
        self.set.borrow().clone()
    }

    pub(crate) fn claims(&self, id: u64) -> bool {
        let id = ClusterId::new(id).unwrap();
        self.set.borrow().claimed.as_ref().expect("the folder was read").contains(&id)
    }

    pub(crate) fn row(&self, name: &str) -> Option<Peer> {
        self.set.borrow().rows().into_iter().find(|row| row.name == name)
    }

    /// Waits for what is published to be as it shall be.
    pub(crate) async fn until(&mut self, what: &str, mut holds: impl FnMut(&PeerSet) -> bool) {
        let waited = tokio::time::timeout(DEADLINE, self.set.wait_for(|set| holds(set))).await;
        let failed = waited.map(|waited| drop(waited.unwrap())).is_err();
        assert!(!failed, "{what}: not within {DEADLINE:?}: {:#?}", self.set.borrow().rows());
    }

    /// The row of a peer as soon as it is as it shall be.
    pub(crate) async fn until_row(&mut self, name: &str, holds: impl Fn(&Peer) -> bool) -> Peer {
        let mut found = None;
        self.until(name, |set| {
            found = set.rows().into_iter().find(|row| row.name == name && holds(row));
            found.is_some()
        })
        .await;
        found.expect("it was waited for")
    }

    /// For what does not show in the set.
    pub(crate) async fn until_metric(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting)
            .await
            .unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"));
    }

    /// How often the folder could not be read completely.
    pub(crate) fn folder_failures(&self) -> u64 {
        let text = self.registry.encode();
        let value =
            text.lines().find_map(|line| line.strip_prefix("clustermesh_peer_folder_failures_total "));
        value.expect("the counter is always there").parse().unwrap()
    }

    pub(crate) fn past_events(&self) -> Vec<Event> {
        self.events.subscribe(Some(0)).0.iter().map(|event| (**event).clone()).collect()
    }

    /// Ends everything; nothing may have failed.
    pub(crate) async fn stop(mut self) {
        self.supervisor.stop(DEADLINE).await.unwrap();
    }
}

/// A folder with the files of these peers: name, id, etcd, pod ranges.
pub(crate) fn prepare(folder: &std::path::Path, peers: &[(&str, u64, &Etcd, &str)]) {
    std::fs::create_dir(folder).unwrap();
    for (name, id, etcd, pods) in peers {
        let text = file(*id, &format!("\"{}\"", etcd.endpoint()), &agreed(pods));
        std::fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
    }
}

/// An endpoint where nobody listens.
pub(crate) fn free_endpoint() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

/// A peer file.
pub(crate) fn file(id: u64, endpoints: &str, ranges: &str) -> String {
    format!("id: {id}\nendpoints: [{endpoints}]\nranges: {ranges}\n")
}

/// Agreed pod ranges.
pub(crate) fn agreed(pods: &str) -> String {
    format!("{{pods: [{pods}]}}")
}

/// Writes a record.
pub(crate) fn put(etcd: &Etcd, key: &str, value: &str) {
    etcd.ctl(&["put", &format!("clustermesh/v1/{key}"), value]);
}

/// Writes all records of a cluster with one service, as its exporter would.
pub(crate) fn fill(etcd: &Etcd, cluster: &str, id: u64, addresses: &[&str]) {
    put(etcd, &format!("clusters/{cluster}"), &format!("{{\"id\":{id},\"incarnation\":\"one\"}}"));
    put(
        etcd,
        &format!("services/{cluster}/default/rebel-base"),
        r#"{"ports":[{"name":"http","protocol":"TCP","port":80}]}"#,
    );
    let endpoints: Vec<String> =
        addresses.iter().map(|address| format!("{{\"address\":\"{address}\"}}")).collect();
    let slice = format!(
        "{{\"ports\":[{{\"name\":\"http\",\"port\":8080}}],\"endpoints\":[{}]}}",
        endpoints.join(",")
    );
    put(etcd, &format!("endpoints/{cluster}/default/rebel-base/rebel-base-x1"), &slice);
    for kind in ["services", "endpoints", "nodes"] {
        put(etcd, &format!("synced/{cluster}/{kind}"), r#"{"revision":1}"#);
    }
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// All log lines so far.
pub(crate) fn lines() -> Vec<String> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Warnings and errors about a peer.
pub(crate) fn bad_lines(peer: &str) -> Vec<String> {
    let about = format!("peer={peer} ");
    let bad =
        |line: &String| (line.starts_with("WARN") || line.starts_with("ERROR")) && line.contains(&about);
    lines().into_iter().filter(bad).collect()
}

fn collect_lines() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Lines).expect("nobody else collects"));
}

/// Collects events as lines; knows no spans.
struct Lines;

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("node_agent") && *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {field}={value:?} ").expect("a String takes all");
    }
}
