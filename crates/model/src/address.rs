//! An IP address in sixteen bytes.
//!
//! The one place of the product that knows how IPv4 is written as IPv6; the programs have their own form of it, in
//! `ebpf/abi`.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How every v4-mapped address begins (RFC 4291 §2.5.5.2).
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An IPv4 or IPv6 address, in network order and without alignment. IPv4 is v4-mapped IPv6, so a v4-mapped IPv6 address is
/// its IPv4 one; doors that must not take the one for the other look at an [`IpAddr`]. Sorts by its bytes: IPv4 comes
/// before all IPv6 but `::/80`. As text and in JSON it is what an `IpAddr` is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address([u8; 16]);

impl Address {
    /// The IPv4 address of these bytes.
    pub const fn v4([a, b, c, d]: [u8; 4]) -> Self {
        let mut octets = [0; 16];
        let (mapped, rest) = octets.split_at_mut(MAPPED.len());
        mapped.copy_from_slice(&MAPPED);
        rest.copy_from_slice(&[a, b, c, d]);
        Self(octets)
    }

    /// In network order; IPv4 v4-mapped.
    pub const fn octets(self) -> [u8; 16] {
        self.0
    }

    /// The bytes of an IPv4 address.
    pub fn v4_octets(self) -> Option<[u8; 4]> {
        self.0.strip_prefix(&MAPPED)?.try_into().ok()
    }

    pub fn is_ipv4(self) -> bool {
        self.0.starts_with(&MAPPED)
    }
}

impl From<[u8; 4]> for Address {
    fn from(octets: [u8; 4]) -> Self {
        Self::v4(octets)
    }
}

impl From<[u8; 16]> for Address {
    fn from(octets: [u8; 16]) -> Self {
        Self(octets)
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.octets())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.v4_octets() {
            Some(v4) => Self::V4(v4.into()),
            None => Self::V6(Ipv6Addr::from(address.0)),
        }
    }
}

impl FromStr for Address {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        text.parse().map(IpAddr::into)
    }
}

/// As numbers, for services of thousands of endpoints are sorted.
impl Ord for Address {
    fn cmp(&self, other: &Self) -> Ordering {
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// In one word.
impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.0));
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        IpAddr::from(*self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IpAddr::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use proptest::prelude::*;

    use super::*;

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        let mapped = any::<[u8; 4]>().prop_map(|v4| IpAddr::V6(Ipv4Addr::from(v4).to_ipv6_mapped()));
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from), mapped]
    }

    proptest! {
        #[test]
        fn an_address_is_what_it_was_made_of(ip in any_ip()) {
            let (address, canonical) = (Address::from(ip), ip.to_canonical());
            prop_assert_eq!(IpAddr::from(address), canonical);
            prop_assert_eq!(Address::from(address.octets()), address);
            prop_assert_eq!(address.v4_octets().map(Address::from), canonical.is_ipv4().then_some(address));
            prop_assert_eq!((address.is_ipv4(), !address.is_ipv4()), (canonical.is_ipv4(), canonical.is_ipv6()));
        }

        #[test]
        fn texts_are_those_of_an_ip_address(ip in any_ip()) {
            let (address, canonical) = (Address::from(ip), ip.to_canonical());
            prop_assert_eq!(address.to_string(), canonical.to_string());
            prop_assert_eq!(ip.to_string().parse(), Ok(address));
            let json = serde_json::to_string(&address).unwrap();
            prop_assert_eq!(&json, &serde_json::to_string(&canonical).unwrap());
            prop_assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        }

        #[test]
        fn order_and_hash_are_those_of_the_bytes(one in any_ip(), other in any_ip()) {
            let (one, other) = (Address::from(one), Address::from(other));
            prop_assert_eq!(one.cmp(&other), one.octets().cmp(&other.octets()));
            let hasher = std::hash::RandomState::new();
            prop_assert!(one != other || hasher.hash_one(one) == hasher.hash_one(other));
        }
    }

    #[test]
    fn it_takes_sixteen_bytes_and_refuses_what_is_no_address() {
        assert_eq!((size_of::<Address>(), align_of::<Address>()), (16, 1));
        assert_eq!(Address::v4([10, 0, 0, 1]).to_string(), "10.0.0.1");
        for text in ["", "10.0.0", "10.0.0.1/32", "fd00::1%eth0"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
            assert!(serde_json::from_value::<Address>(text.into()).is_err(), "{text}");
        }
    }
}
