//! Why a record was refused.

use std::sync::Arc;

use super::key::KeyError;
use super::{MAX_PORTS, MAX_SERVICE_ENDPOINTS, MAX_VALUE_BYTES, SCHEMA};
use crate::address_policy::PolicyRejection;
use crate::name::{ClusterId, ClusterName};

/// A record, or a part of one, that was not accepted. Displays the key, the reason and the remedy in one line
/// without control characters, bounded in length whatever the peer wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {key}: {fault}")]
pub struct Rejection {
    /// The key as text, shortened and escaped.
    pub key: Arc<str>,
    pub fault: Fault,
}

impl Rejection {
    pub fn new(key: &str, fault: Fault) -> Self {
        Self { key: shorten(key).into(), fault }
    }

    pub fn reason(&self) -> Reason {
        self.fault.reason()
    }
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Key(KeyError),
    #[error(
        "the value has {bytes} bytes and at most {MAX_VALUE_BYTES} are accepted; let the peer's exporter split \
         it into smaller slices"
    )]
    TooLarge { bytes: usize },
    #[error("the value is not JSON ({detail}); let the peer's exporter write it again")]
    NotJson { detail: String },
    #[error("the value has the wrong shape ({detail}); let a compatible exporter write it again")]
    WrongType { detail: String },
    #[error("the value says {field} {found:?} but the key says {key:?}; only the peer can correct it")]
    Disagrees { field: &'static str, found: String, key: String },
    #[error(
        "it belongs to cluster {found}, but this peer is {pinned} and may only write below its own name; check \
         the endpoints in the peer's file"
    )]
    ForeignCluster { found: ClusterName, pinned: ClusterName },
    #[error(
        "the cluster says its id is {found}, but the peer's file says {pinned}; correct `id` there, or \
         --cluster-id of the peer if another cluster uses {found}"
    )]
    WrongId { found: ClusterId, pinned: ClusterId },
    #[error("it is written in schema {found} and this version reads schema {SCHEMA}; upgrade the older side")]
    Schema { found: u32 },
    #[error("port {name:?} has the number 0; use 1–65535")]
    PortZero { name: String },
    #[error("{field} is invalid: {detail}")]
    Field { field: &'static str, detail: String },
    #[error("an endpoint is refused: {detail}")]
    Endpoint { detail: String },
    #[error("an endpoint is refused: {0}")]
    AddressRefused(PolicyRejection),
    #[error(
        "the service has more than {MAX_SERVICE_ENDPOINTS} endpoints in this cluster; {left_out} slices beyond \
         that are not used; split the service"
    )]
    TooManyEndpoints { left_out: usize },
    #[error("it has more than {MAX_PORTS} ports; {left_out} are left out: spread them over several Services")]
    TooManyPorts { left_out: usize },
}

impl Fault {
    pub(super) fn from_json(error: &serde_json::Error) -> Self {
        // The text of an error may quote the whole value.
        let detail = shorten(&error.to_string());
        if error.is_data() { Self::WrongType { detail } } else { Self::NotJson { detail } }
    }

    pub(super) fn field(field: &'static str, detail: &impl ToString) -> Self {
        Self::Field { field, detail: shorten(&detail.to_string()) }
    }

    pub fn reason(&self) -> Reason {
        match self {
            Self::Key(_) => Reason::BadKey,
            Self::TooLarge { .. } => Reason::TooLarge,
            Self::NotJson { .. } => Reason::NotJson,
            Self::WrongType { .. } => Reason::WrongType,
            Self::Disagrees { .. } => Reason::Disagrees,
            Self::ForeignCluster { .. } => Reason::ForeignCluster,
            Self::WrongId { .. } => Reason::WrongId,
            Self::Schema { .. } => Reason::Schema,
            Self::PortZero { .. } => Reason::PortZero,
            Self::Field { .. } => Reason::InvalidField,
            Self::Endpoint { .. } => Reason::BadEndpoint,
            Self::AddressRefused(_) => Reason::AddressRefused,
            Self::TooManyEndpoints { .. } => Reason::TooManyEndpoints,
            Self::TooManyPorts { .. } => Reason::TooManyPorts,
        }
    }

    /// Whether a slice's record with such a fault is the slice's all the same, so that what it does not list any more
    /// is gone.
    pub(crate) fn withdraws(&self) -> bool {
        matches!(
            self.reason(),
            Reason::TooLarge
                | Reason::WrongType
                | Reason::PortZero
                | Reason::InvalidField
                | Reason::BadEndpoint
        )
    }

    /// Whether such a fault in the cluster record means that this is not the cluster that the peer's file
    /// pins, so that nothing it says is used.
    pub(crate) fn refuses_peer(&self) -> bool {
        matches!(self.reason(), Reason::Disagrees | Reason::ForeignCluster | Reason::WrongId | Reason::Schema)
    }
}

/// The kind of a [`Fault`], for metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    BadKey,
    TooLarge,
    NotJson,
    WrongType,
    Disagrees,
    ForeignCluster,
    WrongId,
    Schema,
    PortZero,
    InvalidField,
    BadEndpoint,
    AddressRefused,
    TooManyEndpoints,
    TooManyPorts,
}

impl Reason {
    /// All reasons, so that a metric can show each from the start.
    pub const ALL: [Self; 14] = [
        Self::BadKey,
        Self::TooLarge,
        Self::NotJson,
        Self::WrongType,
        Self::Disagrees,
        Self::ForeignCluster,
        Self::WrongId,
        Self::Schema,
        Self::PortZero,
        Self::InvalidField,
        Self::BadEndpoint,
        Self::AddressRefused,
        Self::TooManyEndpoints,
        Self::TooManyPorts,
    ];

    /// The stable label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadKey => "bad_key",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::WrongType => "wrong_type",
            Self::Disagrees => "disagrees",
            Self::ForeignCluster => "foreign_cluster",
            Self::WrongId => "wrong_id",
            Self::Schema => "schema",
            Self::PortZero => "port_zero",
            Self::InvalidField => "invalid_field",
            Self::BadEndpoint => "bad_endpoint",
            Self::AddressRefused => "outside_fence",
            Self::TooManyEndpoints => "too_many_endpoints",
            Self::TooManyPorts => "too_many_ports",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Longest foreign text, in characters, that goes into a message.
const SHOWN: usize = 200;

/// Foreign text made fit for a log line: control characters escaped, length bounded.
pub(crate) fn shorten(text: &str) -> String {
    let mut characters = text.chars();
    let mut short = String::new();
    for character in characters.by_ref().take(SHOWN) {
        if character.is_control() {
            short.extend(character.escape_default());
        } else {
            short.push(character);
        }
    }
    if characters.next().is_some() {
        short.push('…');
    }
    short
}
