//! One connection to the first of several endpoints that answers.
//!
//! Stays with the endpoint that worked last and goes on to the next where one fails or takes long; the addresses of a
//! name in the same way. etcd-client's own balancer keeps sending calls to dead endpoints. Never retries, and never
//! waits longer than its endpoints' deadlines.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use crate::etcd_endpoint::EtcdEndpoint;
use crate::fault::{DialError, Failure, Reason, Superseded};
use crate::race::race;
use crate::shown::Shown;
use crate::tls::Tls;

/// For resolving, connecting and the TLS handshake of one endpoint together.
const DIAL_DEADLINE: Duration = Duration::from_secs(3);
/// After so long the next address of a name is tried beside the one before (RFC 8305, 8).
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);
/// The same for endpoints: long enough for a slow path, so that its endpoint isn't left without need.
const ENDPOINT_STAGGER: Duration = Duration::from_secs(1);

/// Endpoints of one etcd, and how to trust them.
#[derive(Debug)]
pub struct Dialer {
    targets: Vec<Target>,
    tls: Option<Tls>,
    /// Index of the endpoint to try first.
    first: AtomicUsize,
}

#[derive(Debug)]
struct Target {
    endpoint: EtcdEndpoint,
    /// Addresses of its name that connected, but did not work.
    avoided: Mutex<BTreeSet<SocketAddr>>,
}

/// Why endpoints and trust don't fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialerError {
    #[error("there is no endpoint: name at least one, as https://HOST:PORT")]
    NoEndpoint,
    #[error("endpoint {endpoint} is named twice: remove one")]
    Duplicate { endpoint: EtcdEndpoint },
    #[error(
        "endpoint {endpoint} is https but there is nothing to trust: give the CA certificate of its server"
    )]
    NoTrust { endpoint: EtcdEndpoint },
    #[error("endpoints mix http and https ({endpoint} differs from the first): use https for all")]
    Mixed { endpoint: EtcdEndpoint },
}

impl Dialer {
    /// All endpoints must be of one scheme; https needs `tls`, http ignores it.
    pub fn new(endpoints: Vec<EtcdEndpoint>, tls: Option<Tls>) -> Result<Self, DialerError> {
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
        let target = |endpoint| Target { endpoint, avoided: Mutex::default() };
        Ok(Self { targets: endpoints.into_iter().map(target).collect(), tls, first: AtomicUsize::new(0) })
    }

    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &EtcdEndpoint> {
        self.targets.iter().map(|target| &target.endpoint)
    }

    /// Connects to the first endpoint that answers, beginning with the one that worked last.
    pub(crate) async fn dial(&self) -> Result<Dialed, DialError> {
        let (count, first) = (self.targets.len(), self.first.load(Ordering::Relaxed));
        let attempts = (0..count).map(|number| self.dial_target((first + number) % count));
        let (index, dialed) =
            race(attempts, ENDPOINT_STAGGER).await.map_err(|failures| DialError { failures })?;
        self.first.store(index, Ordering::Relaxed);
        Ok(dialed)
    }

    /// Makes the next dial begin behind what connected, but did not work: with the name's next address, or with the
    /// next endpoint.
    pub(crate) fn avoid(&self, endpoint: &EtcdEndpoint, address: SocketAddr) {
        if let Some(index) = self.targets.iter().position(|known| known.endpoint == *endpoint) {
            self.targets[index].avoided().insert(address);
            self.first.store((index + 1) % self.targets.len(), Ordering::Relaxed);
        }
    }

    /// Whether a connection that stands would be made today.
    pub(crate) fn stands(&self, endpoint: &EtcdEndpoint, shown: Option<&Shown>) -> Result<(), Superseded> {
        let endpoint = || endpoint.clone();
        if !self.targets.iter().any(|known| known.endpoint == endpoint()) {
            return Err(Superseded::Endpoint { endpoint: endpoint() });
        }
        match (&self.tls, shown) {
            (Some(tls), Some(shown)) => {
                tls.stands(shown).map_err(|why| Superseded::Trust { endpoint: endpoint(), why })
            }
            _ => Ok(()),
        }
    }

    async fn dial_target(&self, index: usize) -> Result<(usize, Dialed), Failure> {
        let target = &self.targets[index];
        let attempt = tokio::time::timeout(DIAL_DEADLINE, self.dial_name(target));
        match attempt.await.unwrap_or(Err(Reason::Timeout)) {
            Ok(dialed) => Ok((index, dialed)),
            Err(reason) => Err(Failure { endpoint: target.endpoint.clone(), reason }),
        }
    }

    async fn dial_name(&self, target: &Target) -> Result<Dialed, Reason> {
        let endpoint = &target.endpoint;
        let found = lookup_host((endpoint.host(), endpoint.port())).await.map_err(Reason::of_connect)?;
        let addresses = target.in_order(interleaved(found.collect()));
        let attempts = addresses.iter().map(|address| self.dial_address(endpoint, *address));
        race(attempts, ADDRESS_STAGGER).await.map_err(|reasons| Reason::of_addresses(&addresses, reasons))
    }

