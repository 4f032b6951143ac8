//! One reading of a service's entry, which may be overwritten meanwhile: finds the version that counts, and tells afterwards
//! whether all that was read is of that version. Never decides what the entry means.

use core::hint::cold_path;
use core::ptr::NonNull;

use crate::entry::{INLINE_GROUPS, is_wide};
use crate::order::Seen;
use crate::pick::Tables;
use crate::read;
use crate::{Group, GroupTable, KeyWords, MAX_GROUPS, ServiceCell, ServiceVersion, TableKey};

/// A version of a service's entry that is being read.
pub(crate) struct Reading {
    cell: NonNull<ServiceCell>,
    /// The word that said which version counts, when the reading began.
    current: u32,
    /// The version that counted then.
    pub(crate) version: NonNull<ServiceVersion>,
    stamp: u64,
    /// Number of groups, flags and padding, as they lie in memory.
    group_count_and_flags: u32,
    /// Everything that was read of the entry.
    pub(crate) seen: Seen,
}

/// A version's groups, wherever they lie.
pub(crate) struct Groups {
    pub(crate) first: NonNull<Group>,
    /// Keeps an index below the number of groups that there is room for.
    pub(crate) mask: usize,
}

impl Reading {
    /// Nothing if the entry is being written.
    #[inline(always)]
    pub(crate) fn begin(cell: NonNull<ServiceCell>) -> Option<Self> {
        let current = read::current(cell);
        let version = read::version(cell, current);
        let (head, tail) = (read::head(version), read::tail(version));
        let group_count_and_flags = read::group_count_and_flags(version);
        let mut seen = Seen::NOTHING;
        seen.add(head);
        seen.add(tail);
        seen.add(group_count_and_flags.into());
        (head == tail).then_some(Self { cell, current, version, stamp: head, group_count_and_flags, seen })
    }

    /// The service's id.
    #[inline(always)]
    pub(crate) const fn service(&self) -> u32 {
        let [a, b, c, d, ..] = self.stamp.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    #[inline(always)]
    pub(crate) const fn group_count(&self) -> u32 {
        self.group_count_and_flags.to_ne_bytes()[0] as u32
    }

    #[inline(always)]
    pub(crate) const fn flags(&self) -> u8 {
        self.group_count_and_flags.to_ne_bytes()[1]
    }

    /// Whether the groups lie in a table.
    #[inline(always)]
    pub(crate) const fn is_wide(&self) -> bool {
        is_wide(self.group_count_and_flags.to_ne_bytes()[0])
    }

    /// The table of the groups; nothing if it is missing or shows that it isn't this version's.
    #[inline(always)]
    pub(crate) fn table<T: Tables>(&mut self, tables: &mut T) -> Option<NonNull<GroupTable>> {
        cold_path();
        let table = tables.table(&TableKey::new(self.service(), self.current))?;
        let (head, tail) = (read::table_head(table), read::table_tail(table));
        self.seen.add(head);
        self.seen.add(tail);
        (head == self.stamp && tail == self.stamp).then_some(table)
    }

    /// The groups; nothing if their table shows that it isn't this version's.
    #[inline(always)]
    pub(crate) fn groups<T: Tables>(&mut self, tables: &mut T) -> Option<Groups> {
        if self.is_wide() {
            let table = self.table(tables)?;
            return Some(Groups { first: read::table_groups(table), mask: MAX_GROUPS - 1 });
        }
        Some(Groups { first: read::inline_groups(self.version), mask: INLINE_GROUPS - 1 })
    }

    /// Whether everything that was seen is of one version, and of the key that was looked up.
    ///
    /// The writer begins to overwrite a version, and its table, only after it has switched to the other one: whoever has
    /// read a word of the newer one reads, later, that `current` is another, whatever the order within the writer's copy.
    /// Stamps and key are for the memory of a deleted element, which the kernel hands to another key at once.
    #[inline(always)]
    pub(crate) fn is_whole(&self, key: KeyWords) -> bool {
        let distance = self.seen.distance();
        // SAFETY: the distance is 0.
        let (cell, version) = unsafe { (self.cell.byte_add(distance), self.version.byte_add(distance)) };
        read::current(cell) == self.current
            && read::head(version) == self.stamp
            && read::tail(version) == self.stamp
            && read::stands_under(cell, key)
    }
}

const _: () = assert!(INLINE_GROUPS.is_power_of_two() && MAX_GROUPS.is_power_of_two());
