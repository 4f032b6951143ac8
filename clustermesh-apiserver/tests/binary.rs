//! The real binary on a folder of manifests and a real etcd.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mesh_kv::testing::{Ca, Etcd, wait_until};

const DEADLINE: Duration = Duration::from_secs(30);
const PREFIX: &str = "clustermesh/v1/";

struct Lab {
    _dir: tempfile::TempDir,
    root: PathBuf,
    manifests: PathBuf,
    etcd: Etcd,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let (manifests, etcd) = (root.join("manifests"), Etcd::start(&root));
        fs::create_dir(&manifests).unwrap();
        Self { _dir: dir, root, manifests, etcd }
    }

    fn write(&self, file: &str, text: &str) {
        let temporary = self.root.join("temporary");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.manifests.join(file)).unwrap();
    }

    /// Key behind the prefix → (value, mod revision); alive records left out.
    fn stands(&self) -> BTreeMap<String, (String, String)> {
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

    fn base_slice(&self) -> String {
        self.etcd.ctl(&[
            "get",
            "--print-value-only",
            "clustermesh/v1/endpoints/hoth/default/rebel-base/rebel-base-x1",
        ])
    }

    /// Lets the exporter that leads write its alive record so many times.
    fn beats(&self, count: usize) {
        let counter = || self.etcd.ctl(&["get", "--print-value-only", "clustermesh/v1/alive/hoth"]);
        for _ in 0..count {
            let before = counter();
            wait_until("a beat", DEADLINE, || counter() != before);
        }
    }

    fn has(&self, key: &str) -> bool {
        !self.etcd.ctl(&["get", &format!("{PREFIX}{key}")]).is_empty()
    }

    fn until_has(&self, key: &str) {
        wait_until(key, DEADLINE, || self.has(key));
    }
}

fn service(name: &str, cluster_ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\n  annotations:\n    \
         clustermesh.io/global: \"true\"\nspec:\n  clusterIPs: [{cluster_ip}]\n  clusterIP: {cluster_ip}\n  ports:\n  \
         - {{name: http, port: 80, protocol: TCP}}\n"
    )
}

