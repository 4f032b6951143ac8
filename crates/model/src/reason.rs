//! Why a cluster, a Service, a port or an endpoint takes no part: the one list of reasons for whoever shows or tells one.
//!
//! `docs/services.md` has the same list, and a test compares the two.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::ClusterId;
use crate::snapshot::ServicePort;

/// Something that takes no part in a global Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Omission {
    /// None where it is about the Service as this cluster has it.
    pub cluster: Option<ClusterId>,
    /// None where it is about all ports.
    pub port: Option<ServicePort>,
    pub reason: Reason,
    /// How many endpoints are concerned; 0 where it is not about single ones.
    pub endpoints: usize,
    /// What is wrong in this very case, and what to do.
    pub detail: String,
}

impl Omission {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { cluster: None, port: None, reason, endpoints: 0, detail: detail.into() }
    }

    pub fn of(self, cluster: ClusterId) -> Self {
        Self { cluster: Some(cluster), ..self }
    }
}

/// Who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// Whoever writes the Service, in this cluster or in the other.
    Owner,
    /// Whoever runs the mesh in this cluster.
    Operator,
    /// Whoever runs the mesh in the other cluster.
    Peer,
    /// It passes by itself, or is meant to be so.
    Nobody,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "owner",
            Self::Operator => "operator",
            Self::Peer => "peer",
            Self::Nobody => "nobody",
        })
    }
}

/// Who tells the owner of the Service of it, by a Kubernetes Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    /// Who reads the cluster's objects for other clusters.
    Exporter,
    /// Who reads what other clusters have.
    Agents,
    /// The owner can't act, or it is ordinary.
    Nobody,
}

impl fmt::Display for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exporter => "clustermesh-apiserver",
            Self::Agents => "node-agent",
            Self::Nobody => "–",
        })
    }
}

/// Declares the reasons with their stable names, who can act, who tells the owner, and what they mean.
macro_rules! reasons {
    ($($variant:ident, $name:literal, $actor:ident, $teller:ident, $meaning:literal;)+) => {
        /// Why something takes no part.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason {
            $(#[doc = $meaning] $variant,)+
        }

        impl Reason {
            /// In the order of the documentation: the Service, its frontends, clusters, ports, endpoints.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The stable name: in JSON, and as the label of a metric.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            pub fn actor(self) -> Actor {
                match self { $(Self::$variant => Actor::$actor),+ }
            }

            pub fn teller(self) -> Teller {
                match self { $(Self::$variant => Teller::$teller),+ }
            }

            /// One sentence, as the documentation has it.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),+ }
            }
        }
    };
}

reasons! {
    NotGlobal, "not_global", Owner, Nobody, "this cluster has no global Service of that name";
    NotBalanced, "not_balanced", Owner, Exporter, "the Service is headless or an ExternalName, so there is nothing to balance";
    Invalid, "invalid", Owner, Exporter, "the Service or one of its slices is refused, wholly or in part; what was known of it stays";
    ExportToInvalid, "export_to_invalid", Owner, Exporter, "`clustermesh.io/export-to` names no clusters, so the Service is refused: it stays as it was for those who see it, and nobody else sees it";
    Unsupported, "unsupported", Owner, Exporter, "a port is SCTP, or a slice names hosts, which the mesh does not balance";
    OverLimit, "over_limit", Owner, Exporter, "what of the Service is beyond a limit is not told to other clusters";
    Unread, "unread", Operator, Nobody, "what the own source holds of the Service can't be read; it stays as it was";
    NodeLocal, "node_local", Owner, Exporter, "`internalTrafficPolicy: Local` keeps connections on the client's node, so the own nodes leave the Service to kube-proxy";
    AddressTaken, "address_taken", Owner, Agents, "another Service of this cluster has the ClusterIP and port";
    NoRoom, "no_room", Operator, Nobody, "a map is full, so the frontend keeps what it has";
    OverQuota, "over_quota", Operator, Nobody, "the peer has more than it may have here, so only some of its backends are in use, or none";
    WriteFailed, "write_failed", Nobody, Nobody, "the kernel refused a write, which is tried again; until then the frontend keeps what it has";
    PeerRefused, "peer_refused", Operator, Nobody, "the peer's file is refused, or another cluster answers; what was known of it stays";
    PeerSilent, "peer_silent", Nobody, Nobody, "nothing has been heard of the peer yet; what the maps hold of it stays";
    NotOffered, "not_offered", Owner, Nobody, "the other cluster has no Service of that name that is global and shared with this one";
    TooManyClusters, "too_many_clusters", Nobody, Nobody, "more clusters have backends than a frontend has room for";
    PortMismatch, "port_mismatch", Owner, Agents, "the other cluster's Service has no port of that name, nor one of that protocol and number";
    PortNotServed, "port_not_served", Owner, Agents, "the cluster's Service has the port, but none of its slices does";
    TooManyPorts, "too_many_ports", Owner, Agents, "ports beyond the limit of a record are left out";
    NoEndpoints, "no_endpoints", Nobody, Nobody, "the cluster has no endpoint of that family that is ready";
    NotReady, "not_ready", Nobody, Nobody, "endpoints that are not ready";
    Terminating, "terminating", Nobody, Nobody, "endpoints that terminate are used only when nothing better is left";
    OtherFamily, "other_family", Owner, Agents, "endpoints of an address family of which the Service has no ClusterIP here";
    HintedAway, "hinted_away", Nobody, Nobody, "topology hints keep the endpoints for clients of other zones or nodes";
    OutsideRanges, "outside_ranges", Operator, Nobody, "endpoints outside of the address ranges agreed with the cluster";
    RecordRefused, "record_refused", Peer, Nobody, "a record can't be understood: what it was before stays, without the endpoints that it no longer lists";
    EndpointRefused, "endpoint_refused", Peer, Nobody, "endpoints that no record may have, such as one without an IP address";
    TooManyEndpoints, "too_many_endpoints", Owner, Agents, "endpoints beyond the limit of a Service of one cluster are left out";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
