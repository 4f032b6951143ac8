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

/// Folders with what hoth shows, whom it trusts, and what yavin shows.
struct Folders {
    own: PathBuf,
    trust: PathBuf,
    peer: PathBuf,
}

impl Folders {
    fn new(root: &Path) -> Self {
        let (hoth, yavin) = (authority("hoth"), authority("yavin"));
        let own = write(&root.join("own"), &issue(&hoth, Role::Apiserver));
        let peer = write(&root.join("peer"), &issue(&yavin, Role::Agent));
        std::fs::write(peer.join("ca.crt"), hoth.certificate_pem()).unwrap();
        let trust = root.join("trust");
        std::fs::create_dir(&trust).unwrap();
        std::fs::write(trust.join("yavin.crt"), yavin.certificate_pem()).unwrap();
        Self { own, trust, peer }
    }

    fn start(&self, lab: &Lab, port: u16) -> Apiserver {
        let (etcd, address) = (lab.etcd.endpoint().to_string(), format!("127.0.0.1:{port}"));
        let (own, trust) = (self.own.display().to_string(), self.trust.display().to_string());
        let flags = ["--mesh-address", &address, "--mesh-tls-dir", &own, "--mesh-trust-dir", &trust];
        Apiserver::start_with(lab, &[&["--etcd-endpoint", &etcd], &flags[..]].concat())
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
    let (made, trust, port) = (lab.root.join("certificates"), lab.root.join("trust"), free_port());
    std::fs::create_dir(&trust).unwrap();
    let start = || {
        let (etcd, address) = (lab.etcd.endpoint().to_string(), format!("127.0.0.1:{port}"));
        let folders = [made.display().to_string(), trust.display().to_string()];
        let flags = ["--mesh-address", &address, "--certificate-name", "127.0.0.1", "--etcd-endpoint", &etcd];
        let folders = ["--certificates-dir", &folders[0], "--mesh-trust-dir", &folders[1]];
        Apiserver::start_with(&lab, &[&flags[..], &folders[..]].concat())
    };
    let apiserver = start();
    apiserver.until_ready();
    let authority = std::fs::read_to_string(made.join("ca/tls.crt")).unwrap();
    // What an administrator would give to a peer; here the own agents read.
    std::fs::write(trust.join("hoth.crt"), &authority).unwrap();
    let reloaded = "clustermesh_mesh_api_certificate_reloads_total 1";
    wait_until(reloaded, DEADLINE, || apiserver.http("/metrics").contains(reloaded));
    let agents = Folders { own: made.join("apiserver"), trust: trust.clone(), peer: made.join("agent") };
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
fn another_clusters_certificate_is_not_served_with() {
    let lab = Lab::new();
    let folders = Folders::new(&lab.root);
    let output = Apiserver::command(
        &lab,
        &[
            "--etcd-endpoint",
            &lab.etcd.endpoint().to_string(),
            "--mesh-address",
            "127.0.0.1:0",
            "--mesh-tls-dir",
            &folders.peer.display().to_string(),
            "--mesh-trust-dir",
            &folders.trust.display().to_string(),
        ],
    )
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let wanted = "is the certificate of clustermesh://yavin/agent, not of clustermesh://hoth/apiserver";
    assert!(said.contains(wanted), "{said}");
}
