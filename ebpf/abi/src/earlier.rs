//! What the value of `SERVICES` was in earlier layouts, for who reads their maps at an upgrade. No program of this layout
//! meets it.

use crate::entry::ServiceEntry;
use crate::group::{Group, MAX_GROUPS};
use crate::key::ServiceKey;
use crate::plain;
use crate::service::{Stamp, bpf_spin_lock};

/// The whole value in layout 1, and one version of it in layouts 2 to 6.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierEntry {
    pub head: Stamp,
    pub key: ServiceKey,
    pub group_count: u8,
    pub flags: u8,
    /// Padding, always 0.
    pub zero: [u8; 2],
    /// [`alias_cells`](crate::alias_cells) of `groups`.
    pub cells: [u32; MAX_GROUPS],
    pub groups: [Group; MAX_GROUPS],
    pub tail: Stamp,
}
plain!(EarlierEntry, size 424, align 8);

/// The value in layouts 2 to 6.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierCell {
    pub lock: bpf_spin_lock,
    /// Its lowest bit says which of `versions` counts.
    pub current: u32,
    pub versions: [EarlierEntry; 2],
}
plain!(EarlierCell, size 856, align 8);

impl EarlierEntry {
    pub const fn entry(&self) -> ServiceEntry {
        let &Self { head, key, group_count, flags, groups, tail, .. } = self;
        ServiceEntry { head, key, group_count, flags, groups, tail }
    }
}

impl EarlierCell {
    /// The version that counts.
    pub const fn entry(&self) -> ServiceEntry {
        self.versions[self.current as usize & 1].entry()
    }
}
