//! The key and value of the `GROUPS` map: the groups of a version of a frontend that has more than a cell has room for.

use crate::alias::alias_cells;
use crate::entry::ServiceEntry;
use crate::group::{Group, MAX_GROUPS};
use crate::plain;
use crate::service::{Stamp, bpf_spin_lock};

/// Whose groups, and of which of the two versions of its cell.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableKey {
    /// Service id.
    pub service: u32,
    /// 0 or 1.
    pub version: u32,
}
plain!(TableKey, size 8, align 8);

impl TableKey {
    /// `current`: a cell's word; its lowest bit names the version.
    #[inline(always)]
    pub const fn new(service: u32, current: u32) -> Self {
        Self { service, version: current & 1 }
    }

    /// All tables that a service may have.
    pub const fn all_of(service: u32) -> [Self; 2] {
        [Self { service, version: 0 }, Self { service, version: 1 }]
    }
}

/// The value of the `GROUPS` map.
///
/// Written before the version that it belongs to, and like that only while the version doesn't count. What tells a reader
/// that the version was overwritten meanwhile therefore tells it of the table too. The stamps are the version's.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupTable {
    pub lock: bpf_spin_lock,
    /// Padding, always 0.
    pub zero: u32,
    pub head: Stamp,
    /// [`alias_cells`] of `groups`: which group a random word chooses.
    pub cells: [u32; MAX_GROUPS],
    pub groups: [Group; MAX_GROUPS],
    pub tail: Stamp,
}
plain!(GroupTable, size 408, align 8);

impl GroupTable {
    /// The groups of an entry.
    pub fn of(entry: &ServiceEntry) -> Self {
        Self {
            lock: bpf_spin_lock { val: 0 },
            zero: 0,
            head: entry.head,
            cells: alias_cells(&entry.groups),
            groups: entry.groups,
            tail: entry.tail,
        }
    }
}
