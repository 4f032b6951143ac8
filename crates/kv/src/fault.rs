//! What goes wrong between us and an etcd, in words that name endpoint, reason and remedy.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_failure::chain;

use crate::alarm::Alarm;
use crate::etcd_endpoint::EtcdEndpoint;
use crate::pem::TlsError;

/// None of the endpoints could be connected to.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no endpoint can be reached: {}", join(.failures))]
pub struct DialError {
    /// One per endpoint, in the order tried; never empty.
    pub failures: Vec<Failure>,
}

/// Why one endpoint could not be connected to.
#[derive(Clone, Debug)]
pub struct Failure {
    pub endpoint: EtcdEndpoint,
    pub reason: Reason,
}

fn join(failures: &[Failure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.reason)
    }
}

/// The reason for a failed dial.
#[derive(Clone, Debug)]
pub enum Reason {
    Refused,
    Timeout,
    /// Resolving or connecting failed otherwise.
    Connect(String),
    /// The handshake failed.
    Tls(String),
    /// Our own trust or identity is unusable.
    Config(Arc<TlsError>),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused; check that etcd runs and listens there"),
            Self::Timeout => f.write_str(
                "no answer in 3 s; check the route, firewalls, and that the process isn't stopped",
            ),
            Self::Connect(text) | Self::Tls(text) => f.write_str(text),
            Self::Config(error) => f.write_str(&chain(error.as_ref())),
        }
    }
}

impl Reason {
    pub(crate) fn of_connect(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                Self::Connect(format!("{error}; check that a route to it exists"))
            }
            _ => Self::Connect(error.to_string()),
        }
    }

    /// Why none of a name's addresses could be connected to.
    pub(crate) fn of_addresses(addresses: &[SocketAddr], mut reasons: Vec<Self>) -> Self {
        if reasons.iter().all(|reason| matches!(reason, Self::Refused)) && !reasons.is_empty() {
            return Self::Refused;
        }
        if reasons.len() == 1 {
            return reasons.swap_remove(0);
        }
        let told = addresses.iter().zip(&reasons).map(|(address, reason)| format!("{address}: {reason}"));
        match told.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => Self::Connect("the name has no address".into()),
            told => Self::Connect(told),
        }
    }

    pub(crate) fn of_handshake(error: &io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Self::Tls(format!(
                    "the server closed the connection during the TLS handshake ({error}); check that it serves TLS"
                )),
                _ => Self::Tls(format!("TLS handshake failed: {error}")),
            };
        };
        Self::Tls(format!("TLS handshake failed: {tls}; {}", remedy(tls)))
    }
}

/// What to do about a failed handshake.
fn remedy(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => {
            "the server's certificate isn't signed by the CA trusted for it: trust the CA that signed it"
        }
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => {
            "the server's certificate isn't for this host: add the host to its SANs, or dial a name that it has"
        }
        rustls::Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => "the server's certificate is not valid now: renew it, or set the clocks right",
        rustls::Error::InvalidMessage(_) => "the server doesn't seem to speak TLS there: use http://",
        rustls::Error::AlertReceived(_) => {
            "the server refused us: check that our tls.crt is signed by a CA that it trusts, and is valid now"
        }
        _ => "check trust and certificates on both sides",
    }
}

/// A call on an open connection failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{action} at {endpoint}: {reason}")]
pub struct CallError {
    pub endpoint: EtcdEndpoint,
    /// What we were doing.
    pub action: &'static str,
    pub reason: CallReason,
}

/// The reason for a failed call.
#[derive(Clone, Debug)]
pub enum CallReason {
    /// No answer within the deadline.
    Deadline,
    /// The connection broke.
    Broken(String),
    /// A TLS connection broke before the server's first answer.
    Unwelcome(String),
    /// The revision asked for has been compacted away, or lies in the future.
    Revision(String),
    /// The answer is bigger than we take.
    TooBig(String),
    /// The request is bigger than etcd takes.
    RequestTooBig(String),
    /// etcd takes no writes before somebody makes room.
    NoSpace(String),
    /// The lease ended before it was renewed.
    Expired,
    /// etcd wants to know who we are.
    Auth(String),
    /// The answer is none that an etcd gives.
    Implausible(String),
    /// etcd refused the call.
    Refused(String),
}

