//! Nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::name::NodeName;
use mesh_model::snapshot::Node;

use super::{Convert, Converted, Identify, Note, Refusals, Verdict, bad_name, shown};
use crate::status::Reason;
use crate::wire::{Meta, Node as Object, ServiceCidr};

/// A Node, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeEntry {
    pub node: Node,
    pub zone: Option<String>,
}

impl Identify for NodeName {
    fn identify(meta: &Meta) -> Result<Self, Note> {
        Self::new(meta.name.as_deref().unwrap_or("")).map_err(|error| bad_name(&error))
    }
}

/// The ranges of a ServiceCIDR. What is none is left out: the API server has checked them.
impl Convert for ServiceCidr {
    type Value = Vec<IpNet>;

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn convert(&self) -> Converted<Vec<IpNet>> {
        let written = self.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
        let ranges = written.filter_map(|text| text.parse::<IpNet>().ok()).map(|range| range.trunc());
        Converted { verdict: Verdict::Use(ranges.collect()), notes: Vec::new() }
    }
}

/// A Node: its internal addresses, then its external ones, and the ranges of its pods. Host names are left out.
impl Convert for Object {
    type Value = NodeEntry;

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn convert(&self) -> Converted<NodeEntry> {
        let mut refused = Refusals::new(Reason::Node, "address or range");
        let mut addresses = Vec::new();
        for kind in ["InternalIP", "ExternalIP"] {
            let written = self.status.iter().flat_map(|status| status.addresses.iter().flatten());
            for address in written.filter(|address| address.kind == kind) {
                match address.address.parse::<IpAddr>() {
                    Ok(address) if addresses.contains(&address) => {}
                    Ok(address) => addresses.push(address),
                    Err(_) => refused.add(format!("{} is no IP address", shown(&address.address))),
                }
            }
        }
        let mut pod_cidrs = Vec::new();
        for text in written_ranges(self) {
            match text.parse::<IpNet>() {
                Ok(range) => pod_cidrs.push(range.trunc()),
                Err(_) => refused.add(format!("{} is no address range such as 10.1.0.0/24", shown(text))),
            }
        }
        let notes = refused.note().into_iter().collect();
        let zone = self.metadata.labels.as_ref().and_then(|labels| labels.zone.clone());
        let entry = NodeEntry { node: Node { addresses, pod_cidrs }, zone };
        Converted { verdict: Verdict::Use(entry), notes }
    }
}

fn written_ranges(object: &Object) -> impl Iterator<Item = &String> {
    let spec = object.spec.iter();
    spec.flat_map(|spec| {
        let many = spec.pod_cidrs.iter().flatten();
        many.chain(spec.pod_cidr.iter().filter(|_| spec.pod_cidrs.as_ref().is_none_or(Vec::is_empty)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_has_addresses_and_ranges() {
        let object = serde_json::from_value::<Object>(json!({
            "metadata": {"labels": {"topology.kubernetes.io/zone": "outer-rim"}},
            "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "192.168.1.1"}, {"type": "InternalIP", "address": "nonsense"},
            ]},
        }));
        let converted = object.expect("a Node").convert();
        let Verdict::Use(NodeEntry { node, zone }) = converted.verdict else { panic!("{converted:?}") };
        assert_eq!(
            node.addresses,
            ["192.168.1.1".parse::<IpAddr>().unwrap(), "203.0.113.1".parse().unwrap()]
        );
        assert_eq!(node.pod_cidrs.len(), 2);
        assert_eq!(zone.as_deref(), Some("outer-rim"));
        assert_eq!(converted.notes[0].message, "1 address or range ignored: \"nonsense\" is no IP address");
    }
}
