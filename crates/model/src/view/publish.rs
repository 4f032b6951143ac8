//! From what a peer says of a service to what is published of it, at the price of what changed.

use std::sync::Arc;

use super::{PeerService, PeerView};
use crate::name::ServiceName;
use crate::record::{Fault, RecordKey, Rejection};

impl PeerView {
    /// Brings the published services up to date.
    pub(super) fn publish(&mut self) {
        if !self.synced || !self.is_believed() {
            return;
        }
        let same_fence = self.published_fence == self.fence;
        for name in std::mem::take(&mut self.dirty) {
            self.publish_service(name, same_fence);
        }
        if !same_fence {
            // Every service with slices was dirty.
            self.published_fence = self.fence.clone();
        }
    }

    fn publish_service(&mut self, name: ServiceName, same_fence: bool) {
        let before = self.published.get(&name).filter(|_| same_fence).map(Arc::as_ref);
        let new = self.services.get(&name).filter(|offer| offer.shared).cloned();
        let new = new.map(|offer| {
            let slices = self.slices.entries().range((name.clone(), None)..);
            let slices = slices.take_while(|((service, _), _)| *service == name).map(|(_, slice)| slice);
            PeerService::new(&offer, slices, &self.fence, before)
        });
        let left_out = new.as_ref().map_or(0, PeerService::left_out_slices);
        if left_out > 0 {
            let key = RecordKey::Service(self.pin.name.clone(), name.clone()).to_string();
            self.rejections.add(&Rejection::new(&key, Fault::TooManyEndpoints { left_out }), left_out as u64);
        }
        let old = self.published.get(&name);
        self.endpoints -= old.map_or(0, |service| service.endpoint_count());
        self.endpoints += new.as_ref().map_or(0, PeerService::endpoint_count);
        match new {
            Some(new) if old.is_some_and(|old| **old == new) => {}
            Some(new) => drop(self.published.insert(name, Arc::new(new))),
            None => drop(self.published.remove(&name)),
        }
    }
}
