//! The join port: TLS with this cluster's certificate and its authority's, no certificate of the client, one request for each
//! connection, and bounds on everything that a stranger could hold on to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::door::Door;
use crate::membership::Refusal;

/// More connections wait in the kernel's queue; more of one address are closed at once.
const MAX_CONNECTIONS: usize = 64;
const MAX_OF_ADDRESS: usize = 8;
/// A peer file with the certificates of its authority.
const MAX_BODY_BYTES: usize = 64 << 10;
const MAX_HEADER_BYTES: usize = 8 << 10;
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEADERS: Duration = Duration::from_secs(5);
/// For a connection from its beginning to its end.
const CONNECTION: Duration = Duration::from_secs(20);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the join port can't be opened, or shows no certificate.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("listening on --join-address {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("reading the own certificate: {} can't be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("reading the own certificate: {} is no valid PEM", path.display())]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("the own certificate can't be shown")]
    Tls(#[source] rustls::Error),
}

/// Listens for clusters that want to join.
pub(crate) struct JoinPort {
    listener: TcpListener,
    /// Where `tls.crt`, `tls.key` and `ca.crt` are; read for each connection.
    own: PathBuf,
    door: Arc<Door>,
    of_address: BTreeMap<IpAddr, usize>,
}

impl JoinPort {
    pub(crate) async fn bind(address: SocketAddr, own: PathBuf, door: Door) -> Result<Self, JoinError> {
        let listen = |source| JoinError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        tracing::info!(%address, "join port listens");
        Ok(Self { listener, own, door: Arc::new(door), of_address: BTreeMap::new() })
    }

    #[cfg(test)]
    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it listens")
    }

    /// Serves until the token is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let is_open = connections.len() < MAX_CONNECTIONS;
            tokio::select! {
                () = token.cancelled() => return,
                Some(ended) = connections.join_next() => self.end(ended),
                accepted = self.listener.accept(), if is_open => match accepted {
                    Ok((stream, address)) if self.begin(address.ip()) => {
                        drop(connections.spawn(connection(stream, address, self.own.clone(), Arc::clone(&self.door))));
                    }
                    Ok(_) => drop(self.door.metrics.broken.inc()),
                    Err(error) => {
                        tracing::warn!(error = %error, "a connection to the join port could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// Whether an address may have one more connection.
    fn begin(&mut self, address: IpAddr) -> bool {
        let count = self.of_address.entry(address).or_default();
        let may = *count < MAX_OF_ADDRESS;
        *count += usize::from(may);
        may
    }

    fn end(&mut self, ended: Result<IpAddr, tokio::task::JoinError>) {
        let address = match ended {
            Ok(address) => address,
            Err(error) => return tracing::error!(error = %error, "a connection to the join port failed"),
        };
        if let Some(count) = self.of_address.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.of_address.remove(&address);
            }
        }
    }
}

async fn connection(stream: TcpStream, address: SocketAddr, own: PathBuf, door: Arc<Door>) -> IpAddr {
    let served = timeout(CONNECTION, serve(stream, address, own, &door)).await;
    let error = match served {
        Ok(Ok(())) => return address.ip(),
        Ok(Err(error)) => error,
        Err(_) => format!("not done within {} s", CONNECTION.as_secs()),
    };
    door.metrics.broken.inc();
    tracing::debug!(%address, error, "a connection to the join port broke");
    address.ip()
}

async fn serve(stream: TcpStream, from: SocketAddr, own: PathBuf, door: &Arc<Door>) -> Result<(), String> {
    let read = spawn_blocking(move || config(&own)).await.map_err(|error| error.to_string())?;
    let config = read.map_err(|error| {
        let error = mesh_failure::chain(&error);
        tracing::warn!(error, "no cluster can join: the join port has no certificate to show");
        error
    })?;
    let shaken = timeout(HANDSHAKE, TlsAcceptor::from(Arc::new(config)).accept(stream)).await;
    let stream = shaken.map_err(|_| "no handshake in time".to_owned())?.map_err(|error| error.to_string())?;
    let service = service_fn(|request| answer(request, from, door));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(|error| error.to_string())
}

async fn answer(
    request: Request<Incoming>,
    from: SocketAddr,
    door: &Arc<Door>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answered = match body(request).await {
        Ok(body) => door.join(&body, from).await,
        Err(refusal) => {
            door.metrics.broken.inc();
            Err(refusal)
        }
    };
    let (status, body) = match answered {
        Ok(answer) => (StatusCode::OK, serde_json::to_vec(&answer)),
        Err(refusal) => {
            let (status, refused) = refusal.into_parts();
            (status, serde_json::to_vec(&refused))
        }
    };
    let mut response = Response::new(Full::new(body.expect("answers are plain data").into()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    if request.method() != Method::POST || request.uri().path() != "/v1/join" {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing here", "POST to /v1/join"));
    }
    let collected = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await;
    collected.map(|body| body.to_bytes()).map_err(|error| {
        let status = match error.downcast_ref::<LengthLimitError>() {
            Some(_) => StatusCode::PAYLOAD_TOO_LARGE,
            None => StatusCode::BAD_REQUEST,
        };
        Refusal::new(
            status,
            format!("the request can't be read: {error}"),
            "send at most 64 KiB, and all of it",
        )
    })
}

/// The own certificate, and behind it the authority's: whoever joins knows only that one's fingerprint.
fn config(own: &std::path::Path) -> Result<ServerConfig, JoinError> {
    let read = |name: &str| {
        let path = own.join(name);
        std::fs::read(&path).map_err(|source| JoinError::Unreadable { path, source })
    };
    let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>, JoinError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(name)?).collect();
        all.map_err(|source| JoinError::Pem { path: own.join(name), source })
    };
    let mut chain = certificates("tls.crt")?;
    for root in certificates("ca.crt")? {
        if !chain.contains(&root) {
            chain.push(root);
        }
    }
    let key = PrivateKeyDer::from_pem_slice(&read("tls.key")?)
        .map_err(|source| JoinError::Pem { path: own.join("tls.key"), source })?;
    mesh_trust::server_config().with_no_client_auth().with_single_cert(chain, key).map_err(JoinError::Tls)
}
