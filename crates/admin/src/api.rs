//! The shapes of the admin API: JSON in snake_case below `/v1/` on the agent's unix socket.
//!
//! Shared by the agent, which serves them, and by every client. Fields are only ever added.

use std::path::PathBuf;

use mesh_model::address::Address;
use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, ClusterName, PortName, ServiceName};
use mesh_model::reason::{self, Actor, Reason};
use mesh_model::snapshot::{Protocol, ServicePort};
use serde::{Deserialize, Serialize};

use crate::hook::Hook;

/// Every list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    pub items: Vec<T>,
}

/// `/v1/node`: whose agent answers; a list of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub cluster: ClusterName,
    pub cluster_id: ClusterId,
    pub node: String,
    /// Of the agent, as `--version` says it.
    pub version: String,
}

/// `/v1/services`: a global service as this node balances it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unknown after a restart until the own source is synced.
    pub service: Option<ServiceName>,
    pub frontends: Vec<ServiceFrontend>,
    /// What of the service is not in use, and why; only where one service was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Vec<Omission>>,
}

/// A cluster, port or endpoint that takes no part in a service. `docs/services.md` lists the reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omission {
    /// Unknown where no peer file claims the id.
    pub cluster: Option<ClusterName>,
    /// None where it is about the service as this cluster has it.
    pub cluster_id: Option<ClusterId>,
    /// Of this cluster's service; none where it is about all of them.
    pub port: Option<ServicePort>,
    pub reason: Reason,
    /// How many endpoints are concerned; 0 where it is not about single ones.
    pub endpoints: usize,
    /// Who can do something about it.
    pub who: Actor,
    /// What is wrong, and what to do.
    pub detail: String,
}

impl Omission {
    pub fn new(omission: reason::Omission, named: impl Fn(ClusterId) -> Option<ClusterName>) -> Self {
        let reason::Omission { cluster, port, reason, endpoints, detail } = omission;
        let who = reason.actor();
        Self { cluster: cluster.and_then(named), cluster_id: cluster, port, reason, endpoints, who, detail }
    }
}

/// What a client dials, and where it may get to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFrontend {
    pub address: Address,
    pub port: u16,
    pub protocol: Protocol,
    pub port_name: Option<PortName>,
    /// Kube-proxy may take over when the agent is dead.
    pub plain_ok: bool,
    pub groups: Vec<Group>,
    /// Why the frontend is not as desired, or not wholly so.
    pub refused: Option<String>,
    /// Clusters that have backends and take no part: a frontend has room for 16, the own one always among them.
    #[serde(default)]
    pub left_out: Vec<LeftOutCluster>,
}

/// A cluster that takes no part in a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutCluster {
    /// Unknown where no peer file claims the id.
    pub cluster: Option<ClusterName>,
    pub cluster_id: ClusterId,
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
    /// Backends by what the frontend's own service calls them: see [`Backend::state`].
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
    pub address: Address,
    pub port: u16,
    /// What the frontend's own service calls it. The maps hold one state for all services that share a backend, the best
    /// of theirs, and this one until the own source is synced.
    pub state: BackendState,
}

/// What a service calls a backend.
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
    /// Since when the last good content has stood in for a peer file that is refused; `reason` says why.
    pub kept_since_unix_us: Option<u64>,
    /// Since when changes of the peer may be missed, although all of it was known before: none while it is followed.
    #[serde(default)]
    pub stale_since_unix_us: Option<u64>,
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
    /// Memory that its records take, as its quota counts it.
    #[serde(default)]
    pub memory_bytes: usize,
    /// Where the peer is cut, because it has more than its quota.
    #[serde(default)]
    pub cuts: Vec<PeerCut>,
}

/// A quota that a peer is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCut {
    /// `backends`, `memory`, `records` or `slots`.
    pub quota: String,
    pub allowed: u64,
    /// The first service by name that is not used wholly; none of those behind it is used.
    pub from: Option<ServiceName>,
    /// All of it as text, and what to do.
    pub reason: String,
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

/// `/v1/hooks`: what runs at one of the hooks at which sockets meet the programs. Empty until the kernel was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookPrograms {
    pub hook: Hook,
    /// In the order in which they run.
    pub programs: Vec<HookProgram>,
    /// What dialling the frontends showed; done only where programs of others run before ours.
    pub dials: Option<DialledFrontends>,
}

/// What became of the frontends when the agent dialled them, without sending a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialledFrontends {
    pub dialled: usize,
    /// Of these, the ones that something else had rewritten before our program saw them; at `getpeername`, the ones that
    /// were shown as something else.
    pub taken: usize,
    /// The first of them.
    pub examples: Vec<Frontend>,
}

/// A program at a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookProgram {
    pub runs: Runs,
    pub id: u32,
    /// Unknown where the agent may not ask: that takes CAP_SYS_ADMIN. `bpftool prog show id ID` has it.
    pub name: Option<String>,
    /// The hash of its instructions; unknown likewise.
    pub tag: Option<String>,
    /// The highest cgroup for which it runs.
    pub cgroup: PathBuf,
}

/// When a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runs {
    /// Before ours: it can take a destination away.
    Before,
    /// It is ours.
    Ours,
    /// Behind ours: what is sent to a backend never shows it a global service's address.
    Behind,
}

impl std::fmt::Display for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::Ours => "ours",
            Self::Behind => "behind",
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
    /// Writes failed; their frontends keep what they have and are tried again.
    ApplyFailed { at_unix_us: u64, reason: String },
    /// A program of somebody else came to one of our hooks, or went.
    ForeignProgram { at_unix_us: u64, hook: Hook, program: HookProgram, gone: bool },
    /// Something else began to take frontends before our program saw them, or ended to.
    FrontendsTaken { at_unix_us: u64, hook: Hook, dials: DialledFrontends },
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
            | Self::ForeignProgram { at_unix_us, .. }
            | Self::FrontendsTaken { at_unix_us, .. }
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
