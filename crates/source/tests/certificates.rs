//! The source at an API server that wants client certificates, whose authority is replaced while it runs.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_source::kubernetes::{Access, Kubernetes, Options};
use mesh_source::testing::api::FakeApi;
use mesh_source::{Reason, SourceMetrics};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// Certificate and key, as PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }
}

/// TLS in front of the fake API server: lets clients through whose certificate is one authority's.
struct Front {
    own: (String, String),
    address: SocketAddr,
    acceptor: Arc<Mutex<TlsAcceptor>>,
    /// Of the connections that stand.
    serving: Arc<Mutex<CancellationToken>>,
}

impl Front {
    async fn start(api: SocketAddr, servers: &Authority, clients: &Authority) -> Self {
        let own = servers.issue("api");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Arc::new(Mutex::new(acceptor(&own, clients)));
        let serving = Arc::new(Mutex::new(CancellationToken::new()));
        let front = Self { own, address, acceptor: acceptor.clone(), serving: serving.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, token) = (acceptor.lock().unwrap().clone(), serving.lock().unwrap().clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = forward(stream, acceptor, api) => {}
                    }
                });
            }
        });
        front
    }

    /// From now on clients need a certificate of this authority; all connections are cut.
    fn trust(&self, clients: &Authority) {
        *self.acceptor.lock().unwrap() = acceptor(&self.own, clients);
        std::mem::take(&mut *self.serving.lock().unwrap()).cancel();
    }
}

fn acceptor((certificate, key): &(String, String), clients: &Authority) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(clients.der()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = config.with_client_cert_verifier(verifier.unwrap()).with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn forward(stream: TcpStream, acceptor: TlsAcceptor, api: SocketAddr) {
    // A client that is refused learns it by itself.
    let Ok(mut near) = acceptor.accept(stream).await else { return };
    let mut far = TcpStream::connect(api).await.unwrap();
    let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

/// A kubeconfig, and beside it the files that it names.
fn write_kubeconfig(folder: &Path, front: &Front, servers: &Authority) -> PathBuf {
    std::fs::write(folder.join("ca.crt"), &servers.pem).unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {
            "server": format!("https://{}", front.address),
            "certificate-authority": folder.join("ca.crt"),
        }}],
        "users": [{"name": "fake", "user": {
            "client-certificate": folder.join("tls.crt"),
            "client-key": folder.join("tls.key"),
        }}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
    });
    let path = folder.join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn write_identity(folder: &Path, clients: &Authority) {
    let (certificate, key) = clients.issue("node-agent");
    std::fs::write(folder.join("tls.crt"), certificate).unwrap();
    std::fs::write(folder.join("tls.key"), key).unwrap();
}

fn service(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": {"clustermesh.io/global": "true"}},
        "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]},
    })
}

#[tokio::test]
async fn a_rotated_client_certificate_needs_no_restart() {
    let api = FakeApi::start().await;
    api.put(service("a"));
    let [servers, first, second] = ["servers", "first", "second"].map(Authority::new);
    let front = Front::start(api.address(), &servers, &first).await;
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = write_kubeconfig(folder.path(), &front, &servers);
    write_identity(folder.path(), &first);
    let source = Kubernetes::new(
        Access { kubeconfig: Some(kubeconfig) },
        Options::default(),
        SourceMetrics::unregistered(),
    );
    let (mut snapshots, mut status) = (source.snapshots(), source.status());
    let token = CancellationToken::new();
    let running = tokio::spawn(source.run(token.clone()));
    let mut until = async |wanted: usize| {
        let known = snapshots.wait_for(|it| it.as_ref().is_some_and(|it| it.services.len() == wanted));
        tokio::time::timeout(DEADLINE, known).await.map(drop)
    };
    until(1).await.expect("the first certificate is taken");

    front.trust(&second);
    let refused = status.wait_for(|it| it.problems.iter().any(|it| it.reason == Reason::ApiUnavailable));
    let refused =
        tokio::time::timeout(DEADLINE, refused).await.expect("the first certificate is refused").unwrap();
    let message = refused.problems[0].message.clone();
    drop(refused);
    assert!(message.contains("what is known stays"), "{message}");
    api.put(service("b"));
    write_identity(folder.path(), &second);
    until(2).await.expect("the second certificate is taken");
    let well = tokio::time::timeout(DEADLINE, status.wait_for(|it| it.problems.is_empty())).await;
    well.expect("the source is well again").unwrap();
    token.cancel();
    running.await.unwrap();
}
