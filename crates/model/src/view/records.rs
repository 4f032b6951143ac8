//! A peer's records of services and slices, within the memory that it may have.
//!
//! What is kept are the records before a certain key: as many in their order as fit. So it is the same whatever the order
//! in which they came, on every node and after a restart; a peer that shrinks without a list has room that only its next list
//! fills.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::SliceKey;
use super::pool::Pool;
use super::service::{Offer, PeerSlice};
use crate::address::Address;
use crate::name::{ServiceName, SliceName};
use crate::record::{ServiceRecord, SliceRecord};
use crate::snapshot::{Condition, SlicePort};
use crate::table::{Knowledge, Table};

/// What an entry costs beside its text, endpoints and ports: nodes of the maps, counters, and what allocators round up to.
const ENTRY_BYTES: usize = 192;
/// What a port costs beside its name.
const PORT_BYTES: usize = 64;

/// How much is held, and from which key on nothing is.
#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    end: Option<SliceKey>,
}

#[derive(Debug)]
pub(super) struct Records {
    services: Table<ServiceName, Arc<Offer>>,
    offers: Pool<Offer>,
    /// As published, before the address policy is applied.
    slices: Table<SliceKey, Arc<PeerSlice>>,
    slice_ports: Pool<Vec<SlicePort>>,
    limit: usize,
    held: Held,
    listing: Option<Held>,
    /// Services of which records were given up.
    evicted: Vec<ServiceName>,
}

