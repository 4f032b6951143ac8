//! From what a peer says of a service to what is published of it, at the price of what changed.
//!
//! A peer that has more than its share of the maps is published in the order of its services' names as far as the share
//! goes: the same on every node that knows the same.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use super::interest::Demand;
use super::quota::{Cut, Excess};
use super::{PeerService, PeerView};
use crate::name::ServiceName;
use crate::record::{Fault, RecordKey, Rejection};

/// What is published, and how it comes about.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// As they would be without a quota.
    whole: OrdMap<ServiceName, Arc<PeerService>>,
    whole_endpoints: usize,
    /// What they take in the maps.
    total: Demand,
    boundary: Option<Boundary>,
    pub(super) services: OrdMap<ServiceName, Arc<PeerService>>,
    pub(super) endpoints: usize,
}

/// Where the share ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Boundary {
    /// The first service that is not whole.
    service: ServiceName,
    /// As many of its endpoints are used.
    endpoints: usize,
    excess: Excess,
}

impl PeerView {
    /// Brings the published services up to date.
    pub(super) fn publish(&mut self) {
        self.dirty.extend(self.records.take_evicted());
        if !self.synced || !self.is_believed() {
            return;
        }
        let dirty = std::mem::take(&mut self.dirty);
        for name in &dirty {
            self.update_whole(name);
        }
        // Their services were dirty.
        self.judged_anew.clear();
        let boundary = self.boundary();
        self.published.show(dirty, boundary);
    }

    fn update_whole(&mut self, name: &ServiceName) {
        let before = self.published.whole.get(name).map(Arc::as_ref);
        let new = self.records.service(name).filter(|offer| offer.shared).map(|offer| {
            let slices = self.records.slices().range((name.clone(), None)..);
            let slices = slices
                .take_while(|((service, _), _)| service == name)
                .map(|(key, slice)| (slice, self.judged_anew.contains(key)));
            let service = PeerService::new(offer, slices, &self.policy, before);
            let shape = self.interest.shape(name, &service);
            service.shaped(shape)
        });
        let left_out = new.as_ref().map_or(0, PeerService::left_out_slices);
        if left_out > 0 {
            let key = RecordKey::Service(self.pin.name.clone(), name.clone()).to_string();
            self.rejections.add(&Rejection::new(&key, Fault::TooManyEndpoints { left_out }), left_out as u64);
        }
        self.published.set_whole(name, new);
    }

    fn boundary(&self) -> Option<Boundary> {
        let Published { total, whole, .. } = &self.published;
        let (backends, slots) = (self.quota.backends, self.quota.slots);
        if total.backends <= backends && total.slots <= slots {
            return None;
        }
        let mut left = Demand { backends, slots };
        for (name, service) in whole {
            let demand = service.demand();
            if demand.backends > left.backends || demand.slots > left.slots {
                let excess = if demand.backends > left.backends { Excess::Backends } else { Excess::Slots };
                return Some(Boundary {
                    service: name.clone(),
                    endpoints: service.shape().room(left),
                    excess,
                });
            }
            left.backends -= demand.backends;
            left.slots -= demand.slots;
        }
        None
    }

    /// Where the peer is cut at its quota.
    pub(super) fn cuts(&self) -> Vec<Cut> {
        let memory = self.records.end().map(|from| Cut {
            excess: Excess::Memory,
            allowed: self.quota.bytes as u64,
            from: Some(from.clone()),
        });
        let records = self.records_cut.map(|allowed| Cut { excess: Excess::Records, allowed, from: None });
        let maps = self.published.boundary.as_ref().map(|boundary| Cut {
            excess: boundary.excess,
            allowed: match boundary.excess {
                Excess::Slots => self.quota.slots,
                _ => self.quota.backends,
            },
            from: Some(boundary.service.clone()),
        });
        memory.into_iter().chain(records).chain(maps).collect()
    }
}

impl Published {
    fn set_whole(&mut self, name: &ServiceName, new: Option<PeerService>) {
        let before = self.whole.get(name).map(|service| service.demand()).unwrap_or_default();
        let demand = new.as_ref().map(PeerService::demand).unwrap_or_default();
        self.total.backends = self.total.backends - before.backends + demand.backends;
        self.total.slots = self.total.slots - before.slots + demand.slots;
        set(&mut self.whole, &mut self.whole_endpoints, name, new.map(Arc::new));
    }

    /// Shows what has changed: of the services themselves, and by where the share ends.
    fn show(&mut self, mut changed: BTreeSet<ServiceName>, boundary: Option<Boundary>) {
        let before = std::mem::replace(&mut self.boundary, boundary);
        if self.boundary.is_none() {
            // All of it, which costs nothing.
            self.services = self.whole.clone();
            self.endpoints = self.whole_endpoints;
            return;
        }
        if self.boundary != before {
            let ends = [&before, &self.boundary].map(|end| end.as_ref().map(|end| end.service.clone()));
            let first = ends.iter().flatten().min().cloned();
            let last = if ends.contains(&None) { None } else { ends.iter().flatten().max().cloned() };
            let between = (
                first.map_or(Bound::Unbounded, Bound::Included),
                last.map_or(Bound::Unbounded, Bound::Included),
            );
            changed.extend(self.whole.range(between).map(|(name, _)| name.clone()));
        }
        for name in &changed {
            let form = self.form(name);
            set(&mut self.services, &mut self.endpoints, name, form);
        }
    }

    /// As much of a service as lies within the share.
    fn form(&self, name: &ServiceName) -> Option<Arc<PeerService>> {
        let whole = self.whole.get(name)?;
        let Some(boundary) = &self.boundary else { return Some(whole.clone()) };
        match name.cmp(&boundary.service) {
            std::cmp::Ordering::Less => Some(whole.clone()),
            std::cmp::Ordering::Equal => Some(Arc::new(whole.first(boundary.endpoints))),
            std::cmp::Ordering::Greater => None,
        }
    }
}

/// A value that is equal to the one before keeps its identity.
fn set(
    services: &mut OrdMap<ServiceName, Arc<PeerService>>,
    endpoints: &mut usize,
    name: &ServiceName,
    new: Option<Arc<PeerService>>,
) {
    let old = services.get(name);
    *endpoints -= old.map_or(0, |service| service.endpoint_count());
    *endpoints += new.as_ref().map_or(0, |service| service.endpoint_count());
    match new {
        Some(new) if old.is_some_and(|old| **old == *new) => {}
        Some(new) => drop(services.insert(name.clone(), new)),
        None => drop(services.remove(name)),
    }
}
