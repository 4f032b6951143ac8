//! Etcd endpoints: the addresses of an etcd, or of whatever speaks its protocol.
//!
//! Parses and displays; never resolves or dials.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The port of an etcd endpoint that names none.
const DEFAULT_PORT: u16 = 2379;

/// `http://HOST:PORT` or `https://HOST:PORT`; the port defaults to 2379.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EtcdEndpoint {
    secure: bool,
    /// A DNS name, or an IP address without brackets.
    host: Arc<str>,
    port: u16,
}

/// Why a text is no etcd endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EtcdEndpointError {
    #[error("endpoint {text:?} does not begin with http:// or https://: write https://HOST:PORT")]
    Scheme { text: String },
    #[error("endpoint {text:?} has a path, query or user: write https://HOST:PORT and nothing behind it")]
    Excess { text: String },
    #[error("endpoint {text:?} has no valid host: write https://HOST:PORT, an IPv6 address in [brackets]")]
    Host { text: String },
    #[error("endpoint {text:?} has no valid port: use 1–65535, 2379 is usual")]
    Port { text: String },
}

impl EtcdEndpoint {
    /// Whether it is reached over TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// A DNS name, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// 1–65535.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `HOST:PORT`, an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// Splits `HOST[:PORT]` into host (brackets removed) and port.
fn split_authority(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return if after.is_empty() {
            Some((host, None))
        } else {
            Some((host, Some(after.strip_prefix(':')?)))
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    is_host_name(host).then_some((host, port))
}

impl FromStr for EtcdEndpoint {
    type Err = EtcdEndpointError;

    fn from_str(text: &str) -> Result<Self, EtcdEndpointError> {
        // An error quotes foreign text, which may be of any length.
        let quoted = || text.chars().take(120).collect::<String>();
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(EtcdEndpointError::Scheme { text: quoted() }),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(EtcdEndpointError::Excess { text: quoted() });
        }
        let (host, port) =
            split_authority(authority).ok_or_else(|| EtcdEndpointError::Host { text: quoted() })?;
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(port @ 1..) => port,
                Ok(0) | Err(_) => return Err(EtcdEndpointError::Port { text: quoted() }),
            },
        };
        Ok(Self { secure, host: host.to_ascii_lowercase().into(), port })
    }
}

impl TryFrom<String> for EtcdEndpoint {
    type Error = EtcdEndpointError;
    fn try_from(text: String) -> Result<Self, EtcdEndpointError> {
        text.parse()
    }
}

impl From<EtcdEndpoint> for String {
    fn from(endpoint: EtcdEndpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for EtcdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse_and_display() {
        for (text, shown, host) in [
            ("https://etcd.rebels.example:2379", "https://etcd.rebels.example:2379", "etcd.rebels.example"),
            ("http://127.0.0.1:4000/", "http://127.0.0.1:4000", "127.0.0.1"),
            ("https://[fd00::1]:2379", "https://[fd00::1]:2379", "fd00::1"),
            ("https://[fd00::1]", "https://[fd00::1]:2379", "fd00::1"),
            ("http://ETCD", "http://etcd:2379", "etcd"),
        ] {
            let endpoint: EtcdEndpoint = text.parse().unwrap();
            assert_eq!((endpoint.to_string().as_str(), endpoint.host()), (shown, host));
            assert_eq!(endpoint.is_secure(), text.starts_with("https"));
        }
    }

    #[test]
    fn what_is_no_endpoint_is_named_with_its_remedy() {
        for (text, part) in [
            ("", "begin with http"),
            ("127.0.0.1:2379", "begin with http"),
            ("ftp://a:1", "begin with http"),
            ("http://", "no valid host"),
            ("http://a b:1", "no valid host"),
            ("http://fd00::1:2379", "no valid port"),
            ("http://[fd00::1", "no valid host"),
            ("http://[fd00::1]x", "no valid host"),
            ("http://a:0", "no valid port"),
            ("http://a:65536", "no valid port"),
            ("http://a:", "no valid port"),
            ("http://a:1/v3", "has a path"),
            ("http://user@a:1", "has a path"),
        ] {
            let error = text.parse::<EtcdEndpoint>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
