//! Golden scenarios: what a cluster's objects come to, step by step, for its peers and for its own nodes.
//!
//! Each `tests/scenarios/NAME.yaml` holds steps, divided by lines that begin with `# step:`; a step is all that the
//! cluster then consists of. Expected are the records in etcd, what a peer believes of them, and the frontends on
//! node `hoth-1`, in `NAME.txt` (`UPDATE_GOLDEN=1` writes it). Both sources must come to the same.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_model::address_policy::{AddressPolicy, OwnRanges, PeerRanges};
use mesh_model::desired::{BackendState, DesiredService, Frontend};
use mesh_model::export::{Identity, export};
use mesh_model::merge::{Merge, merge};
use mesh_model::name::{ClusterId, ClusterName, NodeName};
use mesh_model::record::{ClusterRecord, Incarnation, SyncedKind, SyncedRecord};
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::table::Knowledge;
use mesh_model::view::{PeerPin, PeerView};
use mesh_source::kubernetes::{Access, Kubernetes, Options};
use mesh_source::objects::{Kind, Objects};
use mesh_source::testing::api::{FakeApi, read, yaml};
use mesh_source::{Reason, Source, SourceArgs, SourceMetrics, SourceSpec, Status};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);
const NODE: &str = "hoth-1";

fn identity() -> Identity {
    let pods = vec!["10.1.0.0/16".parse().unwrap(), "fd01::/64".parse().unwrap()];
    Identity {
        name: ClusterName::new("hoth").unwrap(),
        id: ClusterId::new(2).unwrap(),
        ranges: OwnRanges { pods, ..OwnRanges::default() },
    }
}

fn records(snapshot: &ClusterSnapshot) -> String {
    let mut text = String::new();
    for (key, value) in export(&identity(), snapshot, 0) {
        let key = key.strip_prefix("clustermesh/v1/").unwrap();
        writeln!(text, "  record {key} {}", String::from_utf8(value).unwrap()).unwrap();
    }
    text
}

/// What another cluster believes of the records.
fn view(snapshot: &ClusterSnapshot) -> String {
    let Identity { name, id, ranges } = identity();
    let policy = AddressPolicy::new(PeerRanges::Agreed(ranges.exported()), OwnRanges::default());
    let mut view = PeerView::new(PeerPin { name: name.clone(), id, policy });
    let incarnation = Incarnation::new("one").unwrap();
    let cluster =
        ClusterRecord { id, incarnation, ranges: ranges.exported(), capabilities: Default::default() };
    let synced = SyncedKind::ALL.iter().map(|kind| SyncedRecord { revision: 1 }.entry(&name, *kind));
    view.begin_list();
    let all = export(&identity(), snapshot, 0).into_iter().chain(synced).chain([cluster.entry(&name)]);
    all.for_each(|(key, value)| view.list_entry(&key, &value));
    view.end_list();
    let seen = view.snapshot();
    let mut text = String::new();
    for (name, service) in &seen.services {
        let ports: Vec<String> =
            service.ports().iter().map(|it| format!("{}/{}", it.port, it.protocol)).collect();
        let endpoints = service.slices().iter().flat_map(|slice| slice.endpoints());
        let mut endpoints: Vec<String> =
            endpoints.map(|it| format!("{}{}", it.address, mark(it.state))).collect();
        endpoints.sort();
        writeln!(text, "  peers see {name} [{}] at {}", ports.join(" "), endpoints.join(" ")).unwrap();
    }
    text
}

fn mark(state: BackendState) -> &'static str {
    match state {
        BackendState::Active => "",
        BackendState::Terminating => " (terminating)",
    }
}

/// The frontends on the own node, without peers.
fn frontends(snapshot: &ClusterSnapshot) -> String {
    let mut text = String::new();
    for (name, local) in &snapshot.services {
        let own = identity().id;
        let carried = |_: &Frontend| Vec::new();
        let merged =
            merge(&Merge { own, plain_ok_allowed: true, name, local, peers: &[], carried: &carried });
        for (frontend, DesiredService { plain_ok, groups, .. }) in merged {
            let Frontend { address, port, protocol } = frontend;
            write!(text, "  frontend {address} {port}/{protocol} of {name}, plain {plain_ok}:").unwrap();
            for group in groups {
                write!(text, " weight {}", group.weight).unwrap();
                for backend in group.backends {
                    write!(text, " {}:{}{}", backend.address, backend.port, mark(backend.state)).unwrap();
                }
            }
            writeln!(text).unwrap();
        }
    }
    text
}

/// The steps of a scenario: title and objects.
fn steps(text: &str) -> Vec<(String, String)> {
    let parts = text.split("# step:").skip(1);
    parts
        .map(|part| part.split_once('\n').map(|(title, rest)| (title.trim().into(), rest.into())).unwrap())
        .collect()
}

/// A source on the API server, seen by an exporter or from a node.
struct Seen {
    snapshots: tokio::sync::watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    status: tokio::sync::watch::Receiver<Arc<mesh_source::Status>>,
    metrics: SourceMetrics,
    /// Objects that it lists less the changes before.
    base: BTreeMap<&'static str, (usize, usize)>,
    token: CancellationToken,
}

const FOLLOWED: [(&str, Kind); 3] =
    [("services", Kind::Service), ("endpointslices", Kind::Slice), ("nodes", Kind::Node)];

