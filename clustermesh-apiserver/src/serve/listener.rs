//! Connections: accepted, shaken hands with, told apart by certificate, and served over HTTP/2 within bounds.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_model::name::ClusterName;
use mesh_trust::{Certificate, Identity};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::rpc::{Rpc, Served};
use super::view::View;

/// More connections wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// Calls of one connection at a time, streams included.
const MAX_STREAMS: u32 = 256;
/// What a client may send of headers.
const MAX_HEADER_BYTES: u32 = 8 << 10;
/// What waits for a stream's client beside the answer under way.
const MAX_SEND_BYTES: usize = 128 << 10;
/// For a handshake, which takes two round trips.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A silent client is asked so often whether it still lives, and has so long to answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// After the kernel refused a connection: it lacks something that takes time to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For streams to end when the process does.
const GOODBYE: Duration = Duration::from_secs(1);

pub(crate) struct Listener {
    pub(crate) listener: TcpListener,
    pub(crate) cluster: ClusterName,
    /// What counts for the next connection.
    pub(crate) tls: watch::Receiver<Arc<ServerConfig>>,
    pub(crate) served: Arc<Served>,
}

impl Listener {
    /// Runs until the token of what is served is cancelled.
    pub(crate) async fn run(self) {
        let token = self.served.token.clone();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                Some(ended) = connections.join_next() => said(ended),
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, address)) => drop(connections.spawn(self.connection(stream, address))),
                    Err(error) => {
                        tracing::warn!(error = %error, "a connection to the mesh API could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        while let Some(ended) = connections.join_next().await {
            said(ended);
        }
    }

    fn connection(&self, stream: TcpStream, address: SocketAddr) -> impl Future<Output = ()> + Send + use<> {
        let acceptor = TlsAcceptor::from(self.tls.borrow().clone());
        let (served, cluster) = (Arc::clone(&self.served), self.cluster.clone());
        async move {
            // Answers are small, and waited for.
            let _ = stream.set_nodelay(true);
            let shaken = tokio::select! {
                () = served.token.cancelled() => return,
                shaken = timeout(HANDSHAKE, acceptor.accept(stream)) => shaken,
            };
            let refused = match shaken {
                Ok(Ok(stream)) => match identity_of(&stream) {
                    Some(identity) => return serve(stream, identity, address, &cluster, &served).await,
                    None => "no identity".into(),
                },
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no handshake within {} s", HANDSHAKE.as_secs()),
            };
            served.metrics.handshakes_failed.inc();
            tracing::debug!(address = %address, error = refused, "a connection to the mesh API ended before it began");
        }
    }
}

fn said(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = %error, "a connection to the mesh API failed");
    }
}

/// Who is connected, which the handshake has verified.
fn identity_of(stream: &TlsStream<TcpStream>) -> Option<Identity> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    Certificate::read(leaf).ok()?.identity
}

async fn serve(
    stream: TlsStream<TcpStream>,
    identity: Identity,
    address: SocketAddr,
    cluster: &ClusterName,
    served: &Arc<Served>,
) {
    tracing::debug!(address = %address, client = %identity, "connected to the mesh API");
    let view = View::of(&identity.cluster, cluster);
    let rpc = Rpc { served: Arc::clone(served), view, share: served.budget.share(&identity.cluster) };
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buf_size(MAX_SEND_BYTES)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER);
    served.metrics.connections.inc();
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), rpc));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = served.token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
        }
    };
    served.metrics.connections.dec();
    if let Err(error) = ended {
        tracing::debug!(address = %address, client = %identity, error = %error, "a connection to the mesh API broke");
    }
}
