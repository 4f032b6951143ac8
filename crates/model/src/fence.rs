//! Which addresses a peer's backends may have.
//!
//! Owns the ranges and the check. A peer must not be able to point a service of ours at a metadata address, at
//! the node, or at anything of our own cluster. Never trusts what the peer says of itself further than to
//! accept less.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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

    fn contains(&self, address: IpAddr) -> bool {
        self.pods.iter().chain(&self.nodes).any(|range| range.contains(&address))
    }
}

/// This cluster's own ranges: what no peer may claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnRanges {
    pub pods: Vec<IpNet>,
    pub services: Vec<IpNet>,
    pub nodes: Vec<IpNet>,
}

impl OwnRanges {
    /// What the own cluster record tells others.
    pub fn exported(&self) -> Ranges {
        Ranges { pods: self.pods.clone(), nodes: self.nodes.clone() }
    }
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

/// Why an address was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FenceRejection {
    #[error("{address} is {what}, which no backend may have")]
    Forbidden { address: IpAddr, what: &'static str },
    #[error("{address} lies in {range}, which is this cluster's own {what} range; ranges must not overlap")]
    Own { address: IpAddr, range: IpNet, what: &'static str },
    #[error(
        "{address} lies outside the ranges agreed with the peer; if it is right, add its range to `ranges` in \
         the peer's file"
    )]
    NotAgreed { address: IpAddr },
    #[error(
        "{address} lies outside the ranges of the peer's own cluster record; correct --pod-cidr and --node-cidr \
         there"
    )]
    NotDeclared { address: IpAddr },
    #[error(
        "{address} cannot be checked: the peer's file says `ranges: declared` and its cluster record declares \
         none; give its exporter --pod-cidr and --node-cidr, or write the ranges into the peer's file"
    )]
    NoRanges { address: IpAddr },
}

/// The check of one peer's addresses. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    agreed: Arc<PeerRanges>,
    own: Arc<OwnRanges>,
    /// From the peer's cluster record; `None` where it says nothing.
    declared: Option<Arc<Ranges>>,
}

impl Fence {
    pub fn new(agreed: PeerRanges, own: OwnRanges) -> Self {
        Self { agreed: Arc::new(agreed), own: Arc::new(own), declared: None }
    }

    /// The same fence under what the peer's cluster record says. It narrows what was agreed and never widens
    /// it; a record without ranges narrows nothing.
    pub fn narrowed(&self, declared: Option<&Ranges>) -> Self {
        let declared = declared.filter(|ranges| !ranges.is_empty()).map(|ranges| Arc::new(ranges.clone()));
        Self { declared, ..self.clone() }
    }

    /// The same fence for another extent of this cluster.
    pub fn with_own(&self, own: OwnRanges) -> Self {
        Self { own: Arc::new(own), ..self.clone() }
    }

    /// Whether only the peer's own word limits its addresses.
    pub fn is_declared(&self) -> bool {
        matches!(*self.agreed, PeerRanges::Declared(_))
    }

    /// Whether a backend of the peer may have this address.
    pub fn check(&self, address: IpAddr) -> Result<(), FenceRejection> {
        if let Some(what) = forbidden(address) {
            return Err(FenceRejection::Forbidden { address, what });
        }
        self.check_own(address)?;
        match &*self.agreed {
            PeerRanges::Agreed(ranges) if !ranges.contains(address) => {
                return Err(FenceRejection::NotAgreed { address });
            }
            PeerRanges::Declared(_) if self.declared.is_none() => {
                return Err(FenceRejection::NoRanges { address });
            }
            PeerRanges::Agreed(_) | PeerRanges::Declared(_) => {}
        }
        match &self.declared {
            Some(ranges) if !ranges.contains(address) => Err(FenceRejection::NotDeclared { address }),
            _ => Ok(()),
        }
    }

    fn check_own(&self, address: IpAddr) -> Result<(), FenceRejection> {
        let own = [("pod", &self.own.pods), ("service", &self.own.services), ("node", &self.own.nodes)];
        for (what, ranges) in own {
            if let Some(range) = ranges.iter().find(|range| range.contains(&address)) {
                return Err(FenceRejection::Own { address, range: *range, what });
            }
        }
        Ok(())
    }
}

/// Metadata services of clouds that do not lie in a link-local range.
const METADATA: [IpAddr; 3] = [
    // AWS over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)),
    // Alibaba Cloud.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Azure's WireServer.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// What is wrong with an address that no backend may ever have, whatever a file or record says.
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    if METADATA.contains(&address) {
        return Some("a cloud's metadata address");
    }
    match address {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        // The whole of 0.0.0.0/8 is "this host" (RFC 1122); Linux connects 0.0.0.0 to itself.
        [0, ..] => Some("an unspecified address"),
        [127, ..] => Some("a loopback address"),
        [169, 254, ..] => Some("a link-local address"),
        [224..=239, ..] => Some("a multicast address"),
        [255, 255, 255, 255] => Some("the broadcast address"),
        _ => None,
    }
}

fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("the unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("the loopback address"),
        // The kernel sends both forms as IPv4, past every IPv4 rule.
        [0, 0, 0, 0, 0, 0xffff, ..] => Some("an IPv4 address in IPv6 form (v4-mapped)"),
        [0, 0, 0, 0, 0, 0, ..] => Some("an IPv4 address in IPv6 form (v4-compatible)"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Everything is agreed, so only the hard rules refuse.
    fn wide_open() -> Fence {
        let all = Ranges { pods: nets(&["0.0.0.0/0", "::/0"]), nodes: vec![] };
        Fence::new(PeerRanges::Agreed(all), OwnRanges::default())
    }

    #[test]
    fn addresses_that_no_backend_may_have_are_refused_whatever_was_agreed() {
        for bad in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::10.0.0.1",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "100.100.100.200",
        ] {
            let refused = wide_open().check(ip(bad));
            assert!(matches!(refused, Err(FenceRejection::Forbidden { .. })), "{bad}: {refused:?}");
        }
        for good in
            ["10.0.0.1", "128.0.0.1", "169.253.1.1", "223.255.255.255", "fd00::1", "2001:db8::1", "240.0.0.1"]
        {
            assert_eq!(wide_open().check(ip(good)), Ok(()), "{good}");
        }
    }

    #[test]
    fn own_ranges_are_refused_even_where_they_were_agreed() {
        let own = OwnRanges {
            pods: nets(&["10.1.0.0/16", "fd01::/64"]),
            services: nets(&["10.101.0.0/16"]),
            nodes: nets(&["192.168.1.0/24"]),
        };
        let all = Ranges { pods: nets(&["0.0.0.0/0", "::/0"]), nodes: vec![] };
        let fence = Fence::new(PeerRanges::Agreed(all), own);
        for (bad, kind) in
            [("10.1.2.3", "pod"), ("fd01::7", "pod"), ("10.101.0.1", "service"), ("192.168.1.9", "node")]
        {
            let refused = fence.check(ip(bad));
            assert!(
                matches!(refused, Err(FenceRejection::Own { what, .. }) if what == kind),
                "{bad}: {refused:?}"
            );
        }
        assert_eq!(fence.check(ip("10.2.0.1")), Ok(()));
    }

    #[test]
    fn only_agreed_ranges_are_accepted() {
        let agreed = Ranges { pods: nets(&["10.2.0.0/16"]), nodes: nets(&["192.168.2.0/24"]) };
        let fence = Fence::new(PeerRanges::Agreed(agreed), OwnRanges::default());
        assert_eq!(fence.check(ip("10.2.0.1")), Ok(()));
        assert_eq!(fence.check(ip("192.168.2.1")), Ok(()));
        assert!(matches!(fence.check(ip("10.3.0.1")), Err(FenceRejection::NotAgreed { .. })));
        assert!(!fence.is_declared());
    }

    #[test]
    fn the_cluster_record_narrows_and_never_widens() {
        let agreed = Ranges { pods: nets(&["10.2.0.0/16"]), nodes: vec![] };
        let fence = Fence::new(PeerRanges::Agreed(agreed), OwnRanges::default());
        let wider = Ranges { pods: nets(&["10.2.0.0/17", "10.3.0.0/16"]), nodes: vec![] };
        let narrowed = fence.narrowed(Some(&wider));
        assert_eq!(narrowed.check(ip("10.2.0.1")), Ok(()));
        assert!(matches!(narrowed.check(ip("10.2.200.1")), Err(FenceRejection::NotDeclared { .. })));
        assert!(matches!(narrowed.check(ip("10.3.0.1")), Err(FenceRejection::NotAgreed { .. })));
        assert_eq!(fence.narrowed(Some(&Ranges::default())).check(ip("10.2.200.1")), Ok(()));
    }

    #[test]
    fn declared_ranges_are_those_of_the_cluster_record_and_none_accepts_nothing() {
        let fence = Fence::new(PeerRanges::DECLARED, OwnRanges::default());
        assert!(fence.is_declared());
        assert!(matches!(fence.check(ip("10.2.0.1")), Err(FenceRejection::NoRanges { .. })));
        let declared = Ranges { pods: nets(&["10.2.0.0/16"]), nodes: vec![] };
        assert_eq!(fence.narrowed(Some(&declared)).check(ip("10.2.0.1")), Ok(()));
        assert!(fence.narrowed(Some(&declared)).check(ip("10.3.0.1")).is_err());
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