impl fmt::Display for CallReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("no answer in time; is the process stopped, or the path cut?"),
            Self::Unwelcome(text) => write!(
                f,
                "the server closed the connection without an answer ({text}), as if it refused our certificate; \
                 check that tls.crt is signed by a CA that it trusts, and is valid now"
            ),
            Self::Broken(text) => write!(f, "the connection broke: {text}"),
            Self::Expired => f.write_str("the lease has expired"),
            Self::Revision(text)
            | Self::TooBig(text)
            | Self::RequestTooBig(text)
            | Self::NoSpace(text)
            | Self::Auth(text)
            | Self::Implausible(text)
            | Self::Refused(text) => f.write_str(text),
        }
    }
}

impl CallReason {
    /// Sorts why a watch was cancelled. A compacted start has a compact revision and no reason.
    pub(crate) fn of_cancel(response: &etcd_client::WatchResponse) -> Self {
        match (response.compact_revision(), response.cancel_reason()) {
            (0, reason) => Self::Refused(format!("etcd cancelled the watch: {reason:?}")),
            (revision, _) => Self::Revision(format!("everything before revision {revision} is compacted")),
        }
    }

    /// Sorts what etcd-client says. `ending` is what the socket saw, if it has ended.
    pub(crate) fn of(error: &etcd_client::Error, ending: Option<&str>) -> Self {
        let status = match error {
            etcd_client::Error::GRpcStatus(status) => status,
            etcd_client::Error::LeaseKeepAliveError(text) if text == "lease not found" => {
                return Self::Expired;
            }
            other => return Self::Broken(ending.map_or_else(|| chain(other), Into::into)),
        };
        let message = status.message().to_owned();
        match status.code() {
            tonic::Code::OutOfRange if message.contains("message length too large") => Self::TooBig(message),
            tonic::Code::OutOfRange => Self::Revision(message),
            tonic::Code::Unavailable
            | tonic::Code::Unknown
            | tonic::Code::Cancelled
            | tonic::Code::Internal => Self::Broken(ending.map_or_else(|| chain(status), Into::into)),
            tonic::Code::ResourceExhausted if message.contains("space exceeded") => {
                Self::NoSpace(format!("{message}; {}", Alarm::NoSpace.remedy()))
            }
            tonic::Code::InvalidArgument | tonic::Code::ResourceExhausted if is_about_size(&message) => {
                Self::RequestTooBig(message)
            }
            _ if is_about_users(&message) => Self::Auth(format!("{message}; {AUTH_REMEDY}")),
            code => Self::Refused(format!("{message} ({code:?})")),
        }
    }
}

/// What to do about an etcd with users.
const AUTH_REMEDY: &str = "etcd has authentication enabled: name an https:// endpoint and a client certificate whose \
    common name (CN) is a user of etcd, and grant that user's role read and write on the prefix clustermesh/ \
    (etcdctl role grant-permission ROLE readwrite --prefix=true clustermesh/); passwords are not used here";

/// Whether etcd's own users and roles are the reason.
fn is_about_users(message: &str) -> bool {
    ["user name is empty", "permission denied", "invalid auth token", "authentication"]
        .iter()
        .any(|part| message.contains(part))
}

/// Whether etcd, or the gRPC server in front of it, finds a request too big or a transaction too long.
fn is_about_size(message: &str) -> bool {
    ["request is too large", "message larger than max", "too many operations"]
        .iter()
        .any(|part| message.contains(part))
}

/// No connection, or a failed call on one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KvError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Call(#[from] CallError),
    /// The connection was good, and does not count any more by what is said of the server now.
    #[error(transparent)]
    Superseded(#[from] Superseded),
}

/// Why a connection that stands no longer counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Superseded {
    #[error("{endpoint} is no endpoint any more")]
    Endpoint { endpoint: EtcdEndpoint },
    #[error("what is trusted now does not vouch for the server at {endpoint}: {why}")]
    Trust { endpoint: EtcdEndpoint, why: String },
}
