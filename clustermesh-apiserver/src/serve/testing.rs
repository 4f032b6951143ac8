//! Fixtures: replicas that serve an etcd over TLS, and clients of theirs.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::Client;
use futures::future::FutureExt;
use hyper_util::rt::TokioIo;
use mesh_kv::testing::{Ca, Etcd};
use mesh_kv::{Dialer, EtcdEndpoint, RawWatch, Tls};
use mesh_model::name::ClusterName;
use mesh_runtime::{Readiness, Registry, StateFile};
use mesh_trust::{Authority, Certificate, Issued, Lifetime, Role};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::cache::Window;
use super::feed::{FOLLOWED, Feed, Snapshots};
use super::listener::Listener;
use super::metrics::ServeMetrics;
use super::reload::Reload;
use super::rpc::{Budget, Served};
use super::tls::{Judgement, OwnFiles};
use super::view::Scope;
use crate::peers::{PeerFiles, PeerMetrics, PeersConfig};

pub(super) const DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

/// Certificates of hoth, which serves, and of yavin and endor, which read.
pub(super) struct Certificates {
    dir: tempfile::TempDir,
    hoth: Authority,
    yavin: Authority,
}

impl Certificates {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [hoth, yavin, endor] =
            ["hoth", "yavin", "endor"].map(|name| Authority::new(&cluster(name), UnixTime::now()).unwrap());
        let certificates = Self { dir, hoth, yavin };
        std::fs::create_dir(certificates.peers()).unwrap();
        certificates.trust_in("yavin", certificates.yavin.certificate_pem());
        certificates.trust_in("endor", endor.certificate_pem());
        certificates.renew();
        certificates.write("yavin", &certificates.yavin.issue(Role::Agent, &[], lifetime()).unwrap());
        certificates.write("endor", &endor.issue(Role::Agent, &[], lifetime()).unwrap());
        let forger = Authority::new(&cluster("yavin"), UnixTime::now()).unwrap();
        certificates.write("forger", &forger.issue(Role::Agent, &[], lifetime()).unwrap());
        certificates
    }

    /// Gives hoth's server another certificate, for clients of etcd.
    pub(super) fn renew(&self) {
        self.renew_for(&["127.0.0.1".to_owned()]);
    }

    /// The same with these names.
    pub(super) fn renew_for(&self, names: &[String]) {
        self.write("hoth", &self.hoth.issue(Role::Apiserver, names, lifetime()).unwrap());
    }

    /// Says in its peer file whose roots count for a cluster.
    pub(super) fn trust_in(&self, cluster: &str, bundle: &str) {
        let id = 10 + u64::from(cluster.as_bytes()[0]);
        let file = serde_json::json!({"id": id, "endpoints": ["https://192.0.2.1:2379"], "ranges": "declared", "trust": bundle});
        self.write_peer(cluster, &file.to_string());
    }

    /// The text of a peer's file.
    pub(super) fn write_peer(&self, cluster: &str, text: &str) {
        let staged = self.dir.path().join("staged");
        std::fs::write(&staged, text).unwrap();
        std::fs::rename(staged, self.peers().join(format!("{cluster}.yaml"))).unwrap();
    }

    /// The cluster is no peer any more.
    pub(super) fn forget(&self, cluster: &str) {
        std::fs::remove_file(self.peers().join(format!("{cluster}.yaml"))).unwrap();
    }

    /// Another cluster takes a peer's place, with the same id and trust.
    pub(super) fn rename(&self, from: &str, to: &str) {
        let path = |name: &str| self.peers().join(format!("{name}.yaml"));
        std::fs::rename(path(from), path(to)).unwrap();
    }

    /// A peer that was installed before there were identities: it has an authority, and a certificate that names nobody.
    pub(super) fn nameless(&self, cluster: &str) {
        let (authority, folder) = (Ca::new(cluster), self.folder(cluster));
        authority.issue("agent", &folder);
        std::fs::write(folder.join("authority.crt"), authority.pem()).unwrap();
        std::fs::write(folder.join("ca.crt"), self.hoth.certificate_pem()).unwrap();
        self.trust_in(cluster, authority.pem());
    }

    /// What hoth's server shows can't be read any more.
    pub(super) fn break_own(&self) {
        std::fs::write(self.folder("hoth").join("tls.crt"), "broken").unwrap();
    }

    /// Yavin takes its agent's certificate back.
    pub(super) fn revoke(&self) {
        let held = CertificateDer::from_pem_file(self.folder("yavin").join("tls.crt")).unwrap();
        let serial = Certificate::read(&held).unwrap().serial;
        let list = self.yavin.revoke(&[serial], 1, lifetime()).unwrap();
        self.trust_in("yavin", &format!("{}{list}", self.yavin.certificate_pem()));
    }

    /// In one step, as a mounted Secret changes: the folder is a link.
    fn write(&self, name: &str, issued: &Issued) {
        let target = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        std::fs::write(target.join("ca.crt"), self.hoth.certificate_pem()).unwrap();
        std::fs::write(target.join("tls.crt"), &issued.certificate_pem).unwrap();
        std::fs::write(target.join("tls.key"), &issued.key_pem).unwrap();
        let staged = self.dir.path().join("staged");
        std::os::unix::fs::symlink(target, &staged).unwrap();
        std::fs::rename(staged, self.folder(name)).unwrap();
    }

    /// A folder with `ca.crt`, `tls.crt`, `tls.key`, as etcd's clients want them: of `hoth`, `yavin`, `endor`
    /// or `forger`.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn peers(&self) -> PathBuf {
        self.dir.path().join("peers")
    }

    fn peer_files(&self, metrics: PeerMetrics) -> PeerFiles {
        let memory = StateFile::new(self.dir.path().join("state"), 1, "hoth");
        let own_id = "2".parse().unwrap();
        let config = PeersConfig { folder: self.peers(), own_name: cluster("hoth"), own_id, memory };
        PeerFiles::start(config, metrics)
    }
}