    async fn dial_address(&self, endpoint: &EtcdEndpoint, address: SocketAddr) -> Result<Dialed, Reason> {
        let tcp = TcpStream::connect(address).await.map_err(Reason::of_connect)?;
        // Requests are small and each waits for its answer.
        tcp.set_nodelay(true).map_err(Reason::of_connect)?;
        let (transport, shown) = match &self.tls {
            Some(tls) if endpoint.is_secure() => {
                let config = tls.client_config().await.map_err(|error| Reason::Config(Arc::new(error)))?;
                let name = ServerName::try_from(endpoint.host().to_owned())
                    .map_err(|_| Reason::Tls(format!("{} is no valid TLS server name", endpoint.host())))?;
                let stream = TlsConnector::from(Arc::new(config))
                    .connect(name.clone(), tcp)
                    .await
                    .map_err(|error| Reason::of_handshake(&error))?;
                let shown = Shown::of(&stream, name);
                (Transport::Tls(Box::new(stream)), shown)
            }
            Some(_) | None => (Transport::Plain(tcp), None),
        };
        let stream = Stream { transport, ending: Ending::default() };
        Ok(Dialed { endpoint: endpoint.clone(), address, shown, stream })
    }
}

impl Target {
    /// Poisoned by nothing: what is done with it can't panic.
    fn avoided(&self) -> MutexGuard<'_, BTreeSet<SocketAddr>> {
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses with those last that did not work; once all have not, all are as good again.
    fn in_order(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut avoided = self.avoided();
        avoided.retain(|address| addresses.contains(address));
        if avoided.len() >= addresses.len() {
            avoided.clear();
        }
        addresses.sort_by_key(|address| avoided.contains(address));
        addresses
    }
}

/// Each address once, the families in turn, beginning with the one that the resolver prefers (RFC 8305, 4).
fn interleaved(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = found.first().copied() else { return found };
    let (preferred, other): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut addresses = Vec::new();
    loop {
        let pair = [preferred.next(), other.next()];
        if pair == [None, None] {
            return addresses;
        }
        for address in pair.into_iter().flatten() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
}

/// A connection that is ready for HTTP/2.
pub(crate) struct Dialed {
    pub(crate) endpoint: EtcdEndpoint,
    pub(crate) address: SocketAddr,
    /// None without TLS.
    pub(crate) shown: Option<Shown>,
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

    fn endpoints(texts: &[&str]) -> Vec<EtcdEndpoint> {
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
        dialer.avoid(&texts[1].parse().unwrap(), live.local_addr().unwrap());
        assert_eq!(dialer.first.load(Ordering::Relaxed), 0);
        drop(live);
        let error = dialer.dial().await.map(|dialed| dialed.endpoint).unwrap_err();
        assert_eq!(error.failures.len(), 2);
        assert!(error.to_string().contains("refused"), "{error}");
    }

    /// Takes no connection and refuses none: its queue is full, and the kernel drops what comes.
    async fn black_hole() -> (tokio::net::TcpListener, Vec<std::net::TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(tcp) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            queued.push(tcp);
        }
        (listener, queued)
    }

    #[tokio::test]
    async fn a_black_hole_before_it_delays_an_address_by_a_quarter_of_a_second() {
        let (hole, _queued) = black_hole().await;
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: EtcdEndpoint = "http://name:1".parse().unwrap();
        let dialer = Dialer::new(vec![endpoint.clone()], None).unwrap();
        let addresses = [hole.local_addr().unwrap(), live.local_addr().unwrap()];
        let attempts = addresses.iter().map(|address| dialer.dial_address(&endpoint, *address));
        let start = std::time::Instant::now();
        let dialed = race(attempts, ADDRESS_STAGGER).await.map_err(|_| "nobody answers").unwrap();
        assert_eq!(dialed.address, addresses[1]);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_black_hole_as_the_first_endpoint_does_not_use_up_its_deadline() {
        let (hole, _queued) = black_hole().await;
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let texts = [&hole, &live].map(|of| format!("http://{}", of.local_addr().unwrap()));
        let dialer = Dialer::new(endpoints(&[&texts[0], &texts[1]]), None).unwrap();
        let start = std::time::Instant::now();
        assert_eq!(dialer.dial().await.unwrap().endpoint.to_string(), texts[1]);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_beginning_with_the_resolvers_first() {
        let found = addresses(&["[::1]:1", "[::2]:1", "[::2]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        let expected = ["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "10.0.0.3:1"];
        assert_eq!(interleaved(found), addresses(&expected));
        assert_eq!(interleaved(Vec::new()), Vec::new());
    }

    #[test]
    fn addresses_that_connect_but_do_not_work_come_last_until_all_have_failed() {
        let dialer = Dialer::new(endpoints(&["http://name:1"]), None).unwrap();
        let (target, all) = (&dialer.targets[0], addresses(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]));
        for (number, first) in all.iter().enumerate() {
            assert_eq!(target.in_order(all.clone())[0], *first, "after {number} failures");
            dialer.avoid(&target.endpoint, *first);
        }
        assert_eq!(target.in_order(all.clone()), all);
    }
}
