//! Dials a server of another cluster, whose certificate is judged by whoever dials.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_kv::EtcdEndpoint;
use mesh_trust::Refusal;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For a name to be resolved and one of its addresses to answer, and then for the handshake.
const CONNECT: Duration = Duration::from_secs(3);
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Why nobody answered who counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(
        "{endpoint} can't be connected to; check the address, the route, firewalls, and that the server runs"
    )]
    Connect { endpoint: EtcdEndpoint, source: std::io::Error },
    #[error("no answer from {endpoint} within {} s; check the route and firewalls", after.as_secs())]
    Timeout { endpoint: EtcdEndpoint, after: Duration },
    #[error("{endpoint} is not whom it should be: {why}")]
    Refused { endpoint: EtcdEndpoint, why: String },
    #[error(
        "the TLS handshake with {endpoint} failed; check that a mesh API or join port of TLS 1.3 listens there"
    )]
    Handshake { endpoint: EtcdEndpoint, source: std::io::Error },
}

/// Remembers why a server was refused: TLS passes on only what fits into an alert.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<Option<String>>>);

impl Told {
    pub(crate) fn listener(&self) -> Arc<dyn Fn(&Refusal) + Send + Sync> {
        let told = self.clone();
        Arc::new(move |refusal| told.tell(mesh_failure::chain(refusal)))
    }

    pub(crate) fn tell(&self, why: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A connection to whoever the verifier takes. This side shows no certificate.
pub(crate) async fn dial(
    endpoint: &EtcdEndpoint,
    verifier: Arc<dyn ServerCertVerifier>,
    told: &Told,
) -> Result<TlsStream<TcpStream>, DialError> {
    let slow = |after| DialError::Timeout { endpoint: endpoint.clone(), after };
    let connected = timeout(CONNECT, TcpStream::connect(endpoint.authority())).await;
    let stream = connected
        .map_err(|_| slow(CONNECT))?
        .map_err(|source| DialError::Connect { endpoint: endpoint.clone(), source })?;
    let name = ServerName::try_from(endpoint.host().to_owned()).map_err(|source| DialError::Handshake {
        endpoint: endpoint.clone(),
        source: std::io::Error::other(source),
    })?;
    let shaking = TlsConnector::from(Arc::new(config(verifier))).connect(name, stream);
    let shaken = timeout(HANDSHAKE, shaking).await.map_err(|_| slow(HANDSHAKE))?;
    shaken.map_err(|source| match told.take() {
        Some(why) => DialError::Refused { endpoint: endpoint.clone(), why },
        None => DialError::Handshake { endpoint: endpoint.clone(), source },
    })
}

fn config(verifier: Arc<dyn ServerCertVerifier>) -> ClientConfig {
    let builder = mesh_trust::client_config().dangerous();
    builder.with_custom_certificate_verifier(verifier).with_no_client_auth()
}