fn slice(service: &str, suffix: &str, addresses: &[&str]) -> String {
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

fn base(addresses: &[&str]) -> String {
    service("rebel-base", "10.102.0.1") + &slice("rebel-base", "x1", addresses)
}

struct Apiserver {
    child: Child,
    admin: String,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Apiserver {
    fn start(lab: &Lab) -> Self {
        Self::start_with(lab, &["--etcd-endpoint", &lab.etcd.endpoint().to_string()])
    }

    fn start_with(lab: &Lab, more: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_clustermesh-apiserver")]);
        command.args(["--cluster-name", "hoth", "--cluster-id", "2", "--pod-cidr", "10.2.0.0/16"]);
        command.args(["--service-cidr", "10.102.0.0/16", "--node-cidr", "192.168.2.0/24"]);
        if !more.contains(&"--source") {
            command.arg("--source").arg(format!("manifests:{}", lab.manifests.display()));
        }
        command.args(["--log-format", "json"]).args(more).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
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
    fn line(&mut self, part: &str) -> String {
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

    fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn until_ready(&self) {
        wait_until("ready", DEADLINE, || self.http("/readyz").starts_with("HTTP/1.1 200"));
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it with SIGTERM. Returns all that it logged as warnings and errors.
    fn stop(mut self) -> Vec<String> {
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

const ALL: [&str; 6] = [
    "clusters/hoth",
    "endpoints/hoth/default/rebel-base/rebel-base-x1",
    "services/hoth/default/rebel-base",
    "synced/hoth/endpoints",
    "synced/hoth/nodes",
    "synced/hoth/services",
];

fn keys(all: &BTreeMap<String, (String, String)>) -> Vec<&str> {
    all.keys().map(String::as_str).collect()
}

#[test]
fn a_manifest_is_exported_and_a_change_touches_only_what_changed() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1", "10.2.0.2"]));
    lab.write("other.yaml", &(service("other", "10.102.0.2") + &slice("other", "x1", &["10.2.0.9"])));
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    let before = lab.stands();
    // One slice changes and one comes, in one file.
    lab.write("base.yaml", &(base(&["10.2.0.1"]) + &slice("rebel-base", "x2", &["10.2.0.3"])));
    lab.until_has("endpoints/hoth/default/rebel-base/rebel-base-x2");
    let after = lab.stands();
    let changed: Vec<&String> = after.keys().filter(|key| before.get(*key) != after.get(*key)).collect();
    assert_eq!(
        changed,
        [
            "endpoints/hoth/default/rebel-base/rebel-base-x1",
            "endpoints/hoth/default/rebel-base/rebel-base-x2"
        ]
    );
    assert_eq!(after[changed[0]].1, after[changed[1]].1, "both in one transaction");
    let metrics = apiserver.http("/metrics");
    for name in ["clustermesh_export_passes_total", "clustermesh_export_records{kind=\"endpoints\"} 3"] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    assert_eq!(apiserver.stop(), Vec::<String>::new());
    let stopped = lab.stands();
    assert_eq!(stopped, after, "to stop is not to leave");
}

#[test]
fn a_missing_folder_prunes_nothing_and_its_return_prunes_leftovers() {
    let lab = Lab::new();
    fs::remove_dir(&lab.manifests).unwrap();
    lab.etcd.ctl(&["put", "clustermesh/v1/services/hoth/default/leftover", "{}"]);
    let apiserver = Apiserver::start(&lab);
    lab.until_has("alive/hoth");
    assert!(apiserver.http("/readyz").contains("first full list"));
    assert!(lab.has("services/hoth/default/leftover"));
    assert!(!lab.has("synced/hoth/services"));
    fs::create_dir(&lab.manifests).unwrap();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    apiserver.until_ready();
    assert_eq!(keys(&lab.stands()), ALL);
}

#[test]
fn a_manifest_broken_at_the_start_prunes_nothing() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    apiserver.stop();
    lab.write("base.yaml", "kind: [");
    let apiserver = Apiserver::start(&lab);
    lab.until_has("alive/hoth");
    // Whatever it makes of the broken file, several beats later everything still stands.
    lab.beats(2);
    assert_eq!(keys(&lab.stands()), ALL);
    lab.write("base.yaml", &base(&["10.2.0.2"]));
    apiserver.until_ready();
    assert_eq!(keys(&lab.stands()), ALL);
}

#[test]
fn a_wiped_etcd_is_written_anew() {
    let mut lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    lab.etcd.wipe();
    lab.until_has("synced/hoth/nodes");
    assert_eq!(keys(&lab.stands()), ALL);
    let warnings = apiserver.stop();
    assert!(warnings.iter().any(|line| line.contains("not publishing; trying again")), "{warnings:?}");
}

#[test]
fn a_killed_exporter_continues_without_rewriting() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    let before = lab.stands();
    apiserver.kill();
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    assert_eq!(lab.stands(), before);
    lab.write("base.yaml", &(base(&["10.2.0.1"]) + &slice("rebel-base", "x2", &["10.2.0.3"])));
    lab.until_has("endpoints/hoth/default/rebel-base/rebel-base-x2");
}

#[test]
fn an_exporter_that_froze_and_was_replaced_writes_nothing_when_it_thaws() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let mut first = Apiserver::start(&lab);
    first.until_ready();
    let other = lab.root.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("base.yaml"), base(&["10.2.0.2"])).unwrap();
    let (source, endpoint) = (format!("manifests:{}", other.display()), lab.etcd.endpoint().to_string());
    let mut second = Apiserver::start_with(&lab, &["--source", &source, "--etcd-endpoint", &endpoint]);
    second.line("standing by");
    first.signal("STOP");
    wait_until("replaced", DEADLINE, || lab.base_slice().contains("10.2.0.2"));
    lab.write("base.yaml", &base(&["10.2.0.3"]));
    first.signal("CONT");
    first.line("standing by");
    lab.beats(2);
    assert!(lab.base_slice().contains("10.2.0.2"), "{}", lab.base_slice());
    // Once the second goes, the first has its say.
    second.stop();
    wait_until("replaced again", DEADLINE, || lab.base_slice().contains("10.2.0.3"));
}

#[test]
fn etcd_is_reached_over_mutual_tls() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("tls");
    Ca::new("hoth").issue("etcd", &tls);
    let manifests = dir.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let etcd = Etcd::start_tls(dir.path(), &tls);
    let lab = Lab { root: dir.path().to_owned(), _dir: dir, manifests, etcd };
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let (endpoint, tls) = (lab.etcd.endpoint().to_string(), tls.display().to_string());
    let apiserver = Apiserver::start_with(&lab, &["--etcd-endpoint", &endpoint, "--etcd-tls-dir", &tls]);
    apiserver.until_ready();
    assert_eq!(keys(&lab.stands()), ALL);
}

#[test]
fn a_bad_command_line_says_what_to_do() {
    let refused = |arguments: &[&str]| {
        let output = Command::new(Path::new(env!("CARGO_BIN_EXE_clustermesh-apiserver")))
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&[]).contains("--etcd-endpoint"));
    let base =
        ["--cluster-name", "hoth", "--cluster-id", "2", "--source", "manifests:/nowhere", "--etcd-endpoint"];
    let with = |endpoint: &'static str| refused(&[&base[..], &[endpoint]].concat());
    assert!(with("https://etcd").contains("--etcd-tls-dir is needed"));
    assert!(with("etcd:2379").contains("write https://HOST:PORT"));
}
