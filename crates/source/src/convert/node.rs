//! Nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node as Object;
use mesh_model::snapshot::Node;

use super::{Converted, Refusals, Verdict, shown};
use crate::status::Reason;

/// A Node: its internal addresses, then its external ones, and the ranges of its pods. Host names are left out.
pub fn node(object: &Object) -> Converted<Node> {
    let mut refused = Refusals::new(Reason::node, "address or range");
    let mut addresses = Vec::new();
    for kind in ["InternalIP", "ExternalIP"] {
        let written = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
        for address in written.filter(|address| address.type_ == kind) {
            match address.address.parse::<IpAddr>() {
                Ok(address) if addresses.contains(&address) => {}
                Ok(address) => addresses.push(address),
                Err(_) => refused.add(format!("{} is no IP address", shown(&address.address))),
            }
        }
    }
    let mut pod_cidrs = Vec::new();
    for text in written_ranges(object) {
        match text.parse::<IpNet>() {
            Ok(range) => pod_cidrs.push(range.trunc()),
            Err(_) => refused.add(format!("{} is no address range such as 10.1.0.0/24", shown(text))),
        }
    }
    let notes = refused.note().into_iter().collect();
    Converted { verdict: Verdict::Use(Node { addresses, pod_cidrs }), notes }
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
        let object = serde_json::from_value(json!({
            "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "192.168.1.1"}, {"type": "InternalIP", "address": "nonsense"},
            ]},
        }));
        let converted = node(&object.expect("a Node"));
        let Verdict::Use(node) = converted.verdict else { panic!("{converted:?}") };
        assert_eq!(
            node.addresses,
            ["192.168.1.1".parse::<IpAddr>().unwrap(), "203.0.113.1".parse().unwrap()]
        );
        assert_eq!(node.pod_cidrs.len(), 2);
        assert_eq!(converted.notes[0].message, "1 address or range ignored: \"nonsense\" is no IP address");
    }
}
