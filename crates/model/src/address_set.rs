//! A set of addresses, whatever the number of ranges that it is made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Disjoint ranges in their order, as few as there can be; equal sets are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressSet(Box<[IpNet]>);

impl FromIterator<IpNet> for AddressSet {
    fn from_iter<T: IntoIterator<Item = IpNet>>(ranges: T) -> Self {
        let ranges: Vec<IpNet> = ranges.into_iter().collect();
        let mut ranges = IpNet::aggregate(&ranges);
        ranges.sort_unstable();
        Self(ranges.into())
    }
}

impl AddressSet {
    pub(crate) fn everything() -> Self {
        let v4 = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        let v6 = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);
        Self([IpNet::V4(v4), IpNet::V6(v6)].into())
    }

    pub(crate) fn into_ranges(self) -> Vec<IpNet> {
        self.0.into_vec()
    }

    /// The range that holds an address.
    pub(crate) fn range_of(&self, address: IpAddr) -> Option<IpNet> {
        let end = self.0.partition_point(|range| range.network() <= address);
        self.0[..end].last().copied().filter(|range| range.contains(&address))
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.range_of(address).is_some()
    }

    pub(crate) fn ranges(&self) -> &[IpNet] {
        &self.0
    }

    /// Covers every address that only one of the two sets holds, and few others.
    pub(crate) fn differences(&self, other: &Self) -> Self {
        let only = |one: &Self, other: &Self| -> Vec<IpNet> {
            one.0.iter().filter(|range| other.0.binary_search(range).is_err()).copied().collect()
        };
        only(self, other).into_iter().chain(only(other, self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        let net = (any::<bool>(), 0_u8..32, 26_u8..=32).prop_map(|(v4, host, length)| {
            let address = if v4 {
                IpAddr::from([10, 0, 0, host])
            } else {
                IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host])
            };
            let length = if v4 { length } else { length + 96 };
            IpNet::new(address, length).unwrap().trunc()
        });
        prop::collection::vec(net, 0..12)
    }

    fn addresses() -> impl Iterator<Item = IpAddr> {
        let v6 = |host| IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        (0..80).flat_map(move |host| [IpAddr::from([10, 0, 0, host]), v6(host)])
    }

    proptest! {
        #[test]
        fn holds_what_a_range_holds_and_differs_where_two_differ(one in nets(), other in nets()) {
            let set: AddressSet = one.iter().copied().collect();
            let others: AddressSet = other.iter().copied().collect();
            let differences = set.differences(&others);
            for address in addresses() {
                let held = one.iter().any(|range| range.contains(&address));
                prop_assert_eq!(set.contains(address), held, "{}", address);
                if others.contains(address) != held {
                    prop_assert!(differences.contains(address), "{}", address);
                }
            }
            prop_assert_eq!(set.differences(&set.clone()), AddressSet::default());
        }
    }
}