impl Records {
    /// At most so many bytes; while a list is received, so many for that once more.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            services: Table::default(),
            offers: Pool::default(),
            slices: Table::default(),
            slice_ports: Pool::default(),
            limit,
            held: Held::default(),
            listing: None,
            evicted: Vec::new(),
        }
    }

    pub(super) fn service(&self, name: &ServiceName) -> Option<&Arc<Offer>> {
        self.services.get(name)
    }

    pub(super) fn slice(&self, key: &SliceKey) -> Option<&Arc<PeerSlice>> {
        self.slices.get(key)
    }

    pub(super) fn slices(&self) -> &imbl::OrdMap<SliceKey, Arc<PeerSlice>> {
        self.slices.entries()
    }

    /// Bytes that are held, as they are counted here.
    pub(super) fn bytes(&self) -> usize {
        self.held.bytes
    }

    /// The first service of which not all records are kept.
    pub(super) fn end(&self) -> Option<&ServiceName> {
        self.held.end.as_ref().map(|(service, _)| service)
    }

    /// Services of which records were given up since this was last asked.
    pub(super) fn take_evicted(&mut self) -> Vec<ServiceName> {
        std::mem::take(&mut self.evicted)
    }

    pub(super) fn begin_list(&mut self) {
        self.services.begin_list();
        self.slices.begin_list();
        self.listing = Some(Held::default());
    }

    /// The services and the slices whose visible value changed.
    pub(super) fn end_list(
        &mut self,
        services: Knowledge,
        slices: Knowledge,
    ) -> (Vec<ServiceName>, Vec<SliceKey>) {
        let changed = (self.services.end_list(services), self.slices.end_list(slices));
        self.held = self.listing.take().unwrap_or_default();
        if services == Knowledge::Partial || slices == Knowledge::Partial {
            self.recount();
        }
        changed
    }

    /// Says whether something visible changed.
    pub(super) fn put_service(&mut self, name: ServiceName, record: ServiceRecord) -> bool {
        let offer = self.offers.share(record.into());
        let before = self.service_bytes(&name);
        let changed = self.services.put(name.clone(), offer);
        self.charge(before, self.service_bytes(&name));
        changed
    }

    /// Says whether something visible changed.
    pub(super) fn put_slice(&mut self, key: SliceKey, record: SliceRecord) -> bool {
        let slice = Arc::new(PeerSlice::new(record, &mut self.slice_ports));
        let before = self.slice_bytes(&key);
        let changed = self.slices.put(key.clone(), slice);
        self.charge(before, self.slice_bytes(&key));
        changed
    }

    pub(super) fn keep_service(&mut self, name: &ServiceName) {
        let before = self.service_bytes(name);
        self.services.keep(name);
        self.charge(before, self.service_bytes(name));
    }

    pub(super) fn keep_slice(&mut self, key: &SliceKey) {
        let before = self.slice_bytes(key);
        self.slices.keep(key);
        self.charge(before, self.slice_bytes(key));
    }

    /// The slice stays as it was, without the endpoints that are not listed. Says whether something visible changed.
    pub(super) fn retain_slice(&mut self, key: &SliceKey, listed: &BTreeMap<Address, Condition>) -> bool {
        let Some(kept) = self.slices.get(key).map(|slice| slice.retained(listed)) else {
            self.keep_slice(key);
            return false;
        };
        let before = self.slice_bytes(key);
        let changed = self.slices.put(key.clone(), Arc::new(kept));
        self.charge(before, self.slice_bytes(key));
        changed
    }

    /// Says whether something visible changed.
    pub(super) fn delete_service(&mut self, name: &ServiceName, knowledge: Knowledge) -> bool {
        let before = self.service_bytes(name);
        let changed = self.services.delete(name, knowledge);
        self.charge(before, self.service_bytes(name));
        changed
    }

    /// Says whether something visible changed.
    pub(super) fn delete_slice(&mut self, key: &SliceKey, knowledge: Knowledge) -> bool {
        let before = self.slice_bytes(key);
        let changed = self.slices.delete(key, knowledge);
        self.charge(before, self.slice_bytes(key));
        changed
    }

    pub(super) fn drop_stale_services(&mut self) -> Vec<ServiceName> {
        let gone = self.services.drop_stale();
        self.recount();
        gone
    }

    pub(super) fn drop_stale_slices(&mut self) -> Vec<SliceKey> {
        let gone = self.slices.drop_stale();
        self.recount();
        gone
    }

    /// The same name as a slice of the service has it, so that all of a service's entries share one text.
    pub(super) fn known_name(&self, name: ServiceName) -> ServiceName {
        let from = (name, None);
        let known = self.slices.find_key(&from, |(known, _)| *known == from.0);
        known.map_or(from.0.clone(), |(known, _)| known.clone())
    }

    fn current(&mut self) -> &mut Held {
        self.listing.as_mut().unwrap_or(&mut self.held)
    }

    /// Whether a record lies where nothing is kept for want of room.
    pub(super) fn is_beyond(&self, name: &ServiceName, slice: Option<&SliceName>) -> bool {
        let end = self.listing.as_ref().unwrap_or(&self.held).end.as_ref();
        end.is_some_and(|(end_name, end_slice)| (name, slice) >= (end_name, end_slice.as_ref()))
    }

    fn service_bytes(&self, name: &ServiceName) -> usize {
        self.services.latest(name).map_or(0, |offer| service_bytes(name, offer))
    }

    fn slice_bytes(&self, key: &SliceKey) -> usize {
        self.slices.latest(key).map_or(0, |slice| slice_bytes(key, slice))
    }

    fn charge(&mut self, before: usize, after: usize) {
        let limit = self.limit;
        let held = self.current();
        held.bytes = held.bytes.saturating_sub(before) + after;
        while self.current().bytes > limit && self.evict_last() {}
    }

    /// Gives up the last record in the order of their keys.
    fn evict_last(&mut self) -> bool {
        let service =
            self.services.last().map(|(name, offer)| ((name.clone(), None), service_bytes(name, offer)));
        let slice = self.slices.last().map(|(key, slice)| (key.clone(), slice_bytes(key, slice)));
        let Some((key, bytes)) = service.into_iter().chain(slice).max() else { return false };
        match &key {
            (name, None) => self.services.evict(name),
            (_, Some(_)) => self.slices.evict(&key),
        }
        if self.listing.is_none() {
            self.evicted.push(key.0.clone());
        }
        let held = self.current();
        held.bytes = held.bytes.saturating_sub(bytes);
        held.end = Some(key);
        true
    }

    /// Counts what is visible, which is paid where a list or a marker changed much at once.
    fn recount(&mut self) {
        let services = self.services.entries().iter().map(|(name, offer)| service_bytes(name, offer));
        let slices = self.slices.entries().iter().map(|(key, slice)| slice_bytes(key, slice));
        self.held.bytes = services.chain(slices).sum();
        if self.listing.is_none() {
            self.charge(0, 0);
        }
    }
}

fn service_bytes(name: &ServiceName, offer: &Offer) -> usize {
    let ports = offer.ports.iter().map(|port| port.name.as_ref().map_or(0, |name| name.as_str().len()));
    ENTRY_BYTES + name.as_str().len() + ports.map(|name| PORT_BYTES + name).sum::<usize>()
}

fn slice_bytes((service, name): &SliceKey, slice: &PeerSlice) -> usize {
    let text = service.as_str().len() + name.as_ref().map_or(0, |name: &SliceName| name.as_str().len());
    let ports = slice.ports().iter().map(|port| port.name.as_ref().map_or(0, |name| name.as_str().len()));
    ENTRY_BYTES + text + slice.endpoint_bytes() + ports.map(|name| PORT_BYTES + name).sum::<usize>()
}
