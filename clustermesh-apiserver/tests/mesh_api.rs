//! The mesh API of the real binary, as a peer's etcdctl reads it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod binaries;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use binaries::{Apiserver, DEADLINE, Lab, PREFIX, base};
use etcd_client::{Client, WatchOptions};
use futures::future::FutureExt;
use hyper_util::rt::TokioIo;
use mesh_kv::testing::{free_port, wait_until};
use mesh_model::name::ClusterName;
use mesh_trust::{Authority, Issued, Lifetime, Role};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn authority(name: &str) -> Authority {
    Authority::new(&ClusterName::new(name).unwrap(), UnixTime::now()).unwrap()
}

fn issue(authority: &Authority, role: Role) -> Issued {
    let lifetime = Lifetime::starting(UnixTime::now(), Duration::from_secs(3600));
    authority.issue(role, &["127.0.0.1".to_owned()], lifetime).unwrap()
}

fn write(folder: &Path, issued: &Issued) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("tls.crt"), &issued.certificate_pem).unwrap();
    std::fs::write(folder.join("tls.key"), &issued.key_pem).unwrap();
    folder.to_owned()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in ["tls.crt", "tls.key"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

/// Folders with what hoth shows, its peers' files, and what yavin shows.
struct Folders {
    own: PathBuf,
    peers: PathBuf,
    peer: PathBuf,
    state: PathBuf,
}

/// The file of a peer of whom only the trust matters.
fn write_peer(folder: &Path, name: &str, trust: &str) {
    let ranges = serde_json::json!({"pods": ["10.1.0.0/16"]});
    let endpoints = ["https://192.0.2.1:2379"];
    let file = serde_json::json!({"id": 1, "endpoints": endpoints, "ranges": ranges, "trust": trust});
    let staged = folder.join(".staged");
    std::fs::write(&staged, file.to_string()).unwrap();
    std::fs::rename(staged, folder.join(format!("{name}.yaml"))).unwrap();
}

impl Folders {
    fn new(root: &Path) -> Self {
        let (hoth, yavin) = (authority("hoth"), authority("yavin"));
        let own = write(&root.join("own"), &issue(&hoth, Role::Apiserver));
        let peer = write(&root.join("peer"), &issue(&yavin, Role::Agent));
        std::fs::write(peer.join("ca.crt"), hoth.certificate_pem()).unwrap();
        let (peers, state) = (root.join("peers"), root.join("state"));
        std::fs::create_dir(&peers).unwrap();
        write_peer(&peers, "yavin", yavin.certificate_pem());
        Self { own, peers, peer, state }
    }

    fn flags(&self) -> Vec<String> {
        [("mesh-tls-dir", &self.own), ("peers-dir", &self.peers), ("state-dir", &self.state)]
            .map(|(flag, folder)| format!("--{flag}={}", folder.display()))
            .into()
    }

    fn start(&self, lab: &Lab, port: u16) -> Apiserver {
        let (etcd, address) = (lab.etcd.endpoint().to_string(), format!("127.0.0.1:{port}"));
        let flags = self.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let more = ["--etcd-endpoint", &etcd, "--mesh-address", &address];
        Apiserver::start_with(lab, &[&more[..], &flags].concat())
    }

    /// What yavin reads there.
    fn read(&self, port: u16, key: &str) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &format!("https://127.0.0.1:{port}")]);
        command.arg("--cacert").arg(self.peer.join("ca.crt"));
        command.arg("--cert").arg(self.peer.join("tls.crt")).arg("--key").arg(self.peer.join("tls.key"));
        let output = command.args(["get", "--prefix", "--keys-only", key]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn leader_and_standby_serve_what_the_leader_writes() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let folders = Folders::new(&lab.root);
    let ports = [free_port(), free_port()];
    let leader = folders.start(&lab, ports[0]);
    leader.until_ready();
    let standby = folders.start(&lab, ports[1]);
    let slice = "endpoints/hoth/default/rebel-base/rebel-base-x1";
    for port in ports {
        wait_until(slice, DEADLINE, || folders.read(port, PREFIX).contains(slice));
        assert_eq!(folders.read(port, "clustermesh/leader/"), "", "no peer's business");
    }
    assert!(leader.http("/metrics").contains("clustermesh_mesh_api_etcd_connected 1"));
    assert_eq!(standby.stop(), Vec::<String>::new());
    assert_eq!(leader.stop(), Vec::<String>::new());
}

