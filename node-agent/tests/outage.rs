//! The real agent, started while its API server is away: no connection is taken, or no request is answered. What the maps
//! hold stays and is shown by name; after a restart of the machine, which loses the maps, they hold what was remembered, and
//! what peers say, whose ranges are checked against remembered ones. Once the API server is back, the maps follow.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use mesh_kv::testing::{Etcd, wait_until};
use mesh_source::testing::api::FakeApi;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use support::{INSTANCE, World};

const DEADLINE: Duration = Duration::from_secs(30);
/// Of the own cluster and of the peer.
const BACKENDS: [&str; 2] = ["10.1.0.1", "10.2.0.1"];

fn slice(address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "base-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "base"}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}],
    })
}

fn objects() -> [Value; 4] {
    let annotations = json!({"clustermesh.io/global": "true"});
    let metadata = json!({"name": "base", "namespace": "default", "uid": "uid", "annotations": annotations});
    [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]}}),
        slice(BACKENDS[0]),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
            "spec": {"podCIDRs": ["10.1.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.0/16"]}}),
    ]
}

/// The records of the peer `endor`.
fn write_peer(etcd: &Etcd) {
    let port = json!({"protocol": "TCP", "port": 8080});
    let endpoint = json!({"address": BACKENDS[1]});
    for (key, value) in [
        ("clusters/endor", json!({"schema": 1, "id": 2, "incarnation": "one"})),
        ("services/endor/default/base", json!({"shared": true, "ports": [{"protocol": "TCP", "port": 80}]})),
        ("endpoints/endor/default/base/base-x", json!({"ports": [port], "endpoints": [endpoint]})),
        ("synced/endor/services", json!({"revision": 1})),
        ("synced/endor/endpoints", json!({"revision": 1})),
        ("synced/endor/nodes", json!({"revision": 1})),
    ] {
        etcd.ctl(&["put", &format!("clustermesh/v1/{key}"), &value.to_string()]);
    }
}

/// A node, its API server, and a peer's etcd. The fields end in this order.
struct Lab {
    api: FakeApi,
    etcd: Etcd,
    runtime: Runtime,
    scratch: tempfile::TempDir,
    world: World,
}

impl Lab {
    fn new() -> Self {
        // Threads that begin behind this are in the world's namespace, too.
        let world = World::new();
        let (runtime, scratch) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let api = runtime.block_on(FakeApi::start());
        objects().into_iter().for_each(|object| api.put(object));
        let etcd = Etcd::start(scratch.path());
        write_peer(&etcd);
        let peers = scratch.path().join("peers");
        fs::create_dir(&peers).unwrap();
        let file = format!("id: 2\nendpoints: [\"{}\"]\nranges: {{pods: [10.2.0.0/16]}}\n", etcd.endpoint());
        fs::write(peers.join("endor.yaml"), file).unwrap();
        Self { api, etcd, runtime, scratch, world }
    }

    fn agent(&self) -> Agent {
        let path = |name: &str| self.scratch.path().join(name);
        let log = path("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_node-agent"));
        command.args(["--cluster-name=hoth", "--cluster-id=1", "--node-name=node-1", "--source=kubernetes"]);
        command.arg("--kubeconfig").arg(self.api.kubeconfig()).arg("--peers-dir").arg(path("peers"));
        command.arg("--cgroup-root").arg(&self.world.cgroup).arg("--bpffs").arg(&self.world.bpffs);
        command.arg("--run-dir").arg(path("run")).arg("--state-dir").arg(path("state"));
        command.args(["--instance", INSTANCE, "--admin-address=127.0.0.1:0", "--log-format=json"]);
        command.args(["--max-services=64", "--max-slots=1024", "--max-backends=256", "--max-counters=64"]);
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let agent = Agent { child, socket: path("run").join(INSTANCE).join("agent.sock"), log };
        wait_until("it answers", DEADLINE, || agent.try_ask("/v1/services").is_some());
        agent
    }
}

struct Agent {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    fn try_ask(&self, path: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn ask(&self, path: &str) -> String {
        self.try_ask(path).unwrap_or_default()
    }

    /// Whether the maps lead to these backends of the Service, by name.
    fn shows(&self, backends: [&str; 2]) -> bool {
        let shown = self.ask("/v1/backends");
        self.ask("/v1/services").contains("\"default/base\"")
            && shown.contains("\"default/base\"")
            && backends.iter().all(|address| shown.contains(&format!("\"{address}")))
    }

    fn until_shows(&self, backends: [&str; 2]) {
        if !support::wait_until(DEADLINE, || self.shows(backends)) {
            let log = fs::read_to_string(&self.log).unwrap();
            panic!("never {backends:?}: {}\n{}\n{log}", self.ask("/v1/services"), self.ask("/v1/backends"));
        }
    }

    fn failures(&self) -> u64 {
        let metrics = self.ask("/metrics");
        let line = metrics.lines().find_map(|line| line.strip_prefix("clustermesh_source_failures_total "));
        line.map_or(0, |count| count.trim().parse().unwrap())
    }

    fn stop(mut self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `leaves` takes the API server away, `notices` says whether the agent knows.
fn started_while_away(loses_maps: bool, leaves: fn(&mut FakeApi), notices: fn(&Agent, &FakeApi) -> bool) {
    let mut lab = Lab::new();
    let first = lab.agent();
    first.until_shows(BACKENDS);
    first.stop();
    if loses_maps {
        fs::remove_dir_all(lab.world.bpffs.join("clustermesh")).unwrap();
        fs::remove_dir_all(lab.scratch.path().join("run")).unwrap();
    }

    leaves(&mut lab.api);
    let second = lab.agent();
    second.until_shows(BACKENDS);
    wait_until("noticed", DEADLINE, || {
        assert!(second.shows(BACKENDS));
        notices(&second, &lab.api)
    });
    assert!(second.shows(BACKENDS), "{}", second.ask("/v1/backends"));

    lab.api.put(slice("10.1.0.9"));
    lab.api.behave(|it| it.frozen = false);
    lab.runtime.block_on(lab.api.cut());
    second.until_shows(["10.1.0.9", BACKENDS[1]]);
    wait_until("what is gone goes", DEADLINE, || !second.shows(BACKENDS));
    second.stop();
    assert!(lab.etcd.is_running());
}

#[test]
fn an_api_server_that_takes_no_connection_changes_no_map() {
    started_while_away(false, FakeApi::stop, |second, _| second.failures() > 0);
}

#[test]
fn an_api_server_that_answers_nothing_changes_no_map() {
    started_while_away(false, |api| api.behave(|it| it.frozen = true), |_, api| !api.unanswered().is_empty());
}

#[test]
fn a_machine_that_restarts_meanwhile_serves_what_was_remembered() {
    started_while_away(true, FakeApi::stop, |second, _| second.failures() > 0);
}
