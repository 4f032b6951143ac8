//! Which endpoints the address policy lets through, and what a change of it can touch.

use super::{PeerView, SliceKey};
use crate::address_set::AddressSet;
use crate::fence::{OwnRanges, PeerRanges};

/// Which slices a changed fence was held against.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    All,
    Changed,
    Nothing,
}

impl PeerView {
    /// The ranges agreed with the peer are others than before; what is known is judged again.
    pub fn set_agreed(&mut self, agreed: &PeerRanges) {
        self.pin.fence = self.pin.fence.with_agreed(agreed);
        self.set_fence(false);
    }

    /// This cluster's own ranges are others than before; what is known is judged again.
    pub fn set_own_ranges(&mut self, own: OwnRanges) {
        self.pin.fence = self.pin.fence.with_own(own);
        self.set_fence(false);
    }

    /// Brings the fence up to date with pin and cluster record, and looks at the endpoints again that the change can
    /// touch. Says whether it has looked at every slice; it does at the first record.
    pub(super) fn set_fence(&mut self, first: bool) -> Looked {
        let fence = self.pin.fence.narrowed(self.cluster.as_ref().map(|record| &record.ranges));
        if !first && fence == self.fence {
            return Looked::Nothing;
        }
        let touched = if first { AddressSet::everything() } else { self.fence.differences(&fence) };
        self.fence = fence;
        let slices = self.records.slices().iter().filter(|(_, slice)| slice.is_touched(&touched));
        let keys: Vec<SliceKey> = slices.map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.note_fenced(key));
        self.dirty.extend(keys.iter().map(|(service, _)| service.clone()));
        self.judged_anew.extend(keys);
        if first { Looked::All } else { Looked::Changed }
    }
}
