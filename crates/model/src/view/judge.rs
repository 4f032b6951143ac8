//! Which endpoints the address policy accepts, and which slices a change of it concerns.

use super::{PeerView, SliceKey};
use crate::address_policy::{OwnRanges, PeerRanges};
use crate::address_set::AddressSet;

/// Which slices were checked against a changed policy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    All,
    Changed,
    Nothing,
}

impl PeerView {
    /// The ranges agreed with the peer are others than before; what is known is judged again.
    pub fn set_agreed(&mut self, agreed: &PeerRanges) {
        self.pin.policy = self.pin.policy.with_agreed(agreed);
        self.apply_policy(false);
    }

    /// This cluster's own ranges are others than before; what is known is judged again.
    pub fn set_own_ranges(&mut self, own: OwnRanges) {
        self.pin.policy = self.pin.policy.with_own(own);
        self.apply_policy(false);
    }

    /// Brings the policy up to date with pin and cluster record, and looks at the endpoints again that the change can
    /// touch. Says whether it has looked at every slice; it does at the first record.
    pub(super) fn apply_policy(&mut self, first: bool) -> Looked {
        let policy = self.pin.policy.narrowed(self.cluster.as_ref().map(|record| &record.ranges));
        if !first && policy == self.policy {
            return Looked::Nothing;
        }
        let touched = if first { AddressSet::everything() } else { self.policy.differences(&policy) };
        self.policy = policy;
        let slices = self.records.slices().iter().filter(|(_, slice)| slice.is_touched(&touched));
        let keys: Vec<SliceKey> = slices.map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.note_outside(key));
        self.dirty.extend(keys.iter().map(|(service, _)| service.clone()));
        self.judged_anew.extend(keys);
        if first { Looked::All } else { Looked::Changed }
    }
}
