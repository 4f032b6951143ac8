//! Readers of the admin API cost the merge loop nothing: neither one that takes for ever, nor many that never read what
//! they asked for.

#![allow(clippy::unwrap_used, clippy::panic)]

mod merge_loop;
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use mesh_abi::STATE_ACTIVE;
use mesh_admin::api::{Backend, BackendState, List, Node, Service};
use mesh_model::name::{ClusterId, ClusterName, ServiceName};
use mesh_model::snapshot::{ClusterSnapshot, Condition, Service as LocalService};
use mesh_runtime::{AdminServer, Listen};
use node_agent::admin::answers::{Answers, Unanswered};
use node_agent::admin::routes::{Sources, routes};
use node_agent::datapath::actual::service_key;
use node_agent::datapath::inspect::Inspect;
use node_agent::datapath::maps::Maps;
use node_agent::merge::names_file;
use node_agent::merge::query::Reader;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use merge_loop::{MergeLoop, frontend, snapshot, until};
use support::{INSTANCE, World};

/// Answers about services only when it is let go.
struct Slow {
    reader: Reader,
    asked: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Answers for Slow {
    fn services(&self, only: Option<&ServiceName>) -> Result<Vec<Service>, Unanswered> {
        self.asked.send(()).unwrap();
        self.go.lock().unwrap().recv().unwrap();
        self.reader.services(only)
    }

    fn backends(&self, only: Option<&ServiceName>) -> Result<Vec<Backend>, Unanswered> {
        self.reader.backends(only)
    }

    fn plan(&self) -> Result<Vec<String>, Unanswered> {
        self.reader.plan()
    }
}

fn ask(socket: &std::path::Path, path: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn count(maps: &Maps) -> u32 {
    let entry = maps.services.read_services(&[service_key(&frontend())]).unwrap()[0];
    entry.map_or(0, |entry| entry.groups[0].count)
}

/// Pods that terminate, and a second service for which they count as ready all the same.
fn shared_pods() -> ClusterSnapshot {
    let mut all = snapshot(1..3);
    let names: [ServiceName; 2] = ["ns/svc", "ns/tolerant"].map(|name| name.parse().unwrap());
    let service = all.services[&names[0]].clone();
    let terminating = with_pods(&service, "10.96.0.1", Condition::TERMINATING);
    let ready = with_pods(&service, "10.96.0.2", Condition::READY);
    all.services.extend(names.into_iter().zip([terminating, ready].map(Arc::new)));
    all
}

fn with_pods(service: &LocalService, address: &str, condition: Condition) -> LocalService {
    let mut service = service.clone();
    service.cluster_ips = vec![address.parse().unwrap()];
    for slice in service.slices.values_mut() {
        Arc::make_mut(slice).endpoints.iter_mut().for_each(|endpoint| endpoint.condition = condition);
    }
    service
}

/// States of a service's backends, and how many each group counts as active and as terminating.
fn shown(reader: &Reader, name: &str) -> (Vec<BackendState>, Vec<(usize, usize)>) {
    let name: ServiceName = name.parse().unwrap();
    let states = reader.backends(Some(&name)).unwrap().into_iter().map(|backend| backend.state).collect();
    let frontends = reader.services(Some(&name)).unwrap().remove(0).frontends;
    let groups = frontends.iter().flat_map(|frontend| &frontend.groups);
    (states, groups.map(|group| (group.active, group.terminating)).collect())
}

#[test]
fn a_backend_that_two_services_share_has_the_state_that_each_gives_it() {
    let active = (vec![BackendState::Active; 2], vec![(2, 0)]);
    let terminating = (vec![BackendState::Terminating; 2], vec![(0, 2)]);
    let world = World::new();
    let maps =
        |world: &World| Maps::open_pinned(&world.bpffs, INSTANCE).unwrap().services.contents().unwrap();

    let mut running = MergeLoop::start(&world);
    let reader = running.reader();
    running.hear(snapshot(1..3));
    until("the service is shown", || shown(&reader, "ns/svc") == active);
    running.hear(shared_pods());
    until("they are active for the other service", || shown(&reader, "ns/tolerant") == active);
    until("they terminate for their own", || shown(&reader, "ns/svc") == terminating);
    assert!(
        maps(&world).backends.iter().all(|(_, entry)| entry.state == STATE_ACTIVE),
        "the better one is the kernel's"
    );
    running.hear(snapshot(1..3));
    until("they are active for both again", || shown(&reader, "ns/svc") == active);
    running.hear(shared_pods());
    until("they terminate again", || shown(&reader, "ns/svc") == terminating);
    running.stop();

    let mut next = MergeLoop::start(&world);
    let reader = next.reader();
    next.hear(shared_pods());
    until("the next agent knows too", || shown(&reader, "ns/svc") == terminating);
    assert_eq!(shown(&reader, "ns/tolerant"), active);
    next.stop();
}

#[test]
fn a_restarted_agent_knows_the_names_before_its_source_is_synced() {
    let world = World::new();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("names");
    let named = |reader: &Reader| shown(reader, "ns/svc").0.len();
    let keep = |running: &MergeLoop, reader: &Reader| {
        let token = CancellationToken::new();
        let task = names_file::run(path.clone(), reader.names.clone(), token.clone());
        (token, running.runtime.spawn(task))
    };

    let mut running = MergeLoop::start(&world);
    let reader = running.reader();
    let (token, task) = keep(&running, &reader);
    running.hear(snapshot(1..3));
    until("the service is shown", || named(&reader) == 2);
    until("the names are written", || path.exists());
    token.cancel();
    running.runtime.block_on(task).unwrap();
    running.stop();
    let written = std::fs::read(&path).unwrap();

    // The first one's source stays away, so that the second one has no other names either.
    for _ in 0..2 {
        let mut next = MergeLoop::start(&world);
        let mut reader = next.reader();
        reader.names.earlier = Arc::new(names_file::load(&path, &reader.names.own));
        let (token, task) = keep(&next, &reader);
        assert_eq!(named(&reader), 2);
        let all = reader.services(None).unwrap();
        assert!(all.iter().all(|service| service.service.is_some()), "{all:?}");
        token.cancel();
        next.runtime.block_on(task).unwrap();
        next.stop();
        assert_eq!(std::fs::read(&path).unwrap(), written);
    }
}

#[test]
fn slow_and_many_readers_delay_no_plan() {
    let world = World::new();
    let mut running = MergeLoop::start(&world);
    let maps = Maps::open_pinned(&world.bpffs, INSTANCE).unwrap();
    let ((asked, was_asked), (let_go, go)) = (channel(), channel());
    let slow = Slow { reader: running.reader(), asked, go: Mutex::new(go) };
    let scratch = tempfile::tempdir().unwrap();
    let socket = scratch.path().join("agent.sock");
    let (_, hooks) = watch::channel(Arc::default());
    let (peers, events) = (Arc::new(running.peers.subscribe()), running.events.clone());
    let node = Arc::new(Node {
        cluster: ClusterName::new("hoth").unwrap(),
        cluster_id: ClusterId::new(1).unwrap(),
        node: "hoth-1".into(),
        version: "0.1.0".into(),
    });
    let sources = Sources { node, answers: Arc::new(slow), peers, hooks, events };
    let token = CancellationToken::new();
    let server = running.runtime.block_on(AdminServer::bind(Listen::Unix(socket.clone()))).unwrap();
    let serving = running.runtime.spawn(server.serve(routes(sources), token.clone()));

    running.hear(snapshot(1..3));
    until("the service is in the maps", || count(&maps) == 2);
    // One is being answered and takes for ever; the others wait behind it, and some of them never read a byte.
    let first = ask(&socket, "/v1/services");
    was_asked.recv().unwrap();
    let events = (0..50).map(|_| ask(&socket, "/v1/events?since_unix_us=0"));
    let unread: Vec<_> = events.chain((0..200).map(|_| ask(&socket, "/v1/backends"))).collect();
    for hosts in 3..20 {
        running.hear(snapshot(1..hosts));
        until("the change is in the maps", || count(&maps) == u32::from(hosts) - 1);
    }
    let_go.send(()).unwrap();
    let services: List<Service> = serde_json::from_str(&answer(first)).unwrap();
    let service = &services.items[0];
    assert_eq!(service.service, Some("ns/svc".parse().unwrap()));
    let group = &service.frontends[0].groups[0];
    assert_eq!(
        (group.active, group.cluster.as_ref().unwrap().as_str()),
        (18, "hoth"),
        "what the maps hold now"
    );
    let backends: List<Backend> =
        serde_json::from_str(&answer(ask(&socket, "/v1/backends?service=ns/svc"))).unwrap();
    assert_eq!(backends.items.len(), 18);
    let plan: List<String> = serde_json::from_str(&answer(ask(&socket, "/v1/plan"))).unwrap();
    assert!(plan.items.iter().any(|line| line.starts_with("= backend")), "{plan:?}");
    drop(unread);
    token.cancel();
    running.runtime.block_on(serving).unwrap().unwrap();
    running.stop();
}
