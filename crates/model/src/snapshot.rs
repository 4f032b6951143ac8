//! What a source says of its own cluster: the global Services and what stands behind them.
//!
//! A source publishes a snapshot only once it has seen everything (its first full list); before that there is
//! none, which is ignorance and never emptiness.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::annotation::Scope;
pub use crate::endpoint::{Condition, Endpoint};
use crate::name::{NodeName, PortName, ServiceName, SliceName};

/// Transport protocol of a port. SCTP is not balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A cluster's global Services and Nodes. Maps share structure, so cloning one and comparing two neighbours
/// costs by what changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterSnapshot {
    /// Only Services that are global by annotation and can be balanced.
    pub services: OrdMap<ServiceName, Arc<Service>>,
    pub nodes: OrdMap<NodeName, Arc<Node>>,
    /// What else there is, or may be.
    pub unread: Unread,
}

/// What a source holds but cannot read, and of which it knows no earlier value. It may be as it was published before
/// this process began, so whatever it may be is not deleted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unread {
    /// Services, global or not, with those of their slices that can be read.
    pub services: OrdMap<ServiceName, BTreeMap<SliceName, Arc<Slice>>>,
    /// Slices by namespace and name: which Service they belong to is not known.
    pub slices: OrdSet<(String, SliceName)>,
    pub nodes: OrdSet<NodeName>,
    /// There is something that does not even tell its name, so it may be any object of before.
    pub anything: bool,
    /// Services some of whose slices are as an earlier process wrote them down, which may not have been the last that it
    /// read of them.
    pub stale: OrdSet<ServiceName>,
}

impl Unread {
    /// Whether everything that there is has an earlier value, if a stale one.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.slices.is_empty() && self.nodes.is_empty() && !self.anything
    }

    /// Whether a Service of which nothing was read may be there all the same.
    pub fn may_be_service(&self, name: &ServiceName) -> bool {
        self.anything || self.services.contains_key(name)
    }

    /// Whether a Service may have more slices than those that were read, or other endpoints in them.
    pub fn may_have_slices(&self, service: &ServiceName) -> bool {
        self.anything
            || self.stale.contains(service)
            || self.slices.iter().any(|(namespace, _)| namespace == service.namespace())
    }
}

/// A global Service with its EndpointSlices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub scope: Scope,
    /// One or two (dual stack); never empty.
    pub cluster_ips: Vec<Address>,
    pub ports: Vec<ServicePort>,
    /// Seconds that a client stays with a backend (`sessionAffinity: ClientIP`); recorded, not yet honoured.
    pub session_affinity_seconds: Option<u32>,
    /// Connections must not leave the node (`internalTrafficPolicy: Local`), so that a mesh has nothing to add: the
    /// own nodes leave the Service to whatever serves it. Others may use its backends all the same.
    pub node_local: bool,
    /// `metadata.creationTimestamp` as written, RFC 3339.
    pub created_at: Option<String>,
    pub slices: BTreeMap<SliceName, Arc<Slice>>,
}

/// A port that a client dials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePort {
    /// Unnamed only where it is the only port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PortName>,
    pub protocol: Protocol,
    /// 1–65535.
    pub port: u16,
}

impl std::fmt::Display for ServicePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, protocol, port } = self;
        name.iter().try_for_each(|name| write!(f, "{name} "))?;
        write!(f, "{port}/{protocol}")
    }
}

/// One EndpointSlice: its endpoints all serve the same ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
}

/// A port on which the endpoints of a slice listen; matched to a [`ServicePort`] by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlicePort {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PortName>,
    pub protocol: Protocol,
    /// 1–65535.
    pub port: u16,
}

/// A Node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<ipnet::IpNet>,
}
