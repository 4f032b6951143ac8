//! The value of the `SERVICES` map: a frontend in two versions, of which one counts, stamped so that a reader notices a
//! torn read.

use crate::alias::threshold;
use crate::entry::{INLINE_GROUPS, ServiceEntry, is_wide};
use crate::group::{Group, MAX_GROUPS};
use crate::key::ServiceKey;
use crate::plain;
use crate::table::{GroupTable, TableKey};

/// The service's own cluster had ready backends at the last plan and something else (kube-proxy) serves the
/// frontend too, so a connection may pass untranslated when the agent's heartbeat is too old.
pub const FLAG_PLAIN_OK: u8 = 1;
/// The agent's canary: a connect to this frontend is refused with EPERM, which proves that the program runs
/// for the process that dialled and that it reads these maps.
pub const FLAG_CANARY: u8 = 2;

/// Identifies one version of one service entry. Eight aligned bytes, so a program reads it whole.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Service id, unique among the live entries of one instance; never 0.
    pub id: u32,
    /// Goes up by one with every rewrite of the entry, wrapping.
    pub generation: u32,
}
plain!(Stamp, size 8, align 8);

/// The kernel's lock, by the name by which the kernel finds it in a map's type. It lets user space write an
/// element in place (`BPF_F_LOCK`, Linux 5.1); programs never take it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the kernel looks for this name")]
pub struct bpf_spin_lock {
    /// The kernel's own; reads as 0.
    pub val: u32,
}
plain!(bpf_spin_lock, size 4, align 4);

/// One version of what a [`ServiceCell`] holds: as long as a cache line.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceVersion {
    pub head: Stamp,
    /// All groups where these are enough; else all zero, and the groups lie in the [`GroupTable`] of this version.
    pub groups: [Group; INLINE_GROUPS],
    /// Which of the two a random word chooses.
    pub threshold: u32,
    /// Number of used groups, at most [`MAX_GROUPS`].
    pub group_count: u8,
    /// [`FLAG_PLAIN_OK`], [`FLAG_CANARY`].
    pub flags: u8,
    /// Padding, always 0.
    pub zero: [u8; 2],
    pub tail: Stamp,
}
plain!(ServiceVersion, size 64, align 8);

/// The value of the `SERVICES` map.
///
/// A rewrite first puts the new entry where the version lies that doesn't count, then switches `current`: there
/// is no moment without a whole version, however long the writer pauses. A version is written only after `current` was
/// switched away from it, so a reader that finds `current` as it was has read one version. Both writes are made in place, because
/// replacing an element hides it for a moment from readers that are on their way through its bucket
/// (docs/adr/0004).
///
/// The kernel copies a hash value without atomicity and hands a deleted element to the next insert at once,
/// without a grace period (seen on 6.18). A reader therefore takes a version as whole only if its stamps before and behind
/// are equal, and as its own only if, after it read the rest, they still are and `key` is what it looked up.
///
/// With its key and what the kernel puts before it, an element takes 256 bytes, and each version is one cache line of them
/// (docs/adr/0020).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCell {
    pub lock: bpf_spin_lock,
    /// Counts the switches, wrapping; its lowest bit says which of `versions` counts.
    pub current: u32,
    /// The key under which this cell stands.
    pub key: ServiceKey,
    /// Padding that puts the versions at the beginning of a cache line, always 0.
    pub zero: [u32; 5],
    pub versions: [ServiceVersion; VERSIONS],
}
plain!(ServiceCell, size 176, align 8);

const VERSIONS: usize = 2;

impl ServiceCell {
    /// The cell of a key that was not there before.
    pub fn new(entry: &ServiceEntry) -> Self {
        Self {
            lock: bpf_spin_lock { val: 0 },
            current: 0,
            key: entry.key,
            zero: [0; 5],
            versions: [ServiceVersion::of(entry); VERSIONS],
        }
    }

    /// The entry that counts, given the table of [`Self::table`]. Its stamps differ where the two don't make one entry, as
    /// user space writes it.
    pub fn entry(&self, table: Option<&GroupTable>) -> ServiceEntry {
        let version = &self.versions[self.counting()];
        let &ServiceVersion { head, groups: inline, group_count, flags, tail, .. } = version;
        let table = table.filter(|_| is_wide(group_count));
        let mut groups = [Group::default(); MAX_GROUPS];
        match table {
            Some(table) => groups = table.groups,
            None => groups[..INLINE_GROUPS].copy_from_slice(&inline),
        }
        let entry = ServiceEntry { head, key: self.key, group_count, flags, groups, tail };
        let has_table = table.is_some_and(|table| *table == GroupTable::of(&entry));
        if *version == ServiceVersion::of(&entry) && has_table == entry.is_wide() {
            return entry;
        }
        ServiceEntry { tail: Stamp { generation: !head.generation, ..head }, ..entry }
    }

    /// Where the groups of the version that counts lie, unless in the cell itself.
    pub fn table(&self) -> Option<TableKey> {
        let version = &self.versions[self.counting()];
        is_wide(version.group_count).then(|| TableKey::new(version.head.id, self.current))
    }

    /// Where the groups of the version belong that doesn't count, for a service of this id.
    pub const fn spare_table(&self, service: u32) -> TableKey {
        TableKey::new(service, self.current ^ 1)
    }

    /// The same with an entry where the version lies that doesn't count.
    #[must_use]
    pub fn prepared(mut self, entry: &ServiceEntry) -> Self {
        let spare = self.counting() ^ 1;
        self.key = entry.key;
        self.versions[spare] = ServiceVersion::of(entry);
        self
    }

    /// The same with the other version as the one that counts.
    #[must_use]
    pub const fn switched(mut self) -> Self {
        self.current = self.current.wrapping_add(1);
        self
    }

    /// Index of the version that counts.
    pub const fn counting(&self) -> usize {
        self.current as usize & 1
    }
}

impl ServiceVersion {
    fn of(entry: &ServiceEntry) -> Self {
        let &ServiceEntry { head, group_count, flags, tail, groups: [first, second, ..], .. } = entry;
        let groups = if entry.is_wide() { Default::default() } else { [first, second] };
        Self { head, groups, threshold: threshold(groups), group_count, flags, zero: [0; 2], tail }
    }
}
