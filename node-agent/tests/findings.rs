//! What agents find is told to the API server: by three of them, and one Event comes of it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod records;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::routing::post;
use mesh_model::annotation::Scope;
use mesh_model::name::{ClusterId, ClusterName, NodeName};
use mesh_model::snapshot::{ClusterSnapshot, Node, Protocol, Service, ServicePort};
use mesh_runtime::{Readiness, Registry};
use mesh_source::kubernetes::{Access, EventWriter, Uids};
use node_agent::findings::node::{CANARY, HOOKS};
use node_agent::findings::task::{Findings, Sources, Voice};
use node_agent::merge::names::Names;
use node_agent::metrics::Metrics;
use node_agent::peers::PeerSet;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use records::serving;

const DEADLINE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(20);

/// An API server to which Events can be posted.
#[derive(Clone, Debug, Default)]
struct Api {
    /// What is answered instead of taking them.
    refusal: Arc<Mutex<Option<StatusCode>>>,
    /// Every Event that came, with its namespace and whether it was taken.
    posted: Arc<Mutex<Vec<(String, Value, bool)>>>,
}

impl Api {
    /// Returns the kubeconfig that leads there, and the folder that holds it.
    async fn serve(&self) -> (PathBuf, tempfile::TempDir) {
        let routes = Router::new()
            .route("/apis/events.k8s.io/v1/namespaces/{namespace}/events", post(take))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, routes).await });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": server}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        });
        std::fs::write(&path, text.to_string()).unwrap();
        (path, folder)
    }

    fn posted(&self) -> Vec<(String, Value, bool)> {
        self.posted.lock().unwrap().clone()
    }

    fn taken(&self) -> Vec<Value> {
        self.posted().into_iter().filter(|(_, _, taken)| *taken).map(|(_, event, _)| event).collect()
    }
}

async fn take(
    State(api): State<Api>,
    axum::extract::Path(namespace): axum::extract::Path<String>,
    Json(event): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let mut posted = api.posted.lock().unwrap();
    let same = |(_, old, taken): &(String, Value, bool)| *taken && old["metadata"] == event["metadata"];
    let refusal = *api.refusal.lock().unwrap();
    let code = match refusal {
        Some(code) => code,
        None if posted.iter().any(same) => StatusCode::CONFLICT,
        None => StatusCode::CREATED,
    };
    posted.push((namespace, event, code == StatusCode::CREATED));
    (code, Json(json!({"kind": "Status", "code": code.as_u16(), "message": "so says the test"})))
}

/// What the agents of a cluster know: a Service on port `http`, of which cluster 2 has another port.
struct Cluster {
    local: watch::Sender<Option<Arc<ClusterSnapshot>>>,
    peers: watch::Sender<Arc<PeerSet>>,
    uids: watch::Sender<Uids>,
}

