//! An endpoint on its way from a slice to the plan, in all of its forms: what the slice says, what counts of that for
//! connections, a backend where it listens; and how it is written, as JSON in a record and packed in a source's memory.
//!
//! Whatever lies between (snapshot, export, view, merge, difference, selection) hands these on whole, so that a new attribute
//! of a backend concerns this file and none of them.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::address_policy::{PolicyRejection, forbidden};
use crate::desired::BackendState;
use crate::name::NodeName;
use crate::record::limits::MAX_TEXT_BYTES;
use crate::record::{Fault, shorten};

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The first of the slice's addresses for this endpoint: all are fungible and the first is to be used
    /// (Kubernetes' EndpointSlice API).
    pub address: Address,
    pub condition: Condition,
    pub node: Option<NodeName>,
    pub zone: Option<String>,
    pub hostname: Option<String>,
    /// Topology hints send this node's clients to other endpoints of the own cluster. It counts towards the
    /// cluster's weight and takes no connection here. Never exported.
    pub hinted_away: bool,
}

impl Endpoint {
    /// Of which nothing else is known.
    pub fn new(address: impl Into<Address>, condition: Condition) -> Self {
        let address = address.into();
        Self { address, condition, node: None, zone: None, hostname: None, hinted_away: false }
    }

    /// What counts of it for connections; none where it must not be used.
    pub(crate) fn serving(&self) -> Option<ServingEndpoint> {
        Some(ServingEndpoint { address: self.address, state: self.condition.state()? })
    }
}

/// Conditions of an endpoint (Kubernetes' EndpointConditions, KEP-1672), with their defaults applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Condition {
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl Condition {
    /// Takes new connections.
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };
    /// Still serves, but will not for long.
    pub const TERMINATING: Self = Self { ready: false, serving: true, terminating: true };
    /// Serves nothing.
    pub const NOT_READY: Self = Self { ready: false, serving: false, terminating: false };

    /// What kind of backend this makes, or `None` if it must not be used. `ready` alone decides on new
    /// connections: it is true of a terminating pod only where `publishNotReadyAddresses` asks for that.
    pub fn state(self) -> Option<BackendState> {
        match self {
            Self { ready: true, .. } => Some(BackendState::Active),
            Self { serving: true, terminating: true, .. } => Some(BackendState::Terminating),
            _ => None,
        }
    }
}

/// What counts of an endpoint that serves at all. Of two with the same address the lesser is the better.
///
/// Peers have hundreds of thousands, so those of IPv4 alone are kept with four bytes of address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServingEndpoint<A = Address> {
    pub address: A,
    pub state: BackendState,
}

/// A backend of a group; its protocol is its frontend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DesiredBackend {
    pub address: Address,
    /// 1–65535.
    pub port: u16,
    pub state: BackendState,
}

impl DesiredBackend {
    pub fn new(address: impl Into<Address>, port: u16, state: BackendState) -> Self {
        Self { address: address.into(), port, state }
    }
}

impl ServingEndpoint {
    /// The endpoint where it listens.
    pub(crate) fn at(self, port: u16) -> DesiredBackend {
        let Self { address, state } = self;
        DesiredBackend { address, port, state }
    }

    /// None where its address is IPv6.
    pub(crate) fn narrow(self) -> Option<ServingEndpoint<[u8; 4]>> {
        let Self { address, state } = self;
        Some(ServingEndpoint { address: address.v4_octets()?, state })
    }
}

impl From<ServingEndpoint<[u8; 4]>> for ServingEndpoint {
    fn from(narrow: ServingEndpoint<[u8; 4]>) -> Self {
        let ServingEndpoint { address, state } = narrow;
        Self { address: address.into(), state }
    }
}

impl std::fmt::Debug for ServingEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.address, self.state)
    }
}