fn lifetime() -> Lifetime {
    Lifetime::starting(UnixTime::now(), Duration::from_secs(3600))
}

/// A server of an etcd's records. Ends with the test.
pub(super) struct Replica {
    pub(super) address: SocketAddr,
    pub(super) feed: Arc<Mutex<Feed>>,
    pub(super) snapshots: Snapshots,
    registry: Registry,
    token: CancellationToken,
}

impl Replica {
    pub(super) async fn start(
        etcd: &Etcd,
        certificates: &Certificates,
        scope: Scope,
        window: Window,
    ) -> Self {
        let mut registry = Registry::new("test", "0");
        let metrics = ServeMetrics::register(registry.root());
        let (token, hoth) = (CancellationToken::new(), cluster("hoth"));
        let condition = Readiness::default().condition("mesh-api", "");
        let feed = Feed::new(&hoth, scope, window, condition, metrics.clone());
        let snapshots = feed.snapshots();
        let counted = metrics.clone();
        let refused = Arc::new(move |refusal: &mesh_trust::Refusal| counted.refused(refusal.reason()));
        let shown = Readiness::default().condition("certificates", "");
        let peers = certificates.peer_files(PeerMetrics::register(registry.root()));
        let files = (OwnFiles(certificates.folder("hoth")), peers.known());
        let judgement = Judgement { cluster: hoth.clone(), requires_identity: false, refused };
        let reload = Reload::start(files, judgement, shown, metrics.clone());
        tokio::spawn(peers.run(token.clone()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Served {
            snapshots: snapshots.clone(),
            heard: feed.heard(),
            member_id: 7,
            metrics,
            budget: Budget::new(1 << 20, Duration::from_millis(300)),
            progress_every: Duration::from_millis(200),
            token: token.clone(),
        };
        let admission = reload.admission();
        tokio::spawn(reload.run(token.clone()));
        tokio::spawn(Listener { listener, cluster: hoth.clone(), admission, served: Arc::new(served) }.run());
        let feed = Arc::new(Mutex::new(feed));
        let dialer = Arc::new(Dialer::new(vec![etcd.endpoint()], None).unwrap());
        let sink = Arc::clone(&feed);
        let raw = RawWatch::new(dialer, &hoth, FOLLOWED);
        tokio::spawn(raw.run(token.clone(), move |event| sink.lock().unwrap().take(event)));
        Self { address, feed, snapshots, registry, token }
    }

    /// What an apiserver of hoth serves.
    pub(super) async fn of_hoth(etcd: &Etcd, certificates: &Certificates) -> Self {
        Self::start(etcd, certificates, Scope::of_cluster(&cluster("hoth")), Window::default()).await
    }

    /// Waits until it serves this revision.
    pub(super) async fn reach(&mut self, revision: i64) {
        let reached = self.snapshots.wait_for(|snapshot| {
            snapshot.as_ref().is_some_and(|snapshot| snapshot.cache.revision() >= revision)
        });
        tokio::time::timeout(DEADLINE, reached).await.expect("the etcd is followed").unwrap();
    }

    pub(super) fn endpoint(&self) -> EtcdEndpoint {
        format!("https://{}", self.address).parse().unwrap()
    }

    pub(super) fn metrics(&self) -> String {
        self.registry.encode()
    }

    /// Ends it as an orderly stop would.
    pub(super) fn stop(&self) {
        self.token.cancel();
    }

    /// A client that shows the certificate of `name`.
    pub(super) fn client(&self, certificates: &Certificates, name: &str) -> Client {
        client(self.address, &certificates.folder(name))
    }

    /// A connection that shows the certificate of `name`.
    pub(super) fn channel(&self, certificates: &Certificates, name: &str) -> tonic::transport::Channel {
        channel(self.address, &certificates.folder(name))
    }

    /// An etcdctl that shows yavin's certificate.
    pub(super) fn etcdctl(&self, certificates: &Certificates) -> Command {
        let folder = certificates.folder("yavin");
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint().to_string()]);
        command.arg("--cacert").arg(folder.join("ca.crt"));
        command.arg("--cert").arg(folder.join("tls.crt")).arg("--key").arg(folder.join("tls.key"));
        command
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// Dials replicas as an agent of yavin does, which expects the apiserver of `peer`.
pub(super) fn dialer_of(
    peer: &str,
    endpoints: Vec<EtcdEndpoint>,
    certificates: &Certificates,
) -> Arc<Dialer> {
    let tls = Tls::from_dir(&certificates.folder("yavin")).of_peer(&cluster(peer));
    Arc::new(Dialer::new(endpoints, Some(tls)).unwrap())
}

/// The same, which expects hoth's.
pub(super) fn dialer(endpoints: Vec<EtcdEndpoint>, certificates: &Certificates) -> Arc<Dialer> {
    dialer_of("hoth", endpoints, certificates)
}

fn client(address: SocketAddr, folder: &Path) -> Client {
    let channel = etcd_client::Channel::Tonic(channel(address, folder));
    let client = Client::from_channel(channel, None).now_or_never();
    client.expect("without a user nothing is sent").unwrap()
}

fn channel(address: SocketAddr, folder: &Path) -> tonic::transport::Channel {
    let config = Arc::new(client_config(folder));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let connector = TlsConnector::from(Arc::clone(&config));
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("127.0.0.1").unwrap();
            std::io::Result::Ok(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_with_connector_lazy(connector)
}

pub(super) fn client_config(folder: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.crt")).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(folder.join("tls.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("tls.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A generator that is the same everywhere (xorshift64*).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    /// Within `low..=high`.
    pub(super) fn revision(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below(u64::try_from(high - low + 1).unwrap())).unwrap()
    }
}
