//! The address plan of the namespace lab: which addresses clusters, nodes, pods and services have.
//!
//! Pure arithmetic, both families at once: every answer is `[IPv4, IPv6]`. All ranges are private, disjoint between
//! clusters, and exist in the lab's namespaces only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 and an IPv6 address of the same thing.
pub(crate) type Pair = [IpAddr; 2];

/// The most clusters that fit the plan: the third octet of the ranges and the services' second one (100 + index).
pub(crate) const MAX_CLUSTERS: usize = 99;

/// The part of the plan that belongs to one cluster. Its index, from 1, is also the cluster id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan(u8);

fn pair(v4: [u8; 4], v6: [u16; 8]) -> Pair {
    [IpAddr::V4(Ipv4Addr::from(v4)), IpAddr::V6(Ipv6Addr::from(v6))]
}

impl Plan {
    /// The plan of the `index`th cluster, counted from 1.
    pub(crate) fn new(index: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1..=MAX_CLUSTERS).contains(&index),
            "the address plan has room for {MAX_CLUSTERS} clusters"
        );
        Ok(Self(u8::try_from(index)?))
    }

    pub(crate) fn index(self) -> u8 {
        self.0
    }

    fn wide(self) -> u16 {
        u16::from(self.0)
    }

    /// The range of all pods.
    pub(crate) fn pods(self) -> [String; 2] {
        [format!("10.{}.0.0/16", self.0), format!("fd10:0:{:x}::/48", self.0)]
    }

    /// The range of the pods of one node.
    pub(crate) fn node_pods(self, node: u8) -> [String; 2] {
        [format!("10.{}.{node}.0/24", self.0), format!("fd10:0:{:x}:{node:x}::/64", self.0)]
    }

    /// The range of the nodes' own addresses, the router's and the control plane's among them.
    pub(crate) fn nodes(self) -> [String; 2] {
        [format!("192.168.{}.0/24", self.0), format!("fd19:0:{:x}::/64", self.0)]
    }

    /// The range of ClusterIPs. No route of the lab covers it.
    pub(crate) fn services(self) -> [String; 2] {
        [format!("10.{}.0.0/16", 100 + self.0), format!("fd1c:0:{:x}::/112", self.0)]
    }

    fn on_lan(self, host: u8) -> Pair {
        pair([192, 168, self.0, host], [0xfd19, 0, self.wide(), 0, 0, 0, 0, host.into()])
    }

    pub(crate) fn router(self) -> Pair {
        self.on_lan(1)
    }

    pub fn control(self) -> Pair {
        self.on_lan(2)
    }

    /// A node's own address; nodes count from 1.
    pub fn node(self, node: u8) -> Pair {
        self.on_lan(10 + node)
    }

    /// The address of a node towards its pods: their gateway.
    pub(crate) fn gateway(self, node: u8) -> Pair {
        self.pod(node, 1)
    }

    /// The address of a pod; slots count from 2.
    pub(crate) fn pod(self, node: u8, slot: u8) -> Pair {
        pair([10, self.0, node, slot], [0xfd10, 0, self.wide(), node.into(), 0, 0, 0, slot.into()])
    }

    /// The `number`th ClusterIP.
    pub fn cluster_ip(self, number: u16) -> Pair {
        let [high, low] = number.to_be_bytes();
        pair([10, 100 + self.0, high, low], [0xfd1c, 0, self.wide(), 0, 0, 0, 0, number])
    }

    /// The router's address on its link to the WAN.
    pub(crate) fn wan_router(self) -> Pair {
        pair([172, 31, self.0, 2], [0xfd31, 0, self.wide(), 0, 0, 0, 0, 2])
    }

    /// The WAN's address on its link to the cluster's router.
    pub(crate) fn wan_hub(self) -> Pair {
        pair([172, 31, self.0, 1], [0xfd31, 0, self.wide(), 0, 0, 0, 0, 1])
    }
}

/// `address/length` with the prefix length of its family.
pub(crate) fn with_length(address: IpAddr, v4: u8, v6: u8) -> String {
    format!("{address}/{}", if address.is_ipv4() { v4 } else { v6 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_in_their_ranges() {
        let plan = Plan::new(2).unwrap();
        assert_eq!(plan.pods(), ["10.2.0.0/16", "fd10:0:2::/48"]);
        assert_eq!(plan.pod(1, 7).map(|a| a.to_string()), ["10.2.1.7", "fd10:0:2:1::7"]);
        assert_eq!(plan.cluster_ip(1).map(|a| a.to_string()), ["10.102.0.1", "fd1c:0:2::1"]);
        assert_eq!(plan.node(2).map(|a| a.to_string()), ["192.168.2.12", "fd19:0:2::c"]);
    }
}
