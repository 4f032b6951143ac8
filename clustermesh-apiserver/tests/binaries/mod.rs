//! The real binary, on a folder of manifests and a real etcd.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mesh_kv::testing::{Etcd, wait_until};

pub const DEADLINE: Duration = Duration::from_secs(30);
/// Instances that were started.
static INSTANCES: AtomicUsize = AtomicUsize::new(0);
pub const PREFIX: &str = "clustermesh/v1/";

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub root: PathBuf,
    pub manifests: PathBuf,
    pub etcd: Etcd,
}

impl Lab {
    pub fn new() -> Self {
        Self::with_etcd(&[])
    }

    /// With further arguments for etcd.
    pub fn with_etcd(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let (manifests, etcd) = (root.join("manifests"), Etcd::start_limited(&root, arguments));
        fs::create_dir(&manifests).unwrap();
        Self { dir, root, manifests, etcd }
    }

    pub fn write(&self, file: &str, text: &str) {
        let temporary = self.root.join("temporary");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.manifests.join(file)).unwrap();
    }

    /// Key behind the prefix → (value, mod revision); alive records left out.
    pub fn stands(&self) -> BTreeMap<String, (String, String)> {
        let mut all = BTreeMap::new();
        let keys = self.etcd.ctl(&["get", "--prefix", "--keys-only", PREFIX]);
        for key in keys.lines().filter(|key| !key.is_empty() && !key.contains("/alive/")) {
            let fields = self.etcd.ctl(&["get", "-w", "fields", key]);
            let field = |name: &str| {
                let line = fields.lines().find_map(|line| line.strip_prefix(&format!("{name:?} : ")));
                line.unwrap_or_default().to_owned()
            };
            all.insert(key[PREFIX.len()..].to_owned(), (field("Value"), field("ModRevision")));
        }
        all
    }

    pub fn base_slice(&self) -> String {
        self.etcd.ctl(&[
            "get",
            "--print-value-only",
            "clustermesh/v1/endpoints/hoth/default/rebel-base/rebel-base-x1",
        ])
    }

    /// Lets the exporter that leads write its alive record so many times.
    pub fn beats(&self, count: usize) {
        let counter = || self.etcd.ctl(&["get", "--print-value-only", "clustermesh/v1/alive/hoth"]);
        for _ in 0..count {
            let before = counter();
            wait_until("a beat", DEADLINE, || counter() != before);
        }
    }

    pub fn has(&self, key: &str) -> bool {
        !self.etcd.ctl(&["get", &format!("{PREFIX}{key}")]).is_empty()
    }

    pub fn until_has(&self, key: &str) {
        wait_until(key, DEADLINE, || self.has(key));
    }
}

pub fn service(name: &str, cluster_ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\n  annotations:\n    \
         clustermesh.io/global: \"true\"\nspec:\n  clusterIPs: [{cluster_ip}]\n  clusterIP: {cluster_ip}\n  ports:\n  \
         - {{name: http, port: 80, protocol: TCP}}\n"
    )
}

pub fn slice(service: &str, suffix: &str, addresses: &[&str]) -> String {
    let endpoints: String = addresses
        .iter()
        .map(|address| format!("- addresses: [{address}]\n  conditions: {{ready: true}}\n"))
        .collect();
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-{suffix}\n  namespace: \
         default\n  labels: {{kubernetes.io/service-name: {service}}}\naddressType: IPv4\nports:\n- {{name: http, port: \
         8080, protocol: TCP}}\nendpoints:\n{endpoints}"
    )
}

pub fn base(addresses: &[&str]) -> String {
    service("rebel-base", "10.102.0.1") + &slice("rebel-base", "x1", addresses)
}

pub struct Apiserver {
    pub child: Child,
    admin: String,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Apiserver {
    pub fn start(lab: &Lab) -> Self {
        Self::start_with(lab, &["--etcd-endpoint", &lab.etcd.endpoint().to_string()])
    }

    /// What starts it.
    pub fn command(lab: &Lab, more: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_clustermesh-apiserver")]);
        if !more.contains(&"--cluster-name") {
            command.args(["--cluster-name", "hoth", "--cluster-id", "2", "--pod-cidr", "10.2.0.0/16"]);
            command.args(["--service-cidr", "10.102.0.0/16", "--node-cidr", "192.168.2.0/24"]);
        }
        if !more.contains(&"--source") {
            command.arg("--source").arg(format!("manifests:{}", lab.manifests.display()));
        }
        command.args(["--run-dir", &lab.root.join("run").display().to_string()]);
        if !more.iter().any(|flag| flag.starts_with("--state-dir")) {
            command.args(["--state-dir", &lab.root.join("state").display().to_string()]);
        }
        if !more.contains(&"--instance") {
            // Several on one host need names of their own.
            command.args(["--instance", &INSTANCES.fetch_add(1, Ordering::Relaxed).to_string()]);
        }
        command.args(["--log-format", "json"]).args(more);
        command
    }

    pub fn start_with(lab: &Lab, more: &[&str]) -> Self {
        let mut child = Self::command(lab, more).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut apiserver = Self { child, admin: String::new(), lines, seen: Vec::new() };
        let line = apiserver.line("admin server listens");
        let address = line.split("\"address\":\"").nth(1).and_then(|rest| rest.split('"').next());
        apiserver.admin = address.unwrap().to_owned();
        apiserver
    }

    /// Waits for a log line.
    pub fn line(&mut self, part: &str) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(DEADLINE)
                .unwrap_or_else(|_| panic!("no line {part:?}: {:?}", self.seen));
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    pub fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn until_ready(&self) {
        wait_until("ready", DEADLINE, || self.http("/readyz").starts_with("HTTP/1.1 200"));
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it with SIGTERM. Returns all that it logged as warnings and errors.
    pub fn stop(mut self) -> Vec<String> {
        self.signal("TERM");
        wait_until("stopped", DEADLINE, || self.child.try_wait().unwrap().is_some());
        assert!(self.child.wait().unwrap().success());
        let lines = self.seen.iter().cloned().chain(self.lines.iter());
        lines.filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\"")).collect()
    }
}

impl Drop for Apiserver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub const ALL: [&str; 6] = [
    "clusters/hoth",
    "endpoints/hoth/default/rebel-base/rebel-base-x1",
    "services/hoth/default/rebel-base",
    "synced/hoth/endpoints",
    "synced/hoth/nodes",
    "synced/hoth/services",
];

pub fn keys(all: &BTreeMap<String, (String, String)>) -> Vec<&str> {
    all.keys().map(String::as_str).collect()
}
