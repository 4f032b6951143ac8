//! Reads of what may change at any time, by aligned words, each of them volatile. Owns the pointer arithmetic;
//! never decides.
//!
//! Every function takes pointers under the promise of [`Tables`](crate::Tables): aligned, and valid for reads.

use core::ptr::{NonNull, addr_of};

use crate::{
    BackendEntry, ClusterStates, Group, GroupTable, KeyWords, MAX_CLUSTERS, ServiceCell, ServiceVersion,
    SlotEntry,
};

/// Reads a field through a pointer to its struct.
macro_rules! field {
    ($(#[$doc:meta])* $name:ident: $struct:ty => $field:ident as $type:ty) => {
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(of: NonNull<$struct>) -> $type {
            // SAFETY: the field lies inside a struct that the caller got under the promise of `Tables`; it is
            // at least as aligned and as large as the type it is read as.
            unsafe { addr_of!((*of.as_ptr()).$field).cast::<$type>().read_volatile() }
        }
    };
}

/// Port and protocol of the cell's key, and its padding.
#[inline(always)]
fn key_rest(cell: NonNull<ServiceCell>) -> u32 {
    // SAFETY: the three fields lie side by side inside the cell, from an aligned one on.
    unsafe { addr_of!((*cell.as_ptr()).key.port).cast::<u32>().read_volatile() }
}

/// The pointer to a field.
macro_rules! place {
    ($(#[$doc:meta])* $name:ident: $struct:ty => $field:ident as $type:ty) => {
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(of: NonNull<$struct>) -> NonNull<$type> {
            // SAFETY: the field lies inside a struct that the caller got under the promise of `Tables`.
            unsafe { NonNull::new_unchecked(core::ptr::addr_of_mut!((*of.as_ptr()).$field).cast::<$type>()) }
        }
    };
}

field!(
    /// Number of groups, flags and padding, as they lie in memory.
    group_count_and_flags: ServiceVersion => group_count as u32
);
field!(threshold: ServiceVersion => threshold as u32);
field!(
    /// The port as it lies in memory: network order.
    port: BackendEntry => port as u16
);
field!(epoch: BackendEntry => epoch as u32);
field!(
    /// The backend's cluster.
    owner: BackendEntry => cluster as u16
);
field!(state: BackendEntry => state as u32);
field!(address: BackendEntry => address as [u64; 2]);
field!(head: ServiceVersion => head as u64);
field!(tail: ServiceVersion => tail as u64);
field!(key_address: ServiceCell => key as [u64; 2]);
field!(table_head: GroupTable => head as u64);
field!(table_tail: GroupTable => tail as u64);
field!(cluster: Group => cluster as u16);
field!(tier: Group => tier as u8);
field!(weight: Group => weight as u32);
field!(first: Group => first as u32);
field!(count: Group => count as u32);
field!(counter: Group => counter as u32);
place!(
    /// The first of the groups of a version that has no table.
    inline_groups: ServiceVersion => groups as Group
);
place!(
    /// The first of the groups of a table.
    table_groups: GroupTable => groups as Group
);

/// The group at an index.
///
/// # Safety
/// There are more groups than `index` behind the pointer.
#[inline(always)]
pub(crate) unsafe fn group(groups: NonNull<Group>, index: usize) -> NonNull<Group> {
    // SAFETY: as the caller promises.
    unsafe { groups.add(index) }
}

/// The cell of a column, which must be below [`MAX_GROUPS`](crate::MAX_GROUPS).
#[inline(always)]
pub(crate) fn cell(table: NonNull<GroupTable>, column: usize) -> u32 {
    // SAFETY: callers keep `column` below the number of cells, so the pointer stays inside the table, which
    // they got under the promise of `Tables`.
    unsafe { addr_of!((*table.as_ptr()).cells).cast::<u32>().add(column).read_volatile() }
}

/// State of the cluster; ids wrap at the number of states, as they do nowhere.
#[inline(always)]
pub(crate) fn cluster_state(clusters: NonNull<ClusterStates>, id: u16) -> u32 {
    let index = usize::from(id) % MAX_CLUSTERS;
    // SAFETY: the index is below the number of words behind the pointer, which the caller got under the
    // promise of `Tables`.
    unsafe { clusters.cast::<u32>().as_ptr().add(index).read_volatile() }
}

/// The slot, if it belongs to the service.
#[inline(always)]
pub(crate) fn owned_slot(slot: NonNull<SlotEntry>, service: u32) -> Option<SlotEntry> {
    // SAFETY: the caller got the pointer under the promise of `Tables`. The eight aligned bytes are read at
    // once, and any bytes make a `SlotEntry`.
    let slot = unsafe { core::mem::transmute::<u64, SlotEntry>(slot.cast::<u64>().as_ptr().read_volatile()) };
    (slot.service == service).then_some(slot)
}

field!(
    /// Which version counts, by its lowest bit.
    current: ServiceCell => current as u32
);

/// The version that `current` names.
#[inline(always)]
pub(crate) fn version(cell: NonNull<ServiceCell>, current: u32) -> NonNull<ServiceVersion> {
    let index = current as usize & 1;
    // SAFETY: there are two versions inside the cell, which the caller got under the promise of `Tables`.
    unsafe {
        let versions = core::ptr::addr_of_mut!((*cell.as_ptr()).versions).cast::<ServiceVersion>();
        NonNull::new_unchecked(versions.add(index))
    }
}

/// Whether the cell is the one that was looked up: the kernel hands a replaced element to another key at
/// once.
#[inline(always)]
pub(crate) fn stands_under(cell: NonNull<ServiceCell>, key: KeyWords) -> bool {
    let address = key_address(cell);
    address[0] == key.address[0] && address[1] == key.address[1] && key_rest(cell) == key.rest
}
