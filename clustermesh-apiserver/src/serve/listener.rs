//! Connections: accepted, shaken hands with, told apart by certificate, and served over HTTP/2 within bounds.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_model::name::ClusterName;
use mesh_trust::{Certificate, Identity, Refusal, Side, Trust};
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::rpc::{Rpc, Served};
use super::seats::Seats;
use super::tls::Admission;
use super::view::View;

/// Calls of one connection at a time, streams included.
const MAX_STREAMS: u32 = 256;
/// What a client may send of headers.
const MAX_HEADER_BYTES: u32 = 8 << 10;
/// What a client may send ahead of whoever reads it: more than a request, and the least that HTTP/2 has for a connection.
const STREAM_WINDOW_BYTES: u32 = 32 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 65_535;
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
    /// What counts for connections; nobody is let in while there is nothing.
    pub(crate) admission: watch::Receiver<Option<Arc<Admission>>>,
    pub(crate) served: Arc<Served>,
}

impl Listener {
    /// Runs until the token of what is served is cancelled.
    pub(crate) async fn run(mut self) {
        let token = self.served.token.clone();
        let (mut connections, seats) = (JoinSet::new(), Seats::default());
        loop {
            let admission = self.admission.borrow_and_update().clone();
            let is_open = admission.is_some();
            tokio::select! {
                () = token.cancelled() => break,
                Ok(()) = self.admission.changed() => {}
                Some(ended) = connections.join_next() => said(ended),
                accepted = self.listener.accept(), if is_open => match accepted {
                    Ok((stream, address)) => {
                        let Some(admission) = admission else { continue };
                        drop(connections.spawn(self.connection((stream, address), &admission, &seats)));
                    }
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

    fn connection(
        &self,
        (stream, address): (TcpStream, SocketAddr),
        admission: &Admission,
        seats: &Seats,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (acceptor, trust) = (TlsAcceptor::from(admission.config.clone()), Arc::clone(&admission.trust));
        let (served, cluster) = (Arc::clone(&self.served), self.cluster.clone());
        let (seats, stranger) = (seats.clone(), seats.for_stranger());
        // It has seen what the acceptor is made of: a change during the handshake counts, too.
        let mut admission = self.admission.clone();
        async move {
            // Answers are small, and waited for.
            let _ = stream.set_nodelay(true);
            let shaken = tokio::select! {
                () = served.token.cancelled() => return,
                () = stranger.taken() => Err("too many others came before its handshake ended".to_owned()),
                shaken = shake_hands(acceptor, stream) => shaken,
            };
            drop(stranger);
            let refused = match shaken {
                Ok(stream) => match Client::of(&stream, address, &trust) {
                    Some(client) => {
                        let Some(seat) = seats.for_peer(&client.identity.cluster) else {
                            return client.crowded_out(&served);
                        };
                        return tokio::select! {
                            () = serve(stream, &client, &cluster, &served) => {}
                            () = seat.taken() => client.crowded_out(&served),
                            refusal = client.refused(&mut admission) => client.shut_out(&refusal, &served),
                        };
                    }
                    None => "no identity".into(),
                },
                Err(error) => error,
            };
            served.metrics.handshakes_failed.inc();
            tracing::debug!(address = %address, error = refused, "a connection to the mesh API ended before it began");
        }
    }
}

async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(shaken) => shaken.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no handshake within {} s", HANDSHAKE.as_secs())),
    }
}

/// One more, until it is dropped.
struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn said(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = %error, "a connection to the mesh API failed");
    }
}

/// Who is connected, as the handshake has verified.
struct Client {
    chain: Vec<CertificateDer<'static>>,
    identity: Identity,
    /// Whether the certificate claims no identity, and its chain tells whose it is.
    is_assumed: bool,
    address: SocketAddr,
}

impl Client {
    fn of(stream: &TlsStream<TcpStream>, address: SocketAddr, trust: &Trust) -> Option<Self> {
        let chain: Vec<_> =
            stream.get_ref().1.peer_certificates()?.iter().map(|one| one.clone().into_owned()).collect();
        let [leaf, intermediates @ ..] = &chain[..] else { return None };
        let claimed = Certificate::read(leaf).ok()?.identity;
        let is_assumed = claimed.is_none();
        let assumed = || trust.admit(leaf, intermediates, Side::Client, UnixTime::now()).ok();
        let identity = claimed.or_else(assumed)?;
        Some(Self { chain, identity, is_assumed, address })
    }

    /// Returns once the client is let in no more: its cluster is no peer any longer, or its certificate was revoked. One that
    /// has only expired meanwhile goes on: its client has a new one for its next connection.
    async fn refused(&self, admission: &mut watch::Receiver<Option<Arc<Admission>>>) -> Refusal {
        let connected = UnixTime::now();
        loop {
            let Ok(()) = admission.changed().await else { return std::future::pending().await };
            let Some(now) = admission.borrow_and_update().clone() else { continue };
            let [leaf, intermediates @ ..] = &self.chain[..] else { continue };
            match now.trust.admit(leaf, intermediates, Side::Client, connected) {
                Err(refusal) => return refusal,
                // Whose it was does not vouch for it any more, and another cluster does.
                Ok(other) if other != self.identity => {
                    return Refusal::UnknownIssuer { claimed: self.identity.clone() };
                }
                Ok(_) => {}
            }
        }
    }

    fn crowded_out(&self, served: &Served) {
        served.metrics.crowded_out.inc();
        let (client, address) = (&self.identity, self.address);
        tracing::debug!(%client, %address, "closed a connection: all are taken, and its cluster has most of them");
    }

    fn shut_out(&self, refusal: &Refusal, served: &Served) {
        served.metrics.refused(refusal.reason());
        served.metrics.shut_out.inc();
        let (client, address, error) = (&self.identity, self.address, mesh_failure::chain(refusal));
        tracing::warn!(%client, %address, error, "closed the connection of a client that is let in no more");
    }
}

async fn serve(
    stream: TlsStream<TcpStream>,
    Client { identity, address, is_assumed, .. }: &Client,
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
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BYTES)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER);
    let _counted = Counted::new(&served.metrics.connections);
    let _assumed = is_assumed.then(|| {
        served.metrics.assumed.inc();
        tracing::info!(%address, client = %identity, "a client's certificate claims no identity; its CA tells whose it is");
        Counted::new(&served.metrics.assumed_now)
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), rpc));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = served.token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(address = %address, client = %identity, error = %error, "a connection to the mesh API broke");
    }
}
