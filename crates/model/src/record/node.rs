//! The record of a Node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::key::RecordKey;
use super::rejection::Fault;
use super::{Entry, MAX_RANGES, agree, decode_json, entry};
use crate::name::{ClusterName, NodeName};
use crate::snapshot::Node;

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(default)]
    cluster: Option<String>,
    #[serde(default)]
    node: Option<String>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    #[serde(default)]
    pod_cidrs: Vec<ipnet::IpNet>,
}

/// The entry of a Node.
pub fn node_entry(cluster: &ClusterName, name: &NodeName, node: &Node) -> Entry {
    let wire = Wire {
        cluster: Some(cluster.as_str().into()),
        node: Some(name.as_str().into()),
        addresses: node.addresses.iter().copied().take(MAX_RANGES).collect(),
        pod_cidrs: node.pod_cidrs.iter().copied().take(MAX_RANGES).collect(),
    };
    entry(&RecordKey::Node(cluster.clone(), name.clone()), &wire)
}

pub(super) fn decode(cluster: &ClusterName, name: &NodeName, value: &[u8]) -> Result<Node, Fault> {
    let wire: Wire = decode_json(value)?;
    agree("cluster", wire.cluster.as_deref(), cluster.as_str())?;
    agree("node", wire.node.as_deref(), name.as_str())?;
    if wire.addresses.len() > MAX_RANGES || wire.pod_cidrs.len() > MAX_RANGES {
        let detail = format!("more than {MAX_RANGES} addresses or pod CIDRs");
        return Err(Fault::field("addresses", &detail));
    }
    Ok(Node { addresses: wire.addresses, pod_cidrs: wire.pod_cidrs })
}
