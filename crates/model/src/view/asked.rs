//! What is asked of a peer changes: what has to be read, and what is kept of it.

use std::collections::BTreeSet;

use imbl::OrdSet;

use super::interest::Interest;
use super::{PeerView, Quota};
use crate::name::{ServiceName, SliceName};
use crate::record::RecordKey;

impl PeerView {
    /// The own cluster asks for other services, or has them in another form. What it no longer asks for goes with the
    /// next list; until then it is followed, so that it need not be read again.
    ///
    /// Says whether anything may be different.
    pub fn set_interest(&mut self, interest: Interest) -> bool {
        let changes = interest.changes(&self.interest);
        let was_unknown = matches!(self.interest, Interest::Unknown);
        self.interest = interest;
        if let Some(tracked) = &self.tracked {
            self.unread.extend(changes.come.into_iter().filter(|name| !tracked.contains(name)));
        }
        self.unread.retain(|name| !changes.gone.contains(name));
        self.note_synced();
        let others = was_unknown || !changes.reshaped.is_empty();
        // What they take in the maps may be something else.
        self.dirty.extend(changes.reshaped);
        others
    }

    /// The peer may have another share of the maps from now on. Its memory is what it was told at first. Says whether the
    /// share is another.
    pub fn set_share(&mut self, backends: u64, slots: u64) -> bool {
        let quota = Quota { backends, slots, ..self.quota };
        std::mem::replace(&mut self.quota, quota) != quota
    }

    /// Services of which all records have to be read, by [`Self::read`] or a list.
    pub fn unread(&self) -> &BTreeSet<ServiceName> {
        &self.unread
    }

    /// All records of some services, as they are where the changes have come to. Outside of a list.
    pub fn read<'a>(
        &mut self,
        services: &BTreeSet<ServiceName>,
        entries: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) {
        if let Some(tracked) = &mut self.tracked {
            tracked.extend(services.iter().cloned());
        }
        self.unread.retain(|name| !services.contains(name));
        entries.for_each(|(key, value)| self.put(key, value));
        self.note_synced();
    }

    /// The list that was begun has more records, which nobody will read.
    pub fn cut_list(&mut self, records: u64) {
        if let Some(listing) = &mut self.listing {
            listing.records_cut = Some(records);
        }
    }

    /// Whether records were left out that a list may find room for.
    pub fn is_cut(&self) -> bool {
        self.records.end().is_some() || self.records_cut.is_some()
    }

    pub(super) fn takes(&self, key: &RecordKey) -> bool {
        let tracked = self.listing.as_ref().map_or(&self.tracked, |listing| &listing.tracked);
        match key {
            RecordKey::Service(_, name) => self.has_place(tracked.as_ref(), name, None),
            RecordKey::Slice(_, name, slice) => self.has_place(tracked.as_ref(), name, Some(slice)),
            _ => true,
        }
    }

    /// Whether a record is asked for and within the peer's memory. What is not is not even parsed.
    fn has_place(
        &self,
        tracked: Option<&OrdSet<ServiceName>>,
        name: &ServiceName,
        slice: Option<&SliceName>,
    ) -> bool {
        tracked.is_none_or(|tracked| tracked.contains(name)) && !self.records.is_beyond(name, slice)
    }

    /// A list was complete for what was asked when it began.
    pub(super) fn note_unread(&mut self) {
        self.unread.clear();
        let (Some(tracked), Some(asked)) = (&self.tracked, self.interest.names()) else { return };
        self.unread = asked.into_iter().filter(|name| !tracked.contains(name)).collect();
    }
}