impl Cluster {
    fn of_nodes(count: usize) -> Self {
        let port = ServicePort { name: Some("http".parse().unwrap()), protocol: Protocol::Tcp, port: 80 };
        let service = Service {
            scope: Scope::GLOBAL,
            cluster_ips: vec!["10.101.0.1".parse().unwrap()],
            ports: vec![port],
            session_affinity_seconds: None,
            node_local: false,
            created_at: None,
            slices: Default::default(),
        };
        let local = ClusterSnapshot {
            services: [("ns/base".parse().unwrap(), Arc::new(service))].into_iter().collect(),
            nodes: (0..count).map(|number| (node(number), Arc::new(Node::default()))).collect(),
            ..ClusterSnapshot::default()
        };
        let slice = r#"{"ports": [{"name": "web", "port": 8080}], "endpoints": [{"address": "10.2.0.1"}]}"#;
        let peer = serving(2, r#"{"name": "web", "port": 8080}"#, slice);
        let peers = PeerSet { peers: [peer].into(), claimed: Some([].into()), ..PeerSet::default() };
        Self {
            local: watch::channel(Some(Arc::new(local))).0,
            peers: watch::channel(Arc::new(peers)).0,
            uids: watch::channel(Uids::unit("ns/base".parse().unwrap(), "uid-1".into())).0,
        }
    }

    /// An agent that tells by a kubeconfig, or where there is none in its log.
    fn agent(&self, number: usize, kubeconfig: Option<&PathBuf>) -> Agent {
        let (registry, metrics) = Metrics::register();
        let (readiness, token) = (Readiness::default(), CancellationToken::new());
        let voice = match kubeconfig {
            Some(path) => {
                let access = Access { kubeconfig: Some(path.clone()) };
                Voice::Events(Box::new(EventWriter::new(
                    access,
                    "test",
                    node(number).as_str(),
                    metrics.source,
                )))
            }
            None => Voice::Log(metrics.source),
        };
        let names = Names {
            own: (ClusterId::new(1).unwrap(), ClusterName::new("hoth").unwrap()),
            local: self.local.subscribe(),
            peers: self.peers.subscribe(),
            earlier: Arc::default(),
        };
        let sources = Sources {
            node: node(number),
            names,
            status: watch::channel(Arc::default()).1,
            uids: kubeconfig.map(|_| self.uids.subscribe()),
            readiness: readiness.clone(),
        };
        let findings = Findings { sources, voice, every: EVERY, metrics: metrics.findings };
        Agent { registry, readiness, task: tokio::spawn(findings.run(token.clone())), token }
    }
}

fn node(number: usize) -> NodeName {
    NodeName::new(&format!("hoth-{number}")).unwrap()
}

struct Agent {
    registry: Registry,
    readiness: Readiness,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Agent {
    fn count(&self, metric: &str) -> u64 {
        let text = self.registry.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {metric} in\n{text}")).parse().unwrap()
    }

    fn events(&self, outcome: &str) -> u64 {
        self.count(&format!("clustermesh_source_events_total{{outcome=\"{outcome}\"}}"))
    }

    /// So many looks from now on.
    async fn looks(&self, count: u64) {
        let looks = || self.count("clustermesh_findings_looks_total");
        let end = looks() + count;
        until("further looks", || looks() >= end).await;
    }

    async fn stop(self) {
        self.token.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.expect("stops in time").unwrap();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let waiting = async {
        while !holds() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test]
async fn three_nodes_tell_a_finding_and_one_event_comes_of_it() {
    let (api, cluster) = (Api::default(), Cluster::of_nodes(6));
    let (kubeconfig, _folder) = api.serve().await;
    let agents: Vec<_> = (0..6).map(|number| cluster.agent(number, Some(&kubeconfig))).collect();
    until("three posts", || api.posted().len() == 3).await;
    for agent in &agents {
        agent.looks(10).await;
    }
    assert_eq!(api.posted().len(), 3, "who told it keeps quiet, and nobody else tells it");
    let spoken: BTreeSet<_> =
        api.posted().iter().map(|(_, event, _)| event["reportingInstance"].to_string()).collect();
    assert_eq!(spoken.len(), 3, "{spoken:?}");
    let [event] = &api.taken()[..] else { panic!("{:?}", api.posted()) };
    assert_eq!((&event["reason"], &event["type"]), (&json!("PortMismatch"), &json!("Warning")));
    assert_eq!(event["regarding"]["uid"], "uid-1");
    let note = event["note"].as_str().unwrap();
    assert!(
        note.starts_with("cluster peer-2, port http 80/TCP: ") && note.contains("web 8080/TCP"),
        "{note}"
    );
    let (mut written, mut known, mut speaking) = (0, 0, 0);
    for agent in agents {
        written += agent.events("written");
        known += agent.events("known");
        speaking += agent.count("clustermesh_findings_services");
        agent.stop().await;
    }
    assert_eq!((written, known, speaking), (1, 2, 3));
}

#[tokio::test]
async fn a_recreated_service_is_told_of_anew() {
    let (api, cluster) = (Api::default(), Cluster::of_nodes(1));
    let (kubeconfig, _folder) = api.serve().await;
    let agent = cluster.agent(0, Some(&kubeconfig));
    until("an Event", || api.taken().len() == 1).await;
    cluster.uids.send_replace(Uids::new());
    agent.looks(3).await;
    cluster.uids.send_replace(Uids::unit("ns/base".parse().unwrap(), "uid-2".into()));
    until("another Event", || api.taken().len() == 2).await;
    assert_eq!(api.taken()[1]["regarding"]["uid"], "uid-2");
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_refuses_is_asked_once_and_one_that_fails_again() {
    let (api, cluster) = (Api::default(), Cluster::of_nodes(1));
    *api.refusal.lock().unwrap() = Some(StatusCode::TOO_MANY_REQUESTS);
    let (kubeconfig, _folder) = api.serve().await;
    let agent = cluster.agent(0, Some(&kubeconfig));
    until("two attempts", || agent.events("failed") >= 2).await;
    *api.refusal.lock().unwrap() = Some(StatusCode::FORBIDDEN);
    until("a refusal", || agent.events("refused") == 1).await;
    let posted = api.posted().len();
    agent.looks(10).await;
    assert_eq!((api.posted().len(), api.taken().len()), (posted, 0), "nothing is tried in vain");
    agent.stop().await;
}

#[tokio::test]
async fn looks_go_on_without_a_server_and_end_at_once() {
    let cluster = Cluster::of_nodes(1);
    let nowhere = PathBuf::from("/nonexistent/kubeconfig");
    let agent = cluster.agent(0, Some(&nowhere));
    until("failed attempts", || agent.events("failed") >= 3).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_node_that_does_not_balance_says_so_of_itself() {
    let (api, cluster) = (Api::default(), Cluster::of_nodes(0));
    let (kubeconfig, _folder) = api.serve().await;
    let agent = cluster.agent(7, Some(&kubeconfig));
    let hooks = agent.readiness.condition(HOOKS, "at connect4 something else takes 3 of 3 frontends");
    agent.readiness.condition(CANARY, "waiting").ready();
    agent.readiness.condition("plan", "waiting for the own source's first full list");
    until("an Event", || !api.taken().is_empty()).await;
    hooks.not_ready("at connect4 something else takes 2 of 2 frontends");
    agent.looks(5).await;
    let [(namespace, event, _)] = &api.posted()[..] else { panic!("{:?}", api.posted()) };
    assert_eq!((namespace.as_str(), &event["reason"]), ("default", &json!("FrontendsTaken")));
    let regarding = &event["regarding"];
    assert_eq!((&regarding["kind"], &regarding["uid"]), (&json!("Node"), &json!("hoth-7")));
    assert!(event["note"].as_str().unwrap().contains("takes 3 of 3 frontends"), "{event}");
    agent.stop().await;
}

#[tokio::test]
async fn without_kubernetes_every_node_logs_its_findings() {
    let cluster = Cluster::of_nodes(0);
    let agent = cluster.agent(0, None);
    until("a line", || agent.events("logged") == 1).await;
    agent.looks(5).await;
    assert_eq!(agent.events("logged"), 1);
    assert_eq!(agent.count("clustermesh_findings_standing"), 1);
    agent.stop().await;
}
