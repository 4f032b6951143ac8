//! The shapes of the admin API: JSON in snake_case below `/v1/` on the agent's unix socket.
//!
//! Shared by the agent, which serves them, and by every client. Fields are only ever added.

use std::net::IpAddr;

use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, ClusterName, PortName, ServiceName};
use mesh_model::snapshot::Protocol;
use serde::{Deserialize, Serialize};

/// Every list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    pub items: Vec<T>,
}

/// `/v1/services`: a global service as this node balances it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unknown after a restart until the own source has spoken.
    pub service: Option<ServiceName>,
    pub frontends: Vec<ServiceFrontend>,
}

/// What a client dials, and where it may get to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFrontend {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub port_name: Option<PortName>,
    /// Kube-proxy may take over when the agent is dead.
    pub plain_ok: bool,
    pub groups: Vec<Group>,
    /// Why the frontend keeps what it has although something else is desired.
    pub refused: Option<String>,
}

/// One cluster's share of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Unknown where no peer file claims the id.
    pub cluster: Option<ClusterName>,
    pub cluster_id: ClusterId,
    /// 0 is preferred.
    pub tier: u8,
    pub weight: u32,
    pub demoted: bool,
    pub active: usize,
    pub terminating: usize,
    pub quarantined: usize,
    /// Connections sent there since the group exists.
    pub connections: u64,
    /// Of these, the ones that had nothing better than a terminating or quarantined backend or a demoted
    /// cluster.
    pub last_resort: u64,
}

/// `/v1/backends`: one backend behind one frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    pub service: Option<ServiceName>,
    pub frontend: Frontend,
    pub cluster: Option<ClusterName>,
    pub cluster_id: ClusterId,
    pub address: IpAddr,
    pub port: u16,
    pub state: BackendState,
}

/// What the maps say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    Active,
    Terminating,
    Quarantined,
    /// The maps hold no backend under the id: never seen in a healthy instance.
    Free,
}

/// `/v1/peers`: one peer file and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub id: Option<ClusterId>,
    pub state: PeerState,
    /// Why the peer is disconnected or refused, and what to do.
    pub reason: Option<String>,
    pub endpoints: Vec<String>,
    /// The endpoint in use.
    pub endpoint: Option<String>,
    /// The etcd revision up to which everything is known.
    pub revision: Option<i64>,
    pub incarnation: Option<String>,
    pub ranges: Option<RangesOrigin>,
    pub services: usize,
    pub backends: usize,
    /// Records and endpoints refused so far.
    pub rejected: u64,
    /// The last of them, as text.
    pub rejections: Vec<String>,
}

/// Where the address ranges of a peer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangesOrigin {
    /// Listed in the peer file.
    Agreed,
    /// The peer's own word; for labs.
    Declared,
}

/// What became of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Not reached yet.
    Connecting,
    /// Reached; its first list is under way, or its exporter has not finished its own.
    Listing,
    /// Everything it has is known and followed.
    Synced,
    /// Lost; what was known stays in use.
    Disconnected,
    /// Not used: the peer file or what the peer says of itself is wrong.
    Refused,
}

impl std::fmt::Display for PeerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Listing => "listing",
            Self::Synced => "synced",
            Self::Disconnected => "disconnected",
            Self::Refused => "refused",
        })
    }
}

impl std::fmt::Display for BackendState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Terminating => "terminating",
            Self::Quarantined => "quarantined",
            Self::Free => "free",
        })
    }
}

/// `/v1/events`: one line of JSON each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A plan was written. Times are microseconds since the epoch.
    MapsWritten {
        /// After the first map write of the plan.
        at_unix_us: u64,
        /// After the last.
        done_unix_us: u64,
        /// The services of the plan.
        services: Vec<ServiceName>,
        writes: Writes,
    },
    /// A peer's state changed.
    PeerState { at_unix_us: u64, peer: String, state: PeerState, reason: Option<String> },
    /// The maps of an earlier agent were taken over.
    Adopted { at_unix_us: u64, services: usize, backends: usize, damaged: usize },
    /// A write failed; the maps are read back and everything is planned again.
    ApplyFailed { at_unix_us: u64, reason: String },
    /// Events were lost because this reader was too slow.
    Lagged { at_unix_us: u64, lost: u64 },
}

impl Event {
    pub fn at_unix_us(&self) -> u64 {
        match self {
            Self::MapsWritten { at_unix_us, .. }
            | Self::PeerState { at_unix_us, .. }
            | Self::Adopted { at_unix_us, .. }
            | Self::ApplyFailed { at_unix_us, .. }
            | Self::Lagged { at_unix_us, .. } => *at_unix_us,
        }
    }
}

/// Elements written per map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writes {
    pub backends: usize,
    pub slots: usize,
    pub services: usize,
    pub deleted_services: usize,
}

/// The file `names` beside the socket: what the numbers in the maps stand for, for readers without the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    pub clusters: Vec<NamedCluster>,
    pub frontends: Vec<NamedFrontend>,
}

/// A cluster id's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCluster {
    pub id: ClusterId,
    pub name: ClusterName,
}

/// A frontend's service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFrontend {
    #[serde(flatten)]
    pub frontend: Frontend,
    pub service: ServiceName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_name: Option<PortName>,
}

/// Microseconds since the epoch.
pub fn unix_us(time: std::time::SystemTime) -> u64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
