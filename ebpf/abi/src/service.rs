//! The value of the `SERVICES` map: a frontend's groups in two versions, of which one counts, stamped so that a
//! reader notices a torn read.

use crate::group::{Group, MAX_GROUPS};
use crate::key::ServiceKey;
use crate::plain;

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

/// A frontend's groups, sorted by tier, then cluster: one version of what a [`ServiceCell`] holds.
///
/// The kernel copies a hash value without atomicity and hands a deleted element to the next insert at once,
/// without a grace period (seen on 6.18). A reader therefore takes an entry as whole only if head and tail are
/// equal, and as its own only if, after it read the rest, they still are and `key` is what it looked up.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    pub head: Stamp,
    /// The key under which this entry stands.
    pub key: ServiceKey,
    /// Number of used groups, at most [`MAX_GROUPS`].
    pub group_count: u8,
    /// [`FLAG_PLAIN_OK`], [`FLAG_CANARY`].
    pub flags: u8,
    /// Padding, always 0.
    pub zero: [u8; 2],
    /// [`alias_cells`](crate::alias_cells) of `groups`: which group a random word chooses.
    pub cells: [u32; MAX_GROUPS],
    pub groups: [Group; MAX_GROUPS],
    pub tail: Stamp,
}
plain!(ServiceEntry, size 424, align 8);

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

/// The value of the `SERVICES` map.
///
/// A rewrite first puts the new entry where the version lies that doesn't count, then switches `current`: there
/// is no moment without a whole version, however long the writer pauses. A version is written only after `current` was
/// switched away from it, so a reader that finds `current` as it was has read one version. Both writes are made in place, because
/// replacing an element hides it for a moment from readers that are on their way through its bucket
/// (docs/adr/0004).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCell {
    pub lock: bpf_spin_lock,
    /// Counts the switches, wrapping; its lowest bit says which of `versions` counts.
    pub current: u32,
    pub versions: [ServiceEntry; VERSIONS],
}
plain!(ServiceCell, size 856, align 8);

const VERSIONS: usize = 2;

impl ServiceCell {
    /// The cell of a key that was not there before.
    pub const fn new(entry: ServiceEntry) -> Self {
        Self { lock: bpf_spin_lock { val: 0 }, current: 0, versions: [entry; VERSIONS] }
    }

    /// The version that counts.
    pub const fn entry(&self) -> &ServiceEntry {
        &self.versions[self.index()]
    }

    /// The same with an entry where the version lies that doesn't count.
    #[must_use]
    pub const fn prepared(mut self, entry: ServiceEntry) -> Self {
        self.versions[self.index() ^ 1] = entry;
        self
    }

    /// The same with the other version as the one that counts.
    #[must_use]
    pub const fn switched(mut self) -> Self {
        self.current = self.current.wrapping_add(1);
        self
    }

    const fn index(&self) -> usize {
        self.current as usize & 1
    }
}