impl Seen {
    fn kubernetes(api: &FakeApi, node: Option<&str>) -> Self {
        let metrics = SourceMetrics::unregistered();
        let options = Options { node: node.map(|node| NodeName::new(node).unwrap()), ..Options::default() };
        let source = Kubernetes::new(Access { kubeconfig: Some(api.kubeconfig()) }, options, metrics.clone());
        let (snapshots, status, token) = (source.snapshots(), source.status(), CancellationToken::new());
        tokio::spawn(source.run(token.clone()));
        let base = FOLLOWED.iter().map(|(name, _)| (*name, api.counts(name))).collect();
        Self { snapshots, status, metrics, base, token }
    }

    /// Whether as many objects were taken up as were said.
    fn has_heard(&self, api: &FakeApi) -> bool {
        FOLLOWED.iter().all(|(name, resource)| {
            let (listed, before) = self.base[name];
            let heard = self.metrics.changes(*resource).get();
            heard == u64::try_from(listed + api.counts(name).1 - before).unwrap()
        })
    }

    /// Waits until the source has taken up everything that the server has said.
    async fn settle(&self, api: &FakeApi) {
        self.until(|| self.snapshots.borrow().is_some() && self.has_heard(api)).await;
        // A pass ends when everything is published.
        let passes = self.metrics.passes.get();
        api.bookmark();
        self.until(|| self.metrics.passes.get() > passes).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        let end = tokio::time::Instant::now() + DEADLINE;
        while !holds() {
            assert!(tokio::time::Instant::now() < end, "never settled: {:?}", self.status.borrow());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn snapshot(&self) -> Arc<ClusterSnapshot> {
        self.snapshots.borrow().clone().unwrap()
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

async fn outcome(path: &Path) -> String {
    let api = FakeApi::start().await;
    let steps = steps(&read(path));
    let mut text = String::new();
    api.become_these(&yaml(&steps[0].1));
    let (exporter, agent) = (Seen::kubernetes(&api, None), Seen::kubernetes(&api, Some(NODE)));
    for (title, objects) in &steps {
        let objects = yaml(objects);
        api.become_these(&objects);
        exporter.settle(&api).await;
        agent.settle(&api).await;
        let (exported, local) = (exporter.snapshot(), agent.snapshot());
        writeln!(text, "step: {title}").unwrap();
        text += &(records(&exported) + &view(&exported) + &frontends(&local));
        for problem in &agent.status.borrow().problems {
            writeln!(text, "  told {problem}").unwrap();
        }
        let told = told(&agent.status.borrow());
        for (snapshot, node) in [(&exported, None), (&local, Some(NODE))] {
            let (same, same_told) = from_manifests(&objects, node).await;
            assert_eq!(**snapshot, same, "manifests differ in {title:?}");
            assert_eq!(told, same_told, "what is told of manifests differs in {title:?}");
        }
        // A source that begins now comes to the same as one that has followed.
        let fresh = Seen::kubernetes(&api, Some(NODE));
        fresh.settle(&api).await;
        assert_eq!(fresh.snapshot(), local, "a new list differs in {title:?}");
    }
    text
}

/// What is wrong with which object. That slices are missing is told of manifests only.
fn told(status: &Status) -> BTreeSet<(String, String)> {
    let faults = status.problems.iter().filter(|it| it.reason != Reason::NoSlices);
    faults.map(|it| (it.object.clone(), it.message.clone())).collect()
}

/// The same objects in a folder.
async fn from_manifests(
    objects: &[Value],
    node: Option<&str>,
) -> (ClusterSnapshot, BTreeSet<(String, String)>) {
    let folder = tempfile::tempdir().unwrap();
    for (index, object) in objects.iter().enumerate() {
        let mut object = object.clone();
        object["apiVersion"] = match object["kind"].as_str().unwrap() {
            "EndpointSlice" => "discovery.k8s.io/v1".into(),
            _ => "v1".into(),
        };
        std::fs::write(folder.path().join(format!("{index}.json")), object.to_string()).unwrap();
    }
    let source = SourceSpec::Manifests(folder.path().into());
    let args = SourceArgs { source, kubeconfig: None };
    let options = Options { node: node.map(|node| NodeName::new(node).unwrap()), ..Options::default() };
    let source = Source::new(&args, options, SourceMetrics::unregistered());
    let (mut snapshots, status, token) = (source.snapshots(), source.status(), CancellationToken::new());
    let task = tokio::spawn(source.run(token.clone()));
    let known = tokio::time::timeout(DEADLINE, snapshots.wait_for(Option::is_some)).await;
    let snapshot = ClusterSnapshot::clone(known.expect("the folder is read").unwrap().as_ref().unwrap());
    token.cancel();
    task.await.unwrap();
    let told = told(&status.borrow());
    (snapshot, told)
}

fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_comes_to_what_is_written() {
    let scenarios = scenarios();
    assert!(scenarios.len() >= 16, "scenarios are missing: {scenarios:?}");
    let mut wrong = Vec::new();
    for path in scenarios {
        let (text, golden) = (outcome(&path).await, path.with_extension("txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
            std::fs::write(&golden, &text).unwrap();
        }
        if std::fs::read_to_string(&golden).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "not as written:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_listed_is_nothing() {
    let mut objects = Objects::new(None);
    Kind::ALL.iter().for_each(|kind| objects.begin_list(*kind));
    Kind::ALL.iter().for_each(|kind| objects.end_list(*kind, Knowledge::Complete));
    assert!(!objects.refresh());
    assert_eq!(*objects.snapshot(), ClusterSnapshot::default());
}
