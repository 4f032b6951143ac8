//! The two servers: an etcd with TLS, and the product's apiserver in front of another etcd that holds the same.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_trust::{Authority, Lifetime, Role};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{ClientConfig, RootCertStore};

use super::super::agent::process_bytes;
use super::super::data_set::{DataSet, Shape};
use super::super::store::Store;
use crate::lab::http::{self, Door};
use crate::lab::lab_dir::LabDir;
use crate::lab::netns::Netns;
use crate::lab::process::{Launch, Process, Program};
use crate::wait;

const HOST: &str = "127.0.0.1";
const ADMIN_PORT: u16 = 9101;
const PLAIN_PORT: u16 = 2379;
const TLS_PORT: u16 = 2378;
const MESH_PORT: u16 = 2443;
const SHAPE: Shape = Shape { services: 100, backends: 10 };
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Served,
    Etcd,
}

/// Where servers run, one at a time.
pub(super) struct World {
    pub(super) netns: Netns,
    pub(super) data_set: DataSet,
    certificates: PathBuf,
    tls: Arc<ClientConfig>,
    lab_dir: Arc<LabDir>,
}

/// Dropped in the order of the fields.
pub(super) struct Server {
    /// The one that is measured stands last.
    processes: Vec<Process>,
    measured: Launch,
    pub(super) store: Store,
    pub(super) address: SocketAddr,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) netns: String,
}

impl World {
    pub(super) fn new() -> Result<Self> {
        let lab_dir = LabDir::claim(false)?;
        let netns = Netns::create(&lab_dir, "servers")?;
        let data_set = DataSet::new(0, SHAPE)?;
        let certificates = lab_dir.path().join("certificates");
        let authority = Authority::new(data_set.name(), UnixTime::now())?;
        for (folder, role) in [("server", Role::Apiserver), ("client", Role::Agent)] {
            let lifetime = Lifetime::starting(UnixTime::now(), Duration::from_secs(86_400));
            let issued = authority.issue(role, &[HOST.to_owned()], lifetime)?;
            let folder = certificates.join(folder);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("ca.crt"), authority.certificate_pem())?;
            fs::write(folder.join("tls.crt"), issued.certificate_pem)?;
            fs::write(folder.join("tls.key"), issued.key_pem)?;
        }
        let tls = Arc::new(client_config(&certificates.join("client"))?);
        Ok(Self { netns, data_set, certificates, tls, lab_dir })
    }

    /// A new one, filled, with nobody connected.
    pub(super) fn server(&self, kind: Kind) -> Result<Server> {
        let store = Store { endpoint: format!("http://{HOST}:{PLAIN_PORT}") };
        let etcd = self.etcd()?;
        let mut processes = vec![etcd.start(&self.lab_dir)?];
        self.wait(&mut processes[0], PLAIN_PORT, "/health")?;
        store.fill(&self.netns, &self.data_set)?;
        let (measured, port) = match kind {
            Kind::Etcd => (etcd, TLS_PORT),
            Kind::Served => {
                let launch = self.apiserver()?;
                let mut process = launch.start(&self.lab_dir)?;
                let serves = format!("clustermesh_mesh_api_records {}", 2 * SHAPE.services + 5);
                self.wait_for(&mut process, ADMIN_PORT, "/metrics", &serves)?;
                processes.insert(0, process);
                (launch, MESH_PORT)
            }
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Server {
            processes,
            measured,
            store,
            address,
            tls: self.tls.clone(),
            netns: self.netns.name().to_owned(),
        })
    }

    fn etcd(&self) -> Result<Launch> {
        let data = self.lab_dir.path().join("etcd-data");
        // Whatever an earlier one held.
        let _ = fs::remove_dir_all(&data);
        let server = self.certificates.join("server");
        let args = [
            "--name=bench".to_owned(),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls=http://{HOST}:{PLAIN_PORT},https://{HOST}:{TLS_PORT}"),
            format!("--advertise-client-urls=https://{HOST}:{TLS_PORT}"),
            "--client-cert-auth".into(),
            format!("--trusted-ca-file={}", server.join("ca.crt").display()),
            format!("--cert-file={}", server.join("tls.crt").display()),
            format!("--key-file={}", server.join("tls.key").display()),
            format!("--listen-peer-urls=http://{HOST}:2380"),
            format!("--initial-advertise-peer-urls=http://{HOST}:2380"),
            format!("--initial-cluster=bench=http://{HOST}:2380"),
            // Nothing of this is about disks.
            "--unsafe-no-fsync".into(),
            "--log-level=error".into(),
            "--logger=zap".into(),
            "--log-outputs=stderr".into(),
        ];
        self.launch("etcd", Program::Installed("etcd"), &args)
    }

    fn apiserver(&self) -> Result<Launch> {
        // Of an empty folder nothing is known, so it never leads: it only serves.
        let manifests = self.lab_dir.path().join("no-manifests");
        let peers = self.lab_dir.path().join("no-peers");
        fs::create_dir_all(&manifests)?;
        fs::create_dir_all(&peers)?;
        let args = [
            format!("--cluster-name={}", self.data_set.name()),
            "--cluster-id=2".into(),
            format!("--source=manifests:{}", manifests.display()),
            "--pod-cidr=10.1.0.0/16".into(),
            "--service-cidr=10.96.0.0/16".into(),
            "--node-cidr=192.168.1.0/24".into(),
            format!("--etcd-endpoint=http://{HOST}:{PLAIN_PORT}"),
            format!("--admin-address={HOST}:{ADMIN_PORT}"),
            format!("--mesh-address={HOST}:{MESH_PORT}"),
            format!("--mesh-tls-dir={}", self.certificates.join("server").display()),
            format!("--peers-dir={}", peers.display()),
            format!("--state-dir={}", self.lab_dir.path().join("state").display()),
            format!("--run-dir={}", self.lab_dir.path().join("run").display()),
        ];
        self.launch("apiserver", Program::Ours("clustermesh-apiserver"), &args)
    }

    fn launch(&self, name: &str, program: Program, args: &[String]) -> Result<Launch> {
        let cgroup = self.lab_dir.cgroup()?.child(name);
        let netns = self.netns.name().to_owned();
        Ok(Launch { name: name.into(), program, args: args.to_vec(), netns, cgroup })
    }

    fn wait(&self, process: &mut Process, port: u16, path: &'static str) -> Result<()> {
        self.wait_for(process, port, path, "")
    }

    fn wait_for(&self, process: &mut Process, port: u16, path: &'static str, text: &str) -> Result<()> {
        let door = Door::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        let answers = || {
            let door = door.clone();
            let answer = self.netns.enter(move || http::fetch(&door, path))?;
            ensure!(answer.contains(text), "no {text} in {answer}");
            Ok(())
        };
        wait::until_or("a server to answer", PATIENCE, || process.check(), answers)
    }
}

impl Server {
    pub(super) fn cpu_us(&self) -> Result<f64> {
        self.measured.cgroup.cpu_us()
    }

    pub(super) fn heap_bytes(&self) -> Result<f64> {
        let path = self.measured.cgroup.path().join("cgroup.procs");
        let pids = fs::read_to_string(path).context("the server's cgroup")?;
        process_bytes(pids.lines().next().context("the server has ended")?, "RssAnon:")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in self.processes.drain(..) {
            if let Err(error) = process.kill() {
                eprintln!("bench: {error:#}");
            }
        }
    }
}

fn client_config(folder: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.crt"))?)?;
    let chain = vec![CertificateDer::from_pem_file(folder.join("tls.crt"))?];
    let key = PrivateKeyDer::from_pem_file(folder.join("tls.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
