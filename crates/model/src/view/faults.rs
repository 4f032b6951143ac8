//! Which records of a Service are not in use as they stand, wholly or in part, and why: for whoever asks about one Service.
//!
//! Bounded, whatever a peer writes: what is beyond the bound is counted by [`Rejections`](super::Rejections) alone.

use std::sync::Arc;

use imbl::OrdMap;

use super::{PeerView, SliceKey};
use crate::name::ServiceName;
use crate::reason::{Omission, Reason};
use crate::record::{Fault, RecordKey, Rejection, still_listed};

/// How many records are remembered, of a peer and by kind of fault.
const MAX_FAULTS: usize = 1024;

/// What is wrong with one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordFault {
    pub(super) reason: Reason,
    /// How many endpoints are concerned; 0 where it is about the whole record.
    pub(super) endpoints: usize,
    pub(super) detail: Arc<str>,
}

impl RecordFault {
    /// The whole record is refused.
    pub(super) fn refused(rejection: &Rejection) -> Self {
        Self::endpoints(Reason::RecordRefused, rejection, 0)
    }

    pub(super) fn endpoints(reason: Reason, first: &Rejection, endpoints: usize) -> Self {
        Self { reason, endpoints, detail: first.to_string().into() }
    }
}

/// The faults of a peer's records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Refused when they were read. The key of a Service's own record has no slice.
    read: OrdMap<SliceKey, RecordFault>,
    /// Slices with endpoints that the address policy refuses.
    outside: OrdMap<SliceKey, RecordFault>,
}

impl Faults {
    pub(super) fn set_read(&mut self, key: SliceKey, fault: Option<RecordFault>) {
        set(&mut self.read, key, fault);
    }

    pub(super) fn set_outside(&mut self, key: SliceKey, fault: Option<RecordFault>) {
        set(&mut self.outside, key, fault);
    }

    /// A record is gone.
    pub(super) fn remove(&mut self, key: &SliceKey) {
        self.read.remove(key);
        self.outside.remove(key);
    }

    /// A list was read: what it did not find fault with is well.
    pub(super) fn end_list(&mut self, listed: Self) {
        self.read = listed.read;
    }

    /// Those of one Service.
    pub fn of(&self, service: &ServiceName) -> Vec<Omission> {
        let from = (service.clone(), None);
        let all = [&self.read, &self.outside].into_iter().flat_map(|faults| {
            let those = faults.range(from.clone()..);
            those.take_while(|((name, _), _)| name == service).map(|(_, fault)| fault)
        });
        let omission = |fault: &RecordFault| Omission {
            endpoints: fault.endpoints,
            ..Omission::new(fault.reason, fault.detail.as_ref())
        };
        all.map(omission).collect()
    }
}

fn set(faults: &mut OrdMap<SliceKey, RecordFault>, key: SliceKey, fault: Option<RecordFault>) {
    match fault {
        Some(fault) if faults.len() < MAX_FAULTS || faults.contains_key(&key) => {
            faults.insert(key, fault);
        }
        _ => {
            faults.remove(&key);
        }
    }
}

impl PeerView {
    /// A record was taken, but for so many ports.
    pub(super) fn note_ports(&mut self, text: &str, key: SliceKey, left_out: usize) {
        let fault = (left_out > 0).then(|| {
            let rejection = Rejection::new(text, Fault::TooManyPorts { left_out });
            self.rejections.add(&rejection, left_out as u64);
            RecordFault::endpoints(Reason::TooManyPorts, &rejection, 0)
        });
        self.note_fault(key, fault);
    }

    /// A slice's record is refused: what it was before stays, without the endpoints that it no longer lists.
    pub(super) fn withdraw(&mut self, key: &SliceKey, value: &[u8], fault: &Fault) {
        let listed = fault.withdraws().then(|| still_listed(value)).flatten();
        let Some(listed) = listed else { return self.records.keep_slice(key) };
        if self.records.retain_slice(key, &listed) {
            self.note_outside(key);
            self.dirty.insert(key.0.clone());
        }
    }

    /// What is wrong with a record that was read; none where nothing is.
    pub(super) fn note_fault(&mut self, key: SliceKey, fault: Option<RecordFault>) {
        let faults = self.listing.as_mut().map_or(&mut self.faults, |listing| &mut listing.faults);
        faults.set_read(key, fault);
    }

    /// Counts the endpoints of a slice that the address policy refuses. Before the first cluster record it is
    /// not known which these are.
    pub(super) fn note_outside(&mut self, key: &SliceKey) {
        if self.cluster.is_none() {
            return;
        }
        let (Some(slice), (service, Some(name))) = (self.records.slice(key), key) else {
            return self.faults.set_outside(key.clone(), None);
        };
        let mut refusals =
            slice.endpoints().filter_map(|endpoint| self.policy.check(endpoint.address.into()).err());
        let Some(first) = refusals.next() else { return self.faults.set_outside(key.clone(), None) };
        let count = 1 + refusals.count();
        let text = RecordKey::Slice(self.pin.name.clone(), service.clone(), name.clone()).to_string();
        let rejection = Rejection::new(&text, Fault::AddressRefused(first));
        self.rejections.add(&rejection, count as u64);
        let fault = RecordFault::endpoints(Reason::OutsideRanges, &rejection, count);
        self.faults.set_outside(key.clone(), Some(fault));
    }
}
