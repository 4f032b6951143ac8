//! A peer's service in the form in which it is kept: 5 bytes per IPv4 endpoint, 17 where IPv6 is among them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::difference::Finder;
use super::interest::{Demand, Shape};
use super::pool::Pool;
use crate::address::Address;
use crate::address_policy::AddressPolicy;
use crate::address_set::AddressSet;
use crate::desired::BackendState;
use crate::endpoint::{Condition, Endpoint, ServingEndpoint};
use crate::record::{MAX_SERVICE_ENDPOINTS, ServiceRecord, SliceRecord};
use crate::snapshot::{ServicePort, SlicePort};

/// Endpoints in their order. IPv4 where all are, so that equal lists are equal values. Node, zone and host names of a
/// peer's endpoints are not kept.
#[derive(Clone, PartialEq, Eq)]
enum Endpoints {
    V4(Box<[ServingEndpoint<[u8; 4]>]>),
    Any(Box<[ServingEndpoint]>),
}

impl Endpoints {
    fn new(sorted: &[ServingEndpoint]) -> Self {
        let all: Option<Box<[_]>> = sorted.iter().map(|endpoint| endpoint.narrow()).collect();
        all.map_or_else(|| Self::Any(sorted.into()), Self::V4)
    }

    fn len(&self) -> usize {
        match self {
            Self::V4(all) => all.len(),
            Self::Any(all) => all.len(),
        }
    }

    fn get(&self, at: usize) -> Option<ServingEndpoint> {
        match self {
            Self::V4(all) => all.get(at).map(|endpoint| (*endpoint).into()),
            Self::Any(all) => all.get(at).copied(),
        }
    }

    /// The place of the first endpoint from this address on.
    fn first_from(&self, address: Address) -> usize {
        match self {
            Self::V4(all) => all.partition_point(|endpoint| Address::from(endpoint.address) < address),
            Self::Any(all) => all.partition_point(|endpoint| endpoint.address < address),
        }
    }

    fn find(&self, address: Address) -> Option<ServingEndpoint> {
        let found = match self {
            Self::V4(all) => {
                let v4 = address.v4_octets()?;
                all.binary_search_by_key(&v4, |endpoint| endpoint.address)
            }
            Self::Any(all) => all.binary_search_by_key(&address, |endpoint| endpoint.address),
        };
        self.get(found.ok()?)
    }
}

/// A slice: its endpoints that serve at all, sorted by address, each address once with its best state.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerSlice {
    /// Most slices have the ports of many others.
    ports: Arc<Vec<SlicePort>>,
    endpoints: Endpoints,
}

impl std::fmt::Debug for PeerSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ", self.ports)?;
        f.debug_list().entries(self.endpoints()).finish()
    }
}

impl PeerSlice {
    pub(super) fn new(record: SliceRecord, pool: &mut Pool<Vec<SlicePort>>) -> Self {
        let mut endpoints: Vec<_> = record.endpoints.iter().filter_map(Endpoint::serving).collect();
        endpoints.sort_unstable();
        // The better of two is the one that stays.
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        Self { ports: pool.share(record.ports), endpoints: Endpoints::new(&endpoints) }
    }

    /// Without what is not listed any more, and in the state in which the rest is listed.
    pub(super) fn retained(&self, listed: &BTreeMap<Address, Condition>) -> Self {
        let endpoints = self.endpoints().filter_map(|endpoint| {
            let state = listed.get(&endpoint.address)?.state()?;
            Some(ServingEndpoint { state, ..endpoint })
        });
        let endpoints: Vec<ServingEndpoint> = endpoints.collect();
        Self { ports: self.ports.clone(), endpoints: Endpoints::new(&endpoints) }
    }

    pub fn ports(&self) -> &[SlicePort] {
        &self.ports
    }

    pub fn endpoints(&self) -> impl Iterator<Item = ServingEndpoint> + '_ {
        (0..self.endpoints.len()).filter_map(|at| self.endpoints.get(at))
    }

    /// Bytes that the endpoints take.
    pub(super) fn endpoint_bytes(&self) -> usize {
        match &self.endpoints {
            Endpoints::V4(all) => size_of_val(&**all),
            Endpoints::Any(all) => size_of_val(&**all),
        }
    }

    /// The first so many endpoints.
    fn first(&self, count: usize) -> Self {
        let endpoints: Vec<ServingEndpoint> = self.endpoints().take(count).collect();
        Self { ports: self.ports.clone(), endpoints: Endpoints::new(&endpoints) }
    }

    /// The endpoint that has this address.
    pub(super) fn find(&self, address: Address) -> Option<ServingEndpoint> {
        self.endpoints.find(address)
    }

    /// Whether an endpoint lies in the set.
    pub(super) fn is_touched(&self, set: &AddressSet) -> bool {
        set.ranges().iter().any(|range| {
            let (first, last) = (Address::from(range.network()), Address::from(range.broadcast()));
            let at = self.endpoints.first_from(first);
            self.endpoints.get(at).is_some_and(|endpoint| endpoint.address <= last)
        })
    }

    /// The endpoints that the policy accepts; the slice itself where that is all of them.
    fn allowed_by(self: &Arc<Self>, policy: &AddressPolicy) -> Arc<Self> {
        let inside = |endpoint: &ServingEndpoint| policy.check(endpoint.address.into()).is_ok();
        if self.endpoints().all(|endpoint| inside(&endpoint)) {
            return self.clone();
        }
        let endpoints: Vec<ServingEndpoint> = self.endpoints().filter(inside).collect();
        Arc::new(Self { ports: self.ports.clone(), endpoints: Endpoints::new(&endpoints) })
    }
}

