//! Which addresses a peer's backends may have.
//!
//! Owns the ranges and the check. A peer must not be able to point a service of ours at a metadata address, at
//! the node, or at anything of our own cluster. Never trusts what the peer says of itself further than to
//! accept less.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address_set::AddressSet;
use crate::record::MAX_RANGES;

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
    fn set(&self) -> AddressSet {
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

/// What no peer may claim, by what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OwnSets {
    pods: AddressSet,
    services: AddressSet,
    nodes: AddressSet,
}

impl From<&OwnRanges> for OwnSets {
    fn from(own: &OwnRanges) -> Self {
        let set = |ranges: &[IpNet]| ranges.iter().copied().collect();
        Self { pods: set(&own.pods), services: set(&own.services), nodes: set(&own.nodes) }
    }
}

/// The check of one peer's addresses. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// What the peer's file says; `None`: the word `declared`.
    agreed: Option<Arc<AddressSet>>,
    own: Arc<OwnSets>,
    /// From the peer's cluster record; `None` where it says nothing.
    declared: Option<Arc<AddressSet>>,
}

impl Fence {
    pub fn new(agreed: PeerRanges, own: OwnRanges) -> Self {
        Self { agreed: agreed_set(&agreed), own: Arc::new(OwnSets::from(&own)), declared: None }
    }

    /// The same fence under what the peer's cluster record says. It narrows what was agreed and never widens
    /// it; a record without ranges narrows nothing.
    pub fn narrowed(&self, declared: Option<&Ranges>) -> Self {
        let declared = declared.filter(|ranges| !ranges.is_empty()).map(|ranges| Arc::new(ranges.set()));
        Self { declared, ..self.clone() }
    }

    /// The same fence by another peer file.
    pub fn with_agreed(&self, agreed: &PeerRanges) -> Self {
        Self { agreed: agreed_set(agreed), ..self.clone() }
    }

    /// Where an address may be judged otherwise than by another fence.
    pub(crate) fn differences(&self, other: &Self) -> AddressSet {
        let optional = |one: &Option<Arc<AddressSet>>, other: &Option<Arc<AddressSet>>| match (one, other) {
            (None, None) => AddressSet::default(),
            (Some(one), Some(other)) => one.differences(other),
            _ => AddressSet::everything(),
        };
        let (own, others) = (&*self.own, &*other.own);
        let kinds =
            [(&own.pods, &others.pods), (&own.services, &others.services), (&own.nodes, &others.nodes)];
        let own = kinds.into_iter().map(|(one, other)| one.differences(other));
        let peers = [optional(&self.agreed, &other.agreed), optional(&self.declared, &other.declared)];
        own.chain(peers).flat_map(AddressSet::into_ranges).collect()
    }

    /// The same fence for another extent of this cluster.
    pub fn with_own(&self, own: OwnRanges) -> Self {
        Self { own: Arc::new(OwnSets::from(&own)), ..self.clone() }
    }

    /// Whether only the peer's own word limits its addresses.
    pub fn is_declared(&self) -> bool {
        self.agreed.is_none()
    }

    /// Whether a backend of the peer may have this address.
    pub fn check(&self, address: IpAddr) -> Result<(), FenceRejection> {
        self.check_carried(address)?;
        match &self.declared {
            Some(ranges) if !ranges.contains(address) => Err(FenceRejection::NotDeclared { address }),
            None if self.is_declared() => Err(FenceRejection::NoRanges { address }),
            _ => Ok(()),
        }
    }

    /// Whether a backend that an earlier process took from the peer may stay until the peer has spoken: what its cluster
    /// record declares is not known yet.
    pub fn check_carried(&self, address: IpAddr) -> Result<(), FenceRejection> {
        #[cfg(test)]
        tests::CHECKS.with(|checks| checks.set(checks.get() + 1));
        if let Some(what) = forbidden(address) {
            return Err(FenceRejection::Forbidden { address, what });
        }
        self.check_own(address)?;
        match &self.agreed {
            Some(ranges) if !ranges.contains(address) => Err(FenceRejection::NotAgreed { address }),
            _ => Ok(()),
        }
    }

    fn check_own(&self, address: IpAddr) -> Result<(), FenceRejection> {
        let own = [("pod", &self.own.pods), ("service", &self.own.services), ("node", &self.own.nodes)];
        for (what, ranges) in own {
            if let Some(range) = ranges.range_of(address) {
                return Err(FenceRejection::Own { address, range, what });
            }
        }
        Ok(())
    }
}

fn agreed_set(agreed: &PeerRanges) -> Option<Arc<AddressSet>> {
    match agreed {
        PeerRanges::Agreed(ranges) => Some(Arc::new(ranges.set())),
        PeerRanges::Declared(_) => None,
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
pub(crate) mod tests {
    use super::*;

    thread_local! {
        /// How often an address was checked by this thread.
        pub(crate) static CHECKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

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
