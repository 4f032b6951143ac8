//! Which addresses a peer's backends may have.
//!
//! Owns the check. A peer must not be able to point a service of ours at a metadata address, at the node, or at
//! anything of our own cluster. The peer's own record can only narrow what was agreed.

mod forbidden;
mod ranges;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use self::forbidden::forbidden;
pub(crate) use self::ranges::MAX_RANGES;
pub use self::ranges::{DeclaredWord, OwnRanges, PeerRanges, Ranges};
use crate::address_set::AddressSet;

/// Why an address was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRejection {
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
pub struct AddressPolicy {
    /// What the peer's file says; `None`: the word `declared`.
    agreed: Option<Arc<AddressSet>>,
    own: Arc<OwnSets>,
    /// From the peer's cluster record; `None` where it says nothing.
    declared: Option<Arc<AddressSet>>,
}

impl AddressPolicy {
    pub fn new(agreed: PeerRanges, own: OwnRanges) -> Self {
        Self { agreed: agreed_set(&agreed), own: Arc::new(OwnSets::from(&own)), declared: None }
    }

    /// The same policy under what the peer's cluster record says. It narrows what was agreed and never widens
    /// it; a record without ranges narrows nothing.
    pub(crate) fn narrowed(&self, declared: Option<&Ranges>) -> Self {
        let declared = declared.filter(|ranges| !ranges.is_empty()).map(|ranges| Arc::new(ranges.set()));
        Self { declared, ..self.clone() }
    }

    /// The same policy by another peer file.
    pub(crate) fn with_agreed(&self, agreed: &PeerRanges) -> Self {
        Self { agreed: agreed_set(agreed), ..self.clone() }
    }

    /// Where an address may be judged otherwise than by another policy.
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

    /// The same policy for another extent of this cluster.
    pub(crate) fn with_own(&self, own: OwnRanges) -> Self {
        Self { own: Arc::new(OwnSets::from(&own)), ..self.clone() }
    }

    /// Whether only the peer's own word limits its addresses.
    pub(crate) fn is_declared(&self) -> bool {
        self.agreed.is_none()
    }

    /// Whether a backend of the peer may have this address.
    pub fn check(&self, address: IpAddr) -> Result<(), PolicyRejection> {
        self.check_carried(address)?;
        match &self.declared {
            Some(ranges) if !ranges.contains(address) => Err(PolicyRejection::NotDeclared { address }),
            None if self.is_declared() => Err(PolicyRejection::NoRanges { address }),
            _ => Ok(()),
        }
    }

    /// Whether a backend that an earlier process took from the peer may stay until the peer is synced: what its cluster
    /// record declares is not known yet.
    pub fn check_carried(&self, address: IpAddr) -> Result<(), PolicyRejection> {
        #[cfg(test)]
        tests::CHECKS.with(|checks| checks.set(checks.get() + 1));
        if let Some(what) = forbidden(address) {
            return Err(PolicyRejection::Forbidden { address, what });
        }
        self.check_own(address)?;
        match &self.agreed {
            Some(ranges) if !ranges.contains(address) => Err(PolicyRejection::NotAgreed { address }),
            _ => Ok(()),
        }
    }

    fn check_own(&self, address: IpAddr) -> Result<(), PolicyRejection> {
        let own = [("pod", &self.own.pods), ("service", &self.own.services), ("node", &self.own.nodes)];
        for (what, ranges) in own {
            if let Some(range) = ranges.range_of(address) {
                return Err(PolicyRejection::Own { address, range, what });
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

#[cfg(test)]
pub(crate) mod tests;