/// An endpoint in a record. Compact: fields with their default value are left out.
#[derive(Serialize, Deserialize)]
pub(crate) struct WireEndpoint<'a> {
    #[serde(default, borrow)]
    address: Cow<'a, str>,
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    ready: bool,
    /// Left out where it equals `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serving: Option<bool>,
    #[serde(default, skip_serializing_if = "is_false")]
    terminating: bool,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    node: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    zone: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    hostname: Option<Cow<'a, str>>,
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_false(value: &bool) -> bool {
    !*value
}

impl<'a> From<&'a Endpoint> for WireEndpoint<'a> {
    fn from(endpoint: &'a Endpoint) -> Self {
        let Condition { ready, serving, terminating } = endpoint.condition;
        Self {
            address: endpoint.address.to_string().into(),
            ready,
            serving: (serving != ready).then_some(serving),
            terminating,
            node: endpoint.node.as_ref().map(|node| node.as_str().into()),
            zone: text(&endpoint.zone),
            hostname: text(&endpoint.hostname),
        }
    }
}

fn text(text: &Option<String>) -> Option<Cow<'_, str>> {
    text.as_deref().filter(|text| text.len() <= MAX_TEXT_BYTES).map(Cow::from)
}

impl WireEndpoint<'_> {
    /// Which endpoint it is, whatever else is wrong with it. A v4-mapped address is no endpoint's.
    pub(crate) fn listed(&self) -> Option<(Address, Condition)> {
        let written: IpAddr = self.address.parse().ok()?;
        let address = Address::from(written);
        (IpAddr::from(address) == written).then(|| (address, self.condition()))
    }

    fn condition(&self) -> Condition {
        let serving = self.serving.unwrap_or(self.ready);
        Condition { ready: self.ready, serving, terminating: self.terminating }
    }

    pub(crate) fn validate(self) -> Result<Endpoint, Fault> {
        let refuse = |detail: String| Fault::Endpoint { detail };
        let address: IpAddr = self
            .address
            .parse()
            .map_err(|_| refuse(format!("{:?} is no IP address", shorten(&self.address))))?;
        if let Some(what) = forbidden(address) {
            return Err(Fault::AddressRefused(PolicyRejection::Forbidden { address, what }));
        }
        let node = self.node.as_deref().map(NodeName::new).transpose();
        let node = node.map_err(|error| refuse(format!("{address}: {error}")))?;
        for text in [&self.zone, &self.hostname].into_iter().flatten() {
            if text.len() > MAX_TEXT_BYTES {
                return Err(refuse(format!(
                    "{address}: zone or hostname is longer than {MAX_TEXT_BYTES} bytes"
                )));
            }
        }
        let condition = self.condition();
        let (zone, hostname) = (self.zone.map(Cow::into_owned), self.hostname.map(Cow::into_owned));
        Ok(Endpoint { node, zone, hostname, ..Endpoint::new(address, condition) })
    }
}

const READY: u8 = 1;
const SERVING: u8 = 2;
const TERMINATING: u8 = 4;
const V4: u8 = 8;
const NODE: u8 = 16;
const ZONE: u8 = 32;
const HOSTNAME: u8 = 64;

/// Packed: an octet of flags, the address, and the texts that there are. Never leaves the process.
impl Endpoint {
    /// Adds the endpoint, but for `hinted_away`. Its texts are at most 255 bytes long, which whoever made it has checked.
    pub fn pack(&self, bytes: &mut Vec<u8>) {
        let Condition { ready, serving, terminating } = self.condition;
        let v4 = self.address.v4_octets();
        let flags = [
            (ready, READY),
            (serving, SERVING),
            (terminating, TERMINATING),
            (v4.is_some(), V4),
            (self.node.is_some(), NODE),
            (self.zone.is_some(), ZONE),
            (self.hostname.is_some(), HOSTNAME),
        ];
        bytes.push(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum());
        match v4 {
            Some(octets) => bytes.extend(octets),
            None => bytes.extend(self.address.octets()),
        }
        let node = self.node.as_ref().map(NodeName::as_str);
        let texts = [node, self.zone.as_deref(), self.hostname.as_deref()];
        texts.into_iter().flatten().for_each(|text| pack_text(text, bytes));
    }