/// A connection of yavin's.
fn connect(folders: &Folders, port: u16) -> Client {
    let certificate = |name: &str| CertificateDer::from_pem_file(folders.peer.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folders.peer.join("tls.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate("tls.crt")], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let dial = tower::service_fn(move |_: tonic::transport::Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            let name = ServerName::try_from("127.0.0.1").unwrap();
            std::io::Result::Ok(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://mesh").connect_with_connector_lazy(dial);
    let client = Client::from_channel(etcd_client::Channel::Tonic(endpoint), None).now_or_never();
    client.expect("without a user nothing is sent").unwrap()
}

/// Memory that a process has in use, in bytes.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_streams_cost_little_memory() {
    const CONNECTIONS: usize = 20;
    const STREAMS: usize = 200;
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let (folders, port) = (Folders::new(&lab.root), free_port());
    let apiserver = folders.start(&lab, port);
    apiserver.until_ready();
    let before = resident(apiserver.child.id());
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| connect(&folders, port)).collect();
    for client in &clients {
        client.kv_client().get("none", None).await.unwrap();
    }
    let connected = resident(apiserver.child.id());
    let mut streams = Vec::new();
    for client in &clients {
        for _ in 0..STREAMS {
            let options = WatchOptions::new().with_prefix();
            let mut stream =
                client.watch_client().watch("clustermesh/v1/services/", Some(options)).await.unwrap();
            assert!(stream.message().await.unwrap().unwrap().created());
            streams.push(stream);
        }
    }
    let per_connection = connected.saturating_sub(before) / CONNECTIONS;
    let per_stream = resident(apiserver.child.id()).saturating_sub(connected) / streams.len();
    println!("{per_connection} bytes a connection, {per_stream} bytes an idle stream");
    assert!(per_stream <= 20 << 10, "{per_stream} bytes an idle stream");
    // All of them hear of a change.
    lab.write("base.yaml", &base(&["10.2.0.1"]).replace("port: 80,", "port: 81,"));
    for stream in &mut streams {
        assert_eq!(stream.message().await.unwrap().unwrap().events().len(), 1);
    }
}

#[test]
fn certificates_make_themselves_and_outlive_a_restart() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let (made, port) = (lab.root.join("certificates"), free_port());
    let agents = Folders {
        own: made.join("apiserver"),
        peers: lab.root.join("peers"),
        peer: made.join("agent"),
        state: lab.root.join("state"),
    };
    std::fs::create_dir(&agents.peers).unwrap();
    let start = || {
        let (etcd, address) = (lab.etcd.endpoint().to_string(), format!("127.0.0.1:{port}"));
        let folders =
            [("certificates-dir", &made), ("peers-dir", &agents.peers), ("state-dir", &agents.state)];
        let folders = folders.map(|(flag, folder)| format!("--{flag}={}", folder.display()));
        let flags = ["--mesh-address", &address, "--certificate-name", "127.0.0.1", "--etcd-endpoint", &etcd];
        let folders = folders.each_ref().map(String::as_str);
        Apiserver::start_with(&lab, &[&flags[..], &folders[..]].concat())
    };
    let apiserver = start();
    apiserver.until_ready();
    let authority = std::fs::read_to_string(made.join("ca/tls.crt")).unwrap();
    let slice = "endpoints/hoth/default/rebel-base/rebel-base-x1";
    wait_until(slice, DEADLINE, || agents.read(port, PREFIX).contains(slice));
    assert_eq!(apiserver.stop(), Vec::<String>::new());
    let again = start();
    again.until_ready();
    assert_eq!(std::fs::read_to_string(made.join("ca/tls.crt")).unwrap(), authority);
    wait_until(slice, DEADLINE, || agents.read(port, PREFIX).contains(slice));
    assert!(again.http("/metrics").contains("clustermesh_certificates_issued_total{holder=\"agent\"} 0"));
    assert_eq!(again.stop(), Vec::<String>::new());
}

#[test]
fn another_clusters_certificate_is_not_served_with_and_can_be_put_right_meanwhile() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let mut folders = Folders::new(&lab.root);
    let (right, port) = (folders.own.clone(), free_port());
    folders.own = lab.root.join("shown");
    copy(&folders.peer, &folders.own);
    let apiserver = folders.start(&lab, port);
    let wanted = "is the certificate of clustermesh://yavin/agent, not of clustermesh://hoth/apiserver";
    wait_until(wanted, DEADLINE, || apiserver.http("/readyz").contains(wanted));
    let slice = "endpoints/hoth/default/rebel-base/rebel-base-x1";
    // It exports all the same.
    lab.until_has(slice);
    assert_eq!(folders.read(port, PREFIX), "", "nobody is let in");
    copy(&right, &folders.own);
    wait_until(slice, DEADLINE, || folders.read(port, PREFIX).contains(slice));
    let said = apiserver.stop().concat();
    assert!(said.contains("before its certificate can be used"), "{said}");
}

#[test]
fn a_restart_while_a_peer_file_is_broken_keeps_its_last_good_trust() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let (folders, port) = (Folders::new(&lab.root), free_port());
    let slice = "endpoints/hoth/default/rebel-base/rebel-base-x1";
    let before = folders.start(&lab, port);
    wait_until(slice, DEADLINE, || folders.read(port, PREFIX).contains(slice));
    write_peer(&folders.peers, "yavin", "broken");
    let kept = r#"clustermesh_peer_file_kept_since_seconds{peer="yavin"} 1"#;
    wait_until(kept, DEADLINE, || before.http("/metrics").contains(kept));
    assert!(folders.read(port, PREFIX).contains(slice), "whom it trusted is let in again and again");
    let said = before.stop().concat();
    assert!(said.contains("peer file refused; what it said before stays"), "{said}");
    let after = folders.start(&lab, port);
    wait_until(slice, DEADLINE, || folders.read(port, PREFIX).contains(slice));
    wait_until("it is told", DEADLINE, || after.http("/readyz").contains("what it said before 20"));
    // Nobody knows what an unreadable folder holds.
    let aside = lab.root.join("aside");
    std::fs::rename(&folders.peers, &aside).unwrap();
    after.signal("KILL");
    drop(after);
    let blind = folders.start(&lab, port);
    wait_until(slice, DEADLINE, || folders.read(port, PREFIX).contains(slice));
    // A file that is gone from a folder that can be read shuts its peer out.
    std::fs::remove_file(aside.join("yavin.yaml")).unwrap();
    std::fs::rename(&aside, &folders.peers).unwrap();
    let shut_out = "refused_certificates_total{reason=\"unknown_cluster\"} ";
    wait_until("yavin is shut out", DEADLINE, || {
        folders.read(port, PREFIX).is_empty()
            && blind.http("/metrics").lines().any(|line| line.contains(shut_out) && !line.ends_with(" 0"))
    });
}