/// What of a service record matters to a reader; many services have the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Offer {
    pub(super) ports: Vec<ServicePort>,
    pub(super) shared: bool,
}

impl From<ServiceRecord> for Offer {
    fn from(record: ServiceRecord) -> Self {
        Self { ports: record.ports, shared: record.shared }
    }
}

/// Most services have one slice, which then needs no list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Slices {
    One(Arc<PeerSlice>),
    Any(Box<[Arc<PeerSlice>]>),
}

impl Slices {
    fn new(slices: Vec<Arc<PeerSlice>>) -> Self {
        match <[_; 1]>::try_from(slices) {
            Ok([only]) => Self::One(only),
            Err(slices) => Self::Any(slices.into()),
        }
    }
}

/// A peer's shared service, without the endpoints that the address policy refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerService {
    offer: Arc<Offer>,
    /// In the order of their names.
    slices: Slices,
    endpoint_count: u32,
    /// How many slices went beyond [`MAX_SERVICE_ENDPOINTS`].
    left_out_slices: u32,
    /// Kept here, where it fits into the allocation: a map of its own would cost tens of bytes a service.
    shape: Shape,
}

impl PeerService {
    /// `before` is the same service as an earlier call made it; with each slice goes whether the address policy may judge it
    /// otherwise than then.
    pub(super) fn new<'a>(
        offer: &Arc<Offer>,
        slices: impl Iterator<Item = (&'a Arc<PeerSlice>, bool)>,
        policy: &AddressPolicy,
        before: Option<&Self>,
    ) -> Self {
        let (mut kept, mut left_out_slices) = (Vec::new(), 0);
        let mut room = MAX_SERVICE_ENDPOINTS;
        // What went through as it is goes through again.
        let mut passed = Finder::new(before.map_or(&[], Self::slices));
        for (slice, judged_anew) in slices {
            let passes = passed.has(slice) && !judged_anew;
            let slice = if passes { slice.clone() } else { slice.allowed_by(policy) };
            match room.checked_sub(slice.endpoints.len()) {
                Some(rest) => {
                    room = rest;
                    kept.push(slice);
                }
                None => left_out_slices += 1,
            }
        }
        let slices = Slices::new(kept);
        let mut service = Self {
            offer: offer.clone(),
            slices,
            endpoint_count: 0,
            left_out_slices,
            shape: Shape::default(),
        };
        service.endpoint_count = u32::try_from(service.count_since(before)).unwrap_or(u32::MAX);
        service
    }

    /// The first so many endpoints, in the order of the slices' names and in them of the addresses.
    pub(super) fn first(&self, count: usize) -> Self {
        let (mut kept, mut room) = (Vec::new(), count);
        for slice in self.slices() {
            match room.checked_sub(slice.endpoints.len()) {
                Some(rest) => {
                    room = rest;
                    kept.push(slice.clone());
                }
                None => {
                    kept.extend((room > 0).then(|| Arc::new(slice.first(room))));
                    break;
                }
            }
        }
        let endpoint_count = u32::try_from(distinct_addresses(&kept)).unwrap_or(u32::MAX);
        Self { offer: self.offer.clone(), slices: Slices::new(kept), endpoint_count, ..*self }
    }

    fn count_since(&self, before: Option<&Self>) -> usize {
        let changes = before.and_then(|before| Some((before.endpoint_count(), self.changes_since(before)?)));
        let Some((count, changes)) = changes else { return distinct_addresses(self.slices()) };
        count + changes.after.len() - changes.before.len()
    }

    /// The ports that the peer's Service exposes.
    pub fn ports(&self) -> &[ServicePort] {
        &self.offer.ports
    }

    pub fn slices(&self) -> &[Arc<PeerSlice>] {
        match &self.slices {
            Slices::One(only) => std::slice::from_ref(only),
            Slices::Any(all) => all,
        }
    }

    /// The ports on which all slices listen; none where they differ, or there is no slice.
    pub(crate) fn slice_ports(&self) -> Option<&[SlicePort]> {
        let (first, others) = self.slices().split_first()?;
        let same =
            |slice: &Arc<PeerSlice>| Arc::ptr_eq(&slice.ports, &first.ports) || slice.ports == first.ports;
        others.iter().all(same).then_some(first.ports())
    }

    /// Whether any endpoint of the family is active.
    pub(crate) fn has_active(&self, is_v4: bool) -> bool {
        let mut all = self.slices().iter().flat_map(|slice| slice.endpoints());
        all.any(|endpoint| endpoint.state == BackendState::Active && endpoint.address.is_ipv4() == is_v4)
    }

    /// The same, where the own cluster asks for it in this form.
    pub(super) fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// What it takes in the maps.
    pub(super) fn demand(&self) -> Demand {
        self.shape.demand(self.endpoint_count())
    }

    /// Number of distinct addresses.
    pub fn endpoint_count(&self) -> usize {
        self.endpoint_count as usize
    }

    pub(crate) fn left_out_slices(&self) -> usize {
        self.left_out_slices as usize
    }
}

fn distinct_addresses(slices: &[Arc<PeerSlice>]) -> usize {
    if let [only] = slices {
        return only.endpoints.len();
    }
    let all = slices.iter().flat_map(|slice| slice.endpoints());
    // As numbers, for they are compared often.
    let mut addresses: Vec<u128> =
        all.map(|endpoint| u128::from_be_bytes(endpoint.address.octets())).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.len()
}
