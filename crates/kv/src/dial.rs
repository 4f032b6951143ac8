//! One connection to the first of several endpoints that answers.
//!
//! Stays with the endpoint that worked last and goes on to the next where one fails: etcd-client's own balancer
//! keeps sending calls to dead endpoints. Never retries, and never waits longer than its endpoints' deadlines.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::endpoint::Endpoint;
use crate::fault::{DialError, Failure, Reason};
use crate::tls::Tls;

/// For resolving, connecting and the TLS handshake of one endpoint together.
const DIAL_DEADLINE: Duration = Duration::from_secs(3);

/// Endpoints of one etcd, and how to trust them.
#[derive(Debug)]
pub struct Dialer {
    endpoints: Vec<Endpoint>,
    tls: Option<Tls>,
    /// Index of the endpoint to try first.
    first: AtomicUsize,
}

/// Why endpoints and trust don't fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialerError {
    #[error("there is no endpoint: name at least one, as https://HOST:PORT")]
    NoEndpoint,
    #[error("endpoint {endpoint} is named twice: remove one")]
    Duplicate { endpoint: Endpoint },
    #[error(
        "endpoint {endpoint} is https but there is nothing to trust: give the CA certificate of its server"
    )]
    NoTrust { endpoint: Endpoint },
    #[error("endpoints mix http and https ({endpoint} differs from the first): use https for all")]
    Mixed { endpoint: Endpoint },
}

impl Dialer {
    /// All endpoints must be of one scheme; https needs `tls`, http ignores it.
    pub fn new(endpoints: Vec<Endpoint>, tls: Option<Tls>) -> Result<Self, DialerError> {
        let Some(first) = endpoints.first() else { return Err(DialerError::NoEndpoint) };
        for (index, endpoint) in endpoints.iter().enumerate() {
            if endpoints[..index].contains(endpoint) {
                return Err(DialerError::Duplicate { endpoint: endpoint.clone() });
            }
            if endpoint.is_secure() != first.is_secure() {
                return Err(DialerError::Mixed { endpoint: endpoint.clone() });
            }
        }
        if first.is_secure() && tls.is_none() {
            return Err(DialerError::NoTrust { endpoint: first.clone() });
        }
        Ok(Self { endpoints, tls, first: AtomicUsize::new(0) })
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Connects to the first endpoint that answers, beginning with the one that worked last.
    pub(crate) async fn dial(&self) -> Result<Dialed, DialError> {
        let mut failures = Vec::new();
        for _ in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[self.first.load(Ordering::Relaxed) % self.endpoints.len()];
            let attempt = tokio::time::timeout(DIAL_DEADLINE, self.dial_one(endpoint));
            match attempt.await.unwrap_or(Err(Reason::Timeout)) {
                Ok(stream) => return Ok(Dialed { endpoint: endpoint.clone(), stream }),
                Err(reason) => failures.push(Failure { endpoint: endpoint.clone(), reason }),
            }
            self.avoid(endpoint);
        }
        Err(DialError { failures })
    }

    /// Makes the next dial begin behind this endpoint: it connected, but did not work.
    pub(crate) fn avoid(&self, endpoint: &Endpoint) {
        if let Some(index) = self.endpoints.iter().position(|known| known == endpoint) {
            self.first.store((index + 1) % self.endpoints.len(), Ordering::Relaxed);
        }
    }

    async fn dial_one(&self, endpoint: &Endpoint) -> Result<Stream, Reason> {
        let tcp = TcpStream::connect((endpoint.host(), endpoint.port())).await.map_err(Reason::of_connect)?;
        // Requests are small and each waits for its answer.
        tcp.set_nodelay(true).map_err(Reason::of_connect)?;
        let transport = match &self.tls {
            Some(tls) if endpoint.is_secure() => {
                let config = tls.client_config().await.map_err(|error| Reason::Config(Arc::new(error)))?;
                let name = ServerName::try_from(endpoint.host().to_owned())
                    .map_err(|_| Reason::Tls(format!("{} is no valid TLS server name", endpoint.host())))?;
                let stream = TlsConnector::from(Arc::new(config))
                    .connect(name, tcp)
                    .await
                    .map_err(|error| Reason::of_handshake(&error))?;
                Transport::Tls(Box::new(stream))
            }
            Some(_) | None => Transport::Plain(tcp),
        };
        Ok(Stream { transport, ending: Ending::default() })
    }
}

/// A connection that is ready for HTTP/2.
pub(crate) struct Dialed {
    pub(crate) endpoint: Endpoint,
    pub(crate) stream: Stream,
}

/// How a connection ended, as its socket saw it. The gRPC layers above tell only that something broke.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending(Arc<State>);

#[derive(Debug, Default)]
struct State {
    error: OnceLock<String>,
    /// Whether the server ever sent anything behind the handshake.
    answered: AtomicBool,
}

impl Ending {
    pub(crate) fn text(&self) -> Option<&str> {
        self.0.error.get().map(String::as_str)
    }

    /// With TLS 1.3 a server judges our certificate after our side of the handshake is done.
    pub(crate) fn answered(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed)
    }

    fn note(&self, error: &io::Error) {
        // Only the first error is the cause; what follows is its echo.
        let _ = self.0.error.set(error.to_string());
    }
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// A plain or TLS stream that remembers how it ended.
pub(crate) struct Stream {
    transport: Transport,
    ending: Ending,
}

impl Stream {
    pub(crate) fn ending(&self) -> Ending {
        self.ending.clone()
    }

    fn noted<T>(&self, result: io::Result<T>) -> Poll<io::Result<T>> {
        if let Err(error) = &result {
            self.ending.note(error);
        }
        Poll::Ready(result)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        });
        if !buffer.filled().is_empty() {
            self.ending.0.answered.store(true, Ordering::Relaxed);
        }
        self.noted(result)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        });
        self.noted(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
        });
        self.noted(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn endpoints_and_trust_must_fit() {
        for (texts, part) in [
            (&[][..], "no endpoint"),
            (&["http://a:1", "http://a:1"][..], "named twice"),
            (&["http://a:1", "https://a:1"][..], "mix http and https"),
            (&["https://a:1"][..], "nothing to trust"),
        ] {
            let error = Dialer::new(endpoints(texts), None).unwrap_err().to_string();
            assert!(error.contains(part), "{texts:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a_dead_endpoint_is_left_for_the_next_and_not_tried_first_again() {
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dead_address = dead.local_addr().unwrap();
        drop(dead);
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let texts = [format!("http://{dead_address}"), format!("http://{}", live.local_addr().unwrap())];
        let dialer = Dialer::new(endpoints(&[&texts[0], &texts[1]]), None).unwrap();
        assert_eq!(dialer.dial().await.unwrap().endpoint.to_string(), texts[1]);
        assert_eq!(dialer.first.load(Ordering::Relaxed), 1);
        dialer.avoid(&texts[1].parse().unwrap());
        assert_eq!(dialer.first.load(Ordering::Relaxed), 0);
        drop(live);
        let error = dialer.dial().await.map(|dialed| dialed.endpoint).unwrap_err();
        assert_eq!(error.failures.len(), 2);
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
