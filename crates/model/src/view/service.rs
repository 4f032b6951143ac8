//! A peer's service in the form in which it is kept: 17 bytes per endpoint.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::desired::BackendState;
use crate::fence::Fence;
use crate::record::{MAX_SERVICE_ENDPOINTS, ServiceRecord, SliceRecord};
use crate::snapshot::{ServicePort, SlicePort};

/// An address and a state. Node, zone and host names of a peer's endpoints are not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerEndpoint {
    /// Network order; IPv4 v4-mapped, which no IPv6 endpoint can be: records refuse that.
    address: [u8; 16],
    state: BackendState,
}

impl PeerEndpoint {
    pub fn new(address: IpAddr, state: BackendState) -> Self {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { address, state }
    }

    pub fn address(self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }

    pub fn state(self) -> BackendState {
        self.state
    }
}

impl std::fmt::Debug for PeerEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.address(), self.state)
    }
}

/// A slice: its endpoints that serve at all, sorted by address, each address once with its best state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSlice {
    ports: Vec<SlicePort>,
    endpoints: Box<[PeerEndpoint]>,
}

impl From<SliceRecord> for PeerSlice {
    fn from(record: SliceRecord) -> Self {
        let serving = record.endpoints.iter().filter_map(|endpoint| {
            let state = endpoint.condition.state()?;
            Some(PeerEndpoint::new(endpoint.address, state))
        });
        let mut endpoints: Vec<PeerEndpoint> = serving.collect();
        endpoints.sort_unstable();
        // Active sorts before terminating, so the better state is the one that stays.
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        Self { ports: record.ports, endpoints: endpoints.into() }
    }
}

impl PeerSlice {
    pub fn ports(&self) -> &[SlicePort] {
        &self.ports
    }

    pub fn endpoints(&self) -> impl Iterator<Item = PeerEndpoint> + '_ {
        self.endpoints.iter().copied()
    }

    /// What the fence lets through; the slice itself where that is all.
    fn fenced(self: &Arc<Self>, fence: &Fence) -> Arc<Self> {
        let inside = |endpoint: &PeerEndpoint| fence.check(endpoint.address()).is_ok();
        if self.endpoints.iter().all(inside) {
            return self.clone();
        }
        let endpoints = self.endpoints().filter(inside).collect();
        Arc::new(Self { ports: self.ports.clone(), endpoints })
    }
}

/// A peer's shared service behind the fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerService {
    ports: Vec<ServicePort>,
    /// In the order of their names.
    slices: Vec<Arc<PeerSlice>>,
    endpoint_count: usize,
    /// How many slices went beyond [`MAX_SERVICE_ENDPOINTS`].
    pub(super) left_out_slices: usize,
}

impl PeerService {
    pub(super) fn new<'a>(
        record: &ServiceRecord,
        slices: impl Iterator<Item = &'a Arc<PeerSlice>>,
        fence: &Fence,
    ) -> Self {
        let mut service =
            Self { ports: record.ports.clone(), slices: Vec::new(), endpoint_count: 0, left_out_slices: 0 };
        let mut room = MAX_SERVICE_ENDPOINTS;
        for slice in slices {
            let slice = slice.fenced(fence);
            match room.checked_sub(slice.endpoints.len()) {
                Some(rest) => {
                    room = rest;
                    service.slices.push(slice);
                }
                None => service.left_out_slices += 1,
            }
        }
        service.endpoint_count = service.distinct_addresses();
        service
    }

    /// The ports that the peer's Service exposes.
    pub fn ports(&self) -> &[ServicePort] {
        &self.ports
    }

    pub fn slices(&self) -> &[Arc<PeerSlice>] {
        &self.slices
    }

    /// Number of distinct addresses.
    pub fn endpoint_count(&self) -> usize {
        self.endpoint_count
    }

    fn distinct_addresses(&self) -> usize {
        if let [only] = self.slices.as_slice() {
            return only.endpoints.len();
        }
        let all = self.slices.iter().flat_map(|slice| slice.endpoints.iter());
        let mut addresses: Vec<[u8; 16]> = all.map(|endpoint| endpoint.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.len()
    }
}
