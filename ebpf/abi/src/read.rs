//! Reads of what may change at any time, by aligned words, each of them volatile. Owns the pointer arithmetic;
//! never decides.
//!
//! Every function takes pointers under the promise of [`Tables`](crate::Tables): aligned, and valid for reads.

use core::ptr::{NonNull, addr_of};

use crate::{
    BackendEntry, ClusterStates, Group, KeyWords, MAX_CLUSTERS, ServiceCell, ServiceEntry, SlotEntry,
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

/// Port and protocol of the entry's key, and its padding.
#[inline(always)]
fn key_rest(entry: NonNull<ServiceEntry>) -> u32 {
    // SAFETY: the three fields lie side by side inside the entry, from an aligned one on.
    unsafe { addr_of!((*entry.as_ptr()).key.port).cast::<u32>().read_volatile() }
}

/// Reads a field of the group at an index, which must be below [`MAX_GROUPS`](crate::MAX_GROUPS).
macro_rules! group_field {
    ($name:ident: $type:ty) => {
        #[inline(always)]
        pub(crate) fn $name(entry: NonNull<ServiceEntry>, index: usize) -> $type {
            // SAFETY: callers keep `index` below the number of groups, so the pointer stays inside the entry,
            // which they got under the promise of `Tables`.
            unsafe {
                let group = addr_of!((*entry.as_ptr()).groups).cast::<Group>().add(index);
                addr_of!((*group).$name).read_volatile()
            }
        }
    };
}

field!(flags: ServiceEntry => flags as u8);
field!(used_groups: ServiceEntry => group_count as u8);
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
field!(head: ServiceEntry => head as u64);
field!(tail: ServiceEntry => tail as u64);
field!(key_address: ServiceEntry => key as [u64; 2]);
group_field!(cluster: u16);
group_field!(tier: u8);
group_field!(weight: u32);
group_field!(first: u32);
group_field!(count: u32);
group_field!(counter: u32);

/// The cell of a column, which must be below [`MAX_GROUPS`](crate::MAX_GROUPS).
#[inline(always)]
pub(crate) fn cell(entry: NonNull<ServiceEntry>, column: usize) -> u32 {
    // SAFETY: callers keep `column` below the number of cells, so the pointer stays inside the entry, which
    // they got under the promise of `Tables`.
    unsafe { addr_of!((*entry.as_ptr()).cells).cast::<u32>().add(column).read_volatile() }
}

#[inline(always)]
pub(crate) fn group_count(entry: NonNull<ServiceEntry>) -> u32 {
    u32::from(used_groups(entry))
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
pub(crate) fn version(cell: NonNull<ServiceCell>, current: u32) -> NonNull<ServiceEntry> {
    let index = current as usize & 1;
    // SAFETY: there are two versions inside the cell, which the caller got under the promise of `Tables`.
    unsafe {
        let versions = core::ptr::addr_of_mut!((*cell.as_ptr()).versions).cast::<ServiceEntry>();
        NonNull::new_unchecked(versions.add(index))
    }
}

/// Whether the entry is the one that was looked up: the kernel hands a replaced element to another key at
/// once.
#[inline(always)]
pub(crate) fn stands_under(entry: NonNull<ServiceEntry>, key: KeyWords) -> bool {
    let address = key_address(entry);
    address[0] == key.address[0] && address[1] == key.address[1] && key_rest(entry) == key.rest
}
