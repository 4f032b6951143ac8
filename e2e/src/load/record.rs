//! A client's record of one connection: a line of JSON.

use std::io;

use serde::{Deserialize, Serialize};

/// One connection, with one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When the connection was begun, in microseconds since 1970.
    pub start_unix_us: u64,
    /// From then to the whole answer, or to the error.
    pub(crate) latency_us: u64,
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Record {
    /// When the whole answer was there, if a server of this cluster gave it.
    pub(crate) fn answered_by(&self, cluster: &str) -> Option<u64> {
        let Outcome::Answer(answer) = &self.outcome else { return None };
        answer.strip_prefix(cluster)?.starts_with('/').then_some(self.start_unix_us + self.latency_us)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The server that answered: "cluster/pod".
    Answer(String),
    Error(Failure),
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    Refused,
    Timeout,
    Reset,
    Unreachable,
    /// The name was not found, or nobody answered for it.
    Unresolved,
    /// Closed, or answered with something else.
    Garbled,
    /// Not permitted by a cgroup program or a packet filter.
    Forbidden,
    /// Not tried: too many connections were under way.
    Overload,
    Other,
}

impl Failure {
    pub(crate) fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::TimedOut => Self::Timeout,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => Self::Reset,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::AddrNotAvailable => Self::Unreachable,
            Kind::UnexpectedEof | Kind::InvalidData => Self::Garbled,
            Kind::PermissionDenied => Self::Forbidden,
            _ => Self::Other,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::Unresolved => "unresolved",
            Self::Garbled => "garbled",
            Self::Forbidden => "forbidden",
            Self::Overload => "overload",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_line_of_json() {
        for outcome in [Outcome::Answer("hoth/rebel-base-1".into()), Outcome::Error(Failure::Refused)] {
            let record = Record { start_unix_us: 1, latency_us: 2, outcome };
            let line = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
        }
        let line = r#"{"start_unix_us":1,"latency_us":2,"error":"refused"}"#;
        assert!(serde_json::from_str::<Record>(line).is_ok());
    }
}
