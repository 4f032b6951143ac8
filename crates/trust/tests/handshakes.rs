//! Both sides of a handshake, as rustls carries it out: who gets in, what the other side is told, what is told of a refusal.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_model::name::ClusterName;
use mesh_trust::{
    Authority, Bundle, ClientVerifier, Identity, Issued, Lifetime, Role, ServerVerifier, Trust,
    client_config, server_config,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConnection, ServerConnection};

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn authority(name: &str) -> Authority {
    Authority::new(&cluster(name), UnixTime::now()).unwrap()
}

fn issue(authority: &Authority, role: Role) -> Issued {
    authority.issue(role, &[], Lifetime::starting(UnixTime::now(), Duration::from_secs(3600))).unwrap()
}

fn trust_in(name: &str, authority: &Authority) -> Arc<Trust> {
    let bundle = Arc::new(Bundle::from_pem(authority.certificate_pem()).unwrap());
    Arc::new(Trust::in_one(cluster(name), bundle))
}

fn pair(issued: &Issued) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes());
    (
        chain.collect::<Result<_, _>>().unwrap(),
        PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
    )
}

/// What was told of refusals.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn listener(&self) -> Arc<dyn Fn(&mesh_trust::Refusal) + Send + Sync> {
        let told = Arc::clone(&self.0);
        Arc::new(move |refusal| told.lock().unwrap().push(refusal.to_string()))
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn server(shows: &Issued, trusts: Arc<Trust>, told: &Told) -> ServerConnection {
    let (chain, key) = pair(shows);
    let config = server_config()
        .with_client_cert_verifier(Arc::new(ClientVerifier::new(trusts, told.listener())))
        .with_single_cert(chain, key)
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

fn client(shows: &Issued, trusts: Arc<Trust>, expects: &str, told: &Told) -> ClientConnection {
    let (chain, key) = pair(shows);
    let expected = Identity::new(cluster(expects), Role::Apiserver);
    let config = client_config()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(trusts, expected, told.listener())))
        .with_client_auth_cert(chain, key)
        .unwrap();
    // Whatever name or address it was dialled by.
    ClientConnection::new(Arc::new(config), ServerName::try_from("192.0.2.1").unwrap()).unwrap()
}

/// Carries bytes both ways until neither side has more to say; the first error of each.
fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> [Option<rustls::Error>; 2] {
    let mut errors = [None, None];
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() && server.read_tls(&mut rest).is_ok_and(|read| read > 0) {
            errors[1] = errors[1].take().or(server.process_new_packets().err());
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() && client.read_tls(&mut rest).is_ok_and(|read| read > 0) {
            errors[0] = errors[0].take().or(client.process_new_packets().err());
        }
    }
    errors
}

#[test]
fn two_clusters_that_trust_each_other_talk() {
    let (hoth, yavin) = (authority("hoth"), authority("yavin"));
    let told = Told::default();
    let mut server = server(&issue(&hoth, Role::Apiserver), trust_in("yavin", &yavin), &told);
    let mut client = client(&issue(&yavin, Role::Agent), trust_in("hoth", &hoth), "hoth", &told);
    assert_eq!(shake(&mut client, &mut server), [None, None]);
    client.writer().write_all(b"echo base").unwrap();
    assert_eq!(shake(&mut client, &mut server), [None, None]);
    let mut heard = [0; 9];
    server.reader().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"echo base");
    assert_eq!(told.all(), Vec::<String>::new());
}

#[test]
fn a_client_of_an_unknown_authority_is_refused_and_said_which() {
    let (hoth, yavin, forger) = (authority("hoth"), authority("yavin"), authority("yavin"));
    let told = Told::default();
    let mut server = server(&issue(&hoth, Role::Apiserver), trust_in("yavin", &yavin), &told);
    let mut client = client(&issue(&forger, Role::Agent), trust_in("hoth", &hoth), "hoth", &told);
    let [client_error, server_error] = shake(&mut client, &mut server);
    assert!(client_error.unwrap().to_string().contains("UnknownCA"));
    assert!(server_error.is_some());
    assert_eq!(told.all().len(), 1);
    assert!(told.all()[0].starts_with("clustermesh://yavin/agent shows a certificate that leads to no root"));
}

#[test]
fn a_server_that_is_another_cluster_is_refused() {
    let (hoth, yavin) = (authority("hoth"), authority("yavin"));
    let told = Told::default();
    let both = |one: &Authority, other: &Authority| {
        let bundle = |of: &Authority| Arc::new(Bundle::from_pem(of.certificate_pem()).unwrap());
        let bundles = [(cluster("hoth"), bundle(one)), (cluster("yavin"), bundle(other))];
        Arc::new(Trust::new(bundles.into()))
    };
    let trust = both(&hoth, &yavin);
    // The address of hoth leads to yavin, which is trusted, but is not who was dialled.
    let mut server = server(&issue(&yavin, Role::Apiserver), Arc::clone(&trust), &told);
    let mut client = client(&issue(&yavin, Role::Agent), trust, "hoth", &told);
    let [client_error, _] = shake(&mut client, &mut server);
    assert!(client_error.is_some());
    assert_eq!(
        told.all(),
        [
            "clustermesh://yavin/apiserver was shown where clustermesh://hoth/apiserver was expected: the address leads to \
          another cluster or process"
        ]
    );
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (hoth, yavin) = (authority("hoth"), authority("yavin"));
    let told = Told::default();
    let mut server = server(&issue(&hoth, Role::Apiserver), trust_in("yavin", &yavin), &told);
    let expected = Identity::new(cluster("hoth"), Role::Apiserver);
    let verifier = ServerVerifier::new(trust_in("hoth", &hoth), expected, told.listener());
    let config = client_config()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let name = ServerName::try_from("192.0.2.1").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let [client_error, server_error] = shake(&mut client, &mut server);
    assert_eq!(server_error.unwrap().to_string(), "peer sent no certificates");
    assert!(client_error.unwrap().to_string().contains("CertificateRequired"));
}
