//! Address ranges of clusters: the own ones, and those that a peer file agrees to.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address_set::AddressSet;

/// How many address ranges a cluster record may have, and how many addresses and pod CIDRs that of a Node.
pub(crate) const MAX_RANGES: usize = 1024;

/// Address ranges of a cluster that may hold backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ranges {
    pub pods: Vec<IpNet>,
    /// For backends on the host network.
    pub nodes: Vec<IpNet>,
}

impl Ranges {
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.nodes.is_empty()
    }

    /// Number of ranges of both kinds.
    pub fn len(&self) -> usize {
        self.pods.len() + self.nodes.len()
    }

    /// Both kinds as one set.
    pub(super) fn set(&self) -> AddressSet {
        self.pods.iter().chain(&self.nodes).copied().collect()
    }
}

/// This cluster's own ranges: what no peer may claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRanges {
    pub pods: Vec<IpNet>,
    pub services: Vec<IpNet>,
    pub nodes: Vec<IpNet>,
}

impl OwnRanges {
    /// What the own cluster record tells others: these ranges, or where they are more than a record takes, fewer and wider
    /// ones that hold them. A reader believes no more than what was agreed, so that too wide a record is no harm.
    pub fn exported(&self) -> Ranges {
        let wider = |ranges: &[IpNet], bits: u8| {
            let ranges: Vec<IpNet> = ranges.iter().map(|range| widened(*range, bits)).collect();
            IpNet::aggregate(&ranges)
        };
        if self.pods.len() + self.nodes.len() <= MAX_RANGES {
            return Ranges { pods: self.pods.clone(), nodes: self.nodes.clone() };
        }
        let all = (0..=WIDEST_BITS)
            .map(|bits| Ranges { pods: wider(&self.pods, bits), nodes: wider(&self.nodes, bits) });
        // A record without ranges narrows nothing.
        all.into_iter().find(|ranges| ranges.len() <= MAX_RANGES).unwrap_or_default()
    }
}

/// As far as ranges are widened for a record: IPv6 to /24, IPv4 to /8.
const WIDEST_BITS: u8 = 104;
const WIDEST_V4_BITS: u8 = 24;

/// The range, with no more than so many fixed bits fewer than an address has.
fn widened(range: IpNet, bits: u8) -> IpNet {
    let bits = if range.network().is_ipv4() { bits.min(WIDEST_V4_BITS) } else { bits };
    let length = range.prefix_len().min(range.max_prefix_len() - bits);
    IpNet::new(range.network(), length).map_or(range, |range| range.trunc())
}

/// What the peer file says of a peer's ranges: the word `declared`, or the ranges agreed when it joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PeerRanges {
    /// Whatever the peer's own cluster record says. For labs only.
    Declared(DeclaredWord),
    Agreed(Ranges),
}

impl PeerRanges {
    pub const DECLARED: Self = Self::Declared(DeclaredWord::Declared);
}

/// The word `declared`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeclaredWord {
    Declared,
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_record_takes_the_ranges_of_any_number_of_nodes() {
        let node = |n: u32| IpNet::from(IpAddr::from((0x0a00_0000 + n * 3).to_be_bytes()));
        let pods = |n: u32| IpNet::new(IpAddr::from((0x6440_0000 + (n << 8)).to_be_bytes()), 24).unwrap();
        let nodes: Vec<_> = (0..5000).map(node).collect();
        let own = OwnRanges {
            pods: (0..5000).map(|n| pods(n * 2)).collect(),
            services: Vec::new(),
            nodes: nodes.clone(),
        };
        let exported = own.exported();
        assert!(exported.len() <= MAX_RANGES, "{}", exported.len());
        let set = exported.set();
        assert!(own.pods.iter().chain(&nodes).all(|range| set.contains(range.network())));
        let few = OwnRanges { nodes: nodes[..1024].to_vec(), ..OwnRanges::default() };
        assert_eq!(few.exported().nodes, few.nodes, "as they are where they fit");
    }

    #[test]
    fn peer_ranges_read_the_word_or_the_ranges() {
        let word: PeerRanges = serde_json::from_str("\"declared\"").unwrap();
        assert_eq!(word, PeerRanges::DECLARED);
        let ranges: PeerRanges = serde_json::from_str(r#"{"pods":["10.2.0.0/16"]}"#).unwrap();
        assert_eq!(ranges, PeerRanges::Agreed(Ranges { pods: nets(&["10.2.0.0/16"]), nodes: vec![] }));
        assert!(serde_json::from_str::<PeerRanges>("\"anything\"").is_err());
    }
}
