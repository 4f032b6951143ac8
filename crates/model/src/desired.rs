//! What the datapath of one node shall hold, in words of the domain: no ids, no slots.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::address::Address;
pub use crate::endpoint::DesiredBackend;
use crate::name::{ClusterId, PortName, ServiceName};
use crate::snapshot::Protocol;

/// How many groups a frontend has room for; the datapath's `MAX_GROUPS`.
pub const MAX_GROUPS: usize = 16;

/// What a client dials: a ClusterIP, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Frontend {
    pub address: Address,
    /// 1–65535.
    pub port: u16,
    pub protocol: Protocol,
}

/// As it is written everywhere: `10.96.0.1:80/TCP`.
impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address.into(), self.port), self.protocol)
    }
}

/// A frontend's groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredService {
    pub service: ServiceName,
    pub port_name: Option<PortName>,
    /// The own cluster has ready backends and something else serves the frontend too.
    pub plain_ok: bool,
    /// At most one per cluster, sorted by tier, then cluster; none is empty. At most [`MAX_GROUPS`].
    pub groups: Vec<DesiredGroup>,
}

/// One cluster's backends behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredGroup {
    pub cluster: ClusterId,
    /// 0 is preferred.
    pub tier: u8,
    /// Share of new connections within the tier.
    pub weight: u32,
    /// Sorted by address and port, without duplicates.
    pub backends: Vec<DesiredBackend>,
}

/// Whether a backend takes new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    Active,
    /// Serving but terminating.
    Terminating,
}

/// The frontends of one service, or of all.
pub type Desired = BTreeMap<Frontend, DesiredService>;
