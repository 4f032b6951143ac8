//! One reading of a service's entry, which may be overwritten meanwhile: finds the version that counts, and tells afterwards
//! whether all that was read is of that version. Never decides what the entry means.

use core::ptr::NonNull;

use crate::order::Seen;
use crate::read;
use crate::{KeyWords, ServiceCell, ServiceEntry};

/// A version of a service's entry that is being read.
pub(crate) struct Reading {
    cell: NonNull<ServiceCell>,
    /// The word that said which version counts, when the reading began.
    current: u32,
    /// The version that counted then.
    pub(crate) entry: NonNull<ServiceEntry>,
    stamp: u64,
    /// Everything that was read of the entry.
    pub(crate) seen: Seen,
}

impl Reading {
    /// Nothing if the entry is being written.
    #[inline(always)]
    pub(crate) fn begin(cell: NonNull<ServiceCell>) -> Option<Self> {
        let current = read::current(cell);
        let entry = read::version(cell, current);
        let (head, tail) = (read::head(entry), read::tail(entry));
        let mut seen = Seen::NOTHING;
        seen.add(head);
        seen.add(tail);
        (head == tail).then_some(Self { cell, current, entry, stamp: head, seen })
    }

    /// The service's id.
    #[inline(always)]
    pub(crate) const fn service(&self) -> u32 {
        let [a, b, c, d, ..] = self.stamp.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    #[inline(always)]
    pub(crate) fn flags(&mut self) -> u8 {
        let flags = read::flags(self.entry);
        self.seen.add(flags.into());
        flags
    }

    /// Whether everything that was seen is of one version, and of the key that was looked up.
    ///
    /// The writer begins to overwrite a version only after it has switched to the other one: whoever has read a word of
    /// the newer one reads, later, that `current` is another, whatever the order within the writer's copy. Stamps and key are
    /// for the memory of a deleted element, which the kernel hands to another key at once.
    #[inline(always)]
    pub(crate) fn is_whole(&self, key: KeyWords) -> bool {
        let distance = self.seen.distance();
        // SAFETY: the distance is 0.
        let (cell, entry) = unsafe { (self.cell.byte_add(distance), self.entry.byte_add(distance)) };
        read::current(cell) == self.current
            && read::head(entry) == self.stamp
            && read::tail(entry) == self.stamp
            && read::stands_under(entry, key)
    }
}