    /// Takes an endpoint that [`Self::pack`] added.
    pub fn unpack(bytes: &mut &[u8]) -> Self {
        let [flags] = unpack_array(bytes);
        let has = |flag| flags & flag != 0;
        let address: Address =
            if has(V4) { unpack_array::<4>(bytes).into() } else { unpack_array::<16>(bytes).into() };
        let condition = Condition { ready: has(READY), serving: has(SERVING), terminating: has(TERMINATING) };
        let mut text = |flag| has(flag).then(|| unpack_text(bytes));
        // Was validated when it was packed.
        let node = text(NODE).and_then(|name| NodeName::new(name).ok());
        let (zone, hostname) = (text(ZONE).map(Into::into), text(HOSTNAME).map(Into::into));
        Self { node, zone, hostname, ..Self::new(address, condition) }
    }
}

/// Adds a text of at most 255 bytes.
pub fn pack_text(text: &str, bytes: &mut Vec<u8>) {
    bytes.push(u8::try_from(text.len()).expect("the door limits texts"));
    bytes.extend(text.as_bytes());
}

/// Takes a text that [`pack_text`] added.
pub fn unpack_text<'a>(bytes: &mut &'a [u8]) -> &'a str {
    let [length] = unpack_array(bytes);
    let (text, rest) = bytes.split_at(length.into());
    *bytes = rest;
    std::str::from_utf8(text).expect("packed from a text")
}

/// Takes so many bytes of what this process packed.
pub fn unpack_array<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = bytes.split_first_chunk().expect("packed by this process");
    *bytes = rest;
    *taken
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ready_is_active_and_terminating_counts_only_while_it_serves() {
        let state = |ready, serving, terminating| Condition { ready, serving, terminating }.state();
        assert_eq!(state(true, true, false), Some(BackendState::Active));
        assert_eq!(state(true, false, true), Some(BackendState::Active));
        assert_eq!(state(false, true, true), Some(BackendState::Terminating));
        assert_eq!(state(false, true, false), None);
        assert_eq!(state(false, false, true), None);
    }

    prop_compose! {
        fn endpoints()(
            address in prop_oneof![
                any::<[u8; 4]>().prop_map(Address::from), any::<[u8; 16]>().prop_map(Address::from)
            ],
            (ready, serving, terminating) in any::<(bool, bool, bool)>(),
            node in option::of("[a-z]{1,20}"),
            zone in option::of("[a-zé]{1,20}"),
            hostname in option::of("[a-zé]{1,20}"),
        ) -> Endpoint {
            let node = node.map(|node| NodeName::new(&node).unwrap());
            let condition = Condition { ready, serving, terminating };
            Endpoint { node, zone, hostname, ..Endpoint::new(address, condition) }
        }
    }

    proptest! {
        #[test]
        fn endpoints_come_out_as_they_were_packed(all in prop::collection::vec(endpoints(), 0..5)) {
            let mut packed = Vec::new();
            all.iter().for_each(|endpoint| endpoint.pack(&mut packed));
            let mut rest = packed.as_slice();
            for endpoint in all {
                prop_assert_eq!(Endpoint::unpack(&mut rest), endpoint);
            }
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn an_endpoint_costs_17_bytes_and_an_ipv4_one_5() {
        assert_eq!((size_of::<ServingEndpoint>(), size_of::<ServingEndpoint<[u8; 4]>>()), (17, 5));
    }

    #[test]
    fn only_ipv4_is_narrow_and_comes_out_as_it_went_in() {
        let endpoint =
            |text: &str| ServingEndpoint { address: text.parse().unwrap(), state: BackendState::Active };
        let v4 = endpoint("10.0.0.1");
        assert_eq!(v4.narrow().map(ServingEndpoint::from), Some(v4));
        assert!(endpoint("fd00::1").narrow().is_none());
    }
}
