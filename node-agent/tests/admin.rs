//! The admin API over its unix socket: paths, JSON and errors are contracts. What the merge loop would answer is made
//! up; the datapath is not needed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod golden;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use golden::assert_golden;
use mesh_admin::Hook;
use mesh_admin::api::{
    Backend, BackendState, DialledFrontends, Event, Group, HookProgram, HookPrograms, LeftOutCluster, Node,
    Omission, PeerState, Runs, Service, ServiceFrontend, Writes,
};
use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, ClusterName, PortName, ServiceName};
use mesh_model::reason;
use mesh_model::record::Reason;
use mesh_model::snapshot::{Protocol, ServicePort};
use mesh_model::view::{Cut, Excess, PeerSnapshot};
use mesh_peers::PeerFile;
use mesh_runtime::{AdminServer, Listen};
use node_agent::admin::answers::{Answers, Unanswered};
use node_agent::admin::events::Events;
use node_agent::admin::routes::{Sources, routes};
use node_agent::peers::{Link, PeerSet, PeerStatus, Phase};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

/// The API with somebody who answers for the merge loop, or nobody.
struct Api {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    events: Events,
    token: CancellationToken,
}

impl Api {
    async fn serve(answers: bool, peers: PeerSet) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("default").join("agent.sock");
        let (_, peers) = watch::channel(Arc::new(peers));
        let (events, token) = (Events::default(), CancellationToken::new());
        let (_, hooks) = watch::channel(Arc::new(hooks()));
        let answers = Arc::new(Made { up: answers });
        let node = Arc::new(this_node());
        let sources = Sources { node, answers, peers: Arc::new(peers), hooks, events: events.clone() };
        let server = AdminServer::bind(Listen::Unix(socket.clone())).await.unwrap();
        tokio::spawn(server.serve(routes(sources), token.clone()));
        Self { _dir: dir, socket, events, token }
    }

    /// Status line, headers in lower case, and body.
    async fn get(&self, path: &str) -> (String, String, String) {
        let asking = async {
            let mut stream = UnixStream::connect(&self.socket).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = tokio::time::timeout(DEADLINE, asking).await.expect("an answer in time");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let (status, headers) = head.split_once("\r\n").unwrap();
        (status.to_owned(), headers.to_lowercase(), body.to_owned())
    }

    /// A good answer must be what the golden file holds, up to white space.
    async fn assert_golden(&self, path: &str, name: &str) {
        let (status, headers, body) = self.get(path).await;
        assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
        assert!(headers.contains("content-type: application/json"), "{headers}");
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_golden(name, &(serde_json::to_string_pretty(&value).unwrap() + "\n"));
    }

    /// Opens the stream of events.
    async fn stream(&self, parameters: &str) -> Stream {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let request = format!("GET /v1/events{parameters} HTTP/1.1\r\nhost: agent\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut stream = Stream(BufReader::new(stream).lines());
        assert_eq!(stream.line().await, "HTTP/1.1 200 OK");
        let mut headers = Vec::new();
        loop {
            match stream.line().await {
                line if line.is_empty() => break,
                line => headers.push(line.to_lowercase()),
            }
        }
        assert!(headers.contains(&"content-type: application/x-ndjson".to_owned()), "{headers:?}");
        stream
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// Events as they come, one a line.
struct Stream(Lines<BufReader<UnixStream>>);

impl Stream {
    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(DEADLINE, self.0.next_line()).await.expect("a line in time");
        line.unwrap().expect("the stream goes on")
    }

    /// The next event as text; what else HTTP's chunks are made of is skipped.
    async fn event(&mut self) -> String {
        loop {
            match self.line().await {
                line if line.starts_with('{') => return line,
                _ => {}
            }
        }
    }
}

fn cluster(name: &str) -> Option<ClusterName> {
    Some(ClusterName::new(name).unwrap())
}

fn id(id: u64) -> ClusterId {
    ClusterId::new(id).unwrap()
}

fn base() -> ServiceName {
    "default/rebel-base".parse().unwrap()
}

fn services() -> Vec<Service> {
    let group = Group {
        cluster: cluster("hoth"),
        cluster_id: id(2),
        tier: 0,
        weight: 2,
        demoted: false,
        active: 2,
        terminating: 1,
        quarantined: 0,
        connections: 17,
        last_resort: 3,
    };
    let unknown = Group { cluster: None, cluster_id: id(7), tier: 1, demoted: true, ..group };
    let frontend = ServiceFrontend {
        address: "10.102.0.1".parse().unwrap(),
        port: 80,
        protocol: Protocol::Tcp,
        port_name: Some(PortName::new("http").unwrap()),
        plain_ok: true,
        groups: vec![group, unknown],
        refused: None,
        left_out: vec![
            LeftOutCluster { cluster: cluster("endor"), cluster_id: id(3) },
            LeftOutCluster { cluster: None, cluster_id: id(9) },
        ],
    };
    let refused = ServiceFrontend {
        address: "fd10::1".parse().unwrap(),
        protocol: Protocol::Udp,
        port_name: None,
        plain_ok: false,
        groups: Vec::new(),
        left_out: Vec::new(),
        refused: Some("map SLOTS has no room for the group's backends: raise --max-slots".into()),
        ..frontend
    };
    // What a restarted agent finds before its source is synced.
    let nameless = Service { service: None, frontends: vec![refused.clone()], left_out: None };
    vec![nameless, Service { service: Some(base()), frontends: vec![frontend, refused], left_out: None }]
}

fn explained(name: &ServiceName) -> Service {
    let port = ServicePort { name: Some(PortName::new("http").unwrap()), protocol: Protocol::Tcp, port: 80 };
    let mismatch = reason::Omission {
        port: Some(port),
        ..reason::Omission::new(reason::Reason::PortMismatch, "it exposes web 8000/TCP").of(id(2))
    };
    let of_own = reason::Omission::new(reason::Reason::NotGlobal, "annotate it");
    let all = [mismatch, of_own].map(|omission| Omission::new(omission, |_| cluster("hoth")));
    Service { service: Some(name.clone()), frontends: vec![], left_out: Some(all.into()) }
}

fn backends() -> Vec<Backend> {
    let frontend = Frontend { address: "10.102.0.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp };
    let states =
        [BackendState::Active, BackendState::Terminating, BackendState::Quarantined, BackendState::Free];
    let backend = |(index, state): (usize, BackendState)| Backend {
        service: Some(base()),
        frontend,
        cluster: cluster("hoth"),
        cluster_id: id(2),
        address: format!("10.2.0.{index}").parse().unwrap(),
        port: 8080,
        state,
    };
    states.into_iter().enumerate().map(backend).collect()
}

/// Answers that are made up, or nobody who has any.
struct Made {
    up: bool,
}

impl Made {
    fn up<T>(&self, answer: T) -> Result<T, Unanswered> {
        if self.up { Ok(answer) } else { Err(Unanswered::Stopping) }
    }
}

impl Answers for Made {
    fn services(&self, only: Option<&ServiceName>) -> Result<Vec<Service>, Unanswered> {
        self.up(only.map_or_else(services, |name| vec![explained(name)]))
    }

    fn backends(&self, only: Option<&ServiceName>) -> Result<Vec<Backend>, Unanswered> {
        let wanted = |backend: &Backend| only.is_none() || backend.service.as_ref() == only;
        self.up(backends().into_iter().filter(wanted).collect())
    }

    fn plan(&self) -> Result<Vec<String>, Unanswered> {
        let lines = ["backend 1 = 10.2.0.1:8080 active", "service 10.102.0.1:80/TCP = 1 group"];
        self.up(lines.map(ToOwned::to_owned).into())
    }
}

fn peers() -> PeerSet {
    let file = |name: &str, text: &str| {
        Some(Arc::new(PeerFile::parse(&ClusterName::new(name).unwrap(), "x.yaml", text).unwrap()))
    };
    let agreed =
        "endpoints: [\"http://10.1.0.1:2379\", \"http://10.1.0.2:2379\"]\nranges: {pods: [10.1.0.0/16]}\n";
    let synced = PeerStatus {
        file: file("yavin", &format!("id: 1\n{agreed}")),
        file_error: None,
        kept_since: None,
        refused_id: None,
        policy: None,
        link: Link {
            phase: Phase::Following,
            endpoint: Some("http://10.1.0.1:2379".into()),
            revision: Some(42),
            reason: None,
            stale_since: None,
        },
        snapshot: Arc::new(PeerSnapshot {
            synced: true,
            endpoints: 3,
            rejected: BTreeMap::from([(Reason::NotJson, 1), (Reason::AddressRefused, 4)]),
            recent_rejections: vec!["record clustermesh/v1/x: the value is not JSON".into()],
            bytes: 4096,
            cuts: vec![Cut { excess: Excess::Backends, allowed: 65_535, from: Some(base()) }],
            ..PeerSnapshot::default()
        }),
    };
    let lost = PeerStatus {
        file: file("endor", "id: 3\nendpoints: [\"http://10.3.0.1:2379\"]\nranges: declared\n"),
        file_error: Some("peer file endor.yaml: it is empty; what it said before stays".into()),
        kept_since: Some(1_735_689_599),
        link: Link {
            phase: Phase::Lost,
            reason: Some("no endpoint can be reached: http://10.3.0.1:2379: connection refused".into()),
            ..Link::default()
        },
        snapshot: Arc::default(),
        ..synced.clone()
    };
    let refused = PeerStatus {
        file: None,
        file_error: Some("peer file kuat.yaml: it is empty".into()),
        kept_since: None,
        refused_id: Some(id(9)),
        policy: None,
        link: Link::default(),
        snapshot: Arc::default(),
    };
    let named = [("yavin", synced), ("endor", lost), ("kuat", refused)];
    PeerSet {
        claimed: None,
        peers: named.map(|(name, status)| (ClusterName::new(name).unwrap(), status)).into(),
        misnamed: vec![("Not_A_Name.yaml".into(), "its stem is no cluster name".into())],
        problem: None,
    }
}

fn other_program() -> HookProgram {
    HookProgram {
        runs: Runs::Before,
        id: 17,
        name: Some("cil_sock4_connect".into()),
        tag: Some("57cd311f2e27366b".into()),
        cgroup: "/sys/fs/cgroup".into(),
    }
}

fn dialled() -> DialledFrontends {
    let frontend = Frontend { address: "10.102.0.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp };
    DialledFrontends { dialled: 20, taken: 1, examples: vec![frontend] }
}

fn this_node() -> Node {
    let cluster = ClusterName::new("yavin").unwrap();
    Node { cluster, cluster_id: id(1), node: "yavin-1".into(), version: "0.1.0".into() }
}

fn hooks() -> Vec<HookPrograms> {
    let ours = HookProgram {
        runs: Runs::Ours,
        id: 20,
        name: Some("mesh_connect4".into()),
        tag: None,
        ..other_program()
    };
    let untold = HookProgram { runs: Runs::Behind, id: 23, name: None, tag: None, ..other_program() };
    vec![
        HookPrograms {
            hook: Hook::Connect4,
            programs: vec![other_program(), ours.clone(), untold],
            dials: Some(dialled()),
        },
        HookPrograms { hook: Hook::GetPeerName6, programs: vec![ours], dials: None },
    ]
}

/// One of every kind.
fn all_events() -> [Event; 7] {
    [
        Event::MapsWritten {
            at_unix_us: 1_000,
            done_unix_us: 1_250,
            services: vec![base()],
            writes: Writes { backends: 2, slots: 3, services: 1, deleted_services: 0 },
        },
        Event::PeerState {
            at_unix_us: 2_000,
            peer: "yavin".into(),
            state: PeerState::Disconnected,
            reason: Some("the connection broke".into()),
        },
        Event::Adopted { at_unix_us: 3_000, services: 4, backends: 9, damaged: 0 },
        Event::ApplyFailed { at_unix_us: 4_000, reason: "updating map SLOTS".into() },
        Event::Lagged { at_unix_us: 5_000, lost: 12 },
        Event::ForeignProgram {
            at_unix_us: 6_000,
            hook: Hook::Connect4,
            program: other_program(),
            gone: false,
        },
        Event::FrontendsTaken { at_unix_us: 7_000, hook: Hook::Connect4, dials: dialled() },
    ]
}

#[tokio::test]
async fn lists_have_the_shapes_of_the_contract() {
    let api = Api::serve(true, peers()).await;
    api.assert_golden("/v1/node", "node.json").await;
    api.assert_golden("/v1/services", "services.json").await;
    api.assert_golden("/v1/services?service=default/rebel-base", "service.json").await;
    api.assert_golden("/v1/backends", "backends.json").await;
    api.assert_golden("/v1/backends?service=default/rebel-base", "backends.json").await;
    api.assert_golden("/v1/peers", "peers.json").await;
    api.assert_golden("/v1/hooks", "hooks.json").await;
    api.assert_golden("/v1/plan", "plan.json").await;
    let (_, _, none) = api.get("/v1/backends?service=default/other").await;
    assert_eq!(none, r#"{"items":[]}"#);
}

#[tokio::test]
async fn events_are_replayed_from_a_time_on_and_followed() {
    let api = Api::serve(true, PeerSet::default()).await;
    let [first, second, third, rest @ ..] = all_events();
    [first, second, third].into_iter().for_each(|event| api.events.publish(event));
    let mut all = api.stream("?since_unix_us=0").await;
    let mut late = api.stream("?since_unix_us=2000").await;
    let mut new = api.stream("").await;
    rest.into_iter().for_each(|event| api.events.publish(event));
    let mut seen = String::new();
    for _ in 0..7 {
        seen += &(all.event().await + "\n");
    }
    assert_golden("events.ndjson", &seen);
    let lines: Vec<&str> = seen.lines().collect();
    for line in &lines[1..] {
        assert_eq!(late.event().await, *line, "at that time counts");
    }
    for line in &lines[3..] {
        assert_eq!(new.event().await, *line, "only what comes after the question");
    }
    for (line, event) in lines.iter().zip(all_events()) {
        assert_eq!(serde_json::from_str::<Event>(line).unwrap(), event);
    }
}

#[tokio::test]
async fn bad_parameters_are_refused_with_the_reason() {
    let api = Api::serve(true, PeerSet::default()).await;
    for (path, parts) in [
        ("/v1/backends?service=base", ["service must be namespace/name", "empty"]),
        ("/v1/backends?service=", ["service must be namespace/name", "empty"]),
        ("/v1/backends?service=Default/base", ["service must be namespace/name", "lower case"]),
        ("/v1/backends?service=a/b/c", ["service must be namespace/name", "b/c"]),
        ("/v1/events?since_unix_us=yesterday", ["since_unix_us", "invalid digit"]),
        ("/v1/events?since_unix_us=-1", ["since_unix_us", "invalid digit"]),
    ] {
        let (status, _, body) = api.get(path).await;
        assert_eq!(status, "HTTP/1.1 400 Bad Request", "{path}: {body}");
        parts.iter().for_each(|part| assert!(body.contains(part), "{path} does not say {part:?}: {body}"));
    }
    assert_eq!(api.get("/v1/nothing").await.0, "HTTP/1.1 404 Not Found");
}

#[tokio::test]
async fn without_a_merge_loop_the_answer_is_that_the_agent_stops() {
    let api = Api::serve(false, peers()).await;
    for path in ["/v1/services", "/v1/backends", "/v1/plan"] {
        let (status, _, body) = api.get(path).await;
        assert_eq!(
            (status.as_str(), body.as_str()),
            ("HTTP/1.1 503 Service Unavailable", "the agent is stopping\n")
        );
    }
    // Peers need no merge loop.
    api.assert_golden("/v1/peers", "peers.json").await;
}

#[tokio::test]
async fn a_reader_that_goes_does_not_hold_up_others() {
    let api = Api::serve(true, PeerSet::default()).await;
    drop(api.stream("").await);
    let mut stays = api.stream("").await;
    all_events().into_iter().for_each(|event| api.events.publish(event));
    assert!(stays.event().await.contains("maps_written"));
}
