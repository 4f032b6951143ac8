//! Keys and values of the datapath's maps and the arithmetic over them, defined once for the eBPF programs
//! and for user space. Never uses std, never allocates, never panics.
//!
//! Every struct is `repr(C)`, holds integers and byte arrays only, and spells its padding out as `zero`
//! fields, so that two equal values are equal byte for byte: the kernel hashes and compares raw bytes.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(
    unsafe_code,
    reason = "the `Plain` marker is a promise about bytes, and a reader reads what changes under it"
)]

mod address;
mod alias;
mod backend;
mod cluster;
mod control;
mod counter;
mod earlier;
mod entry;
mod group;
mod key;
mod order;
mod origin;
mod pick;
mod read;
mod reading;
mod reply;
mod scan;
mod service;
mod slot;
mod table;

pub use address::{from_quarters, is_mapped, mapped, quarters};
pub use alias::alias_cells;
pub use backend::{BackendEntry, STATE_ACTIVE, STATE_FREE, STATE_QUARANTINED, STATE_TERMINATING};
pub use cluster::{CLUSTER_DEMOTED, CLUSTER_USABLE, ClusterStates, MAX_CLUSTERS};
pub use control::{Control, LAYOUT};
pub use counter::{Counter, Cpu, OUTCOMES, Outcome};
pub use earlier::{EarlierCell, EarlierEntry};
pub use entry::{INLINE_GROUPS, ServiceEntry};
pub use group::{Group, MAX_GROUPS, MAX_WEIGHT};
pub use key::{KeyWords, PROTOCOL_TCP, PROTOCOL_UDP, ServiceKey};
pub use origin::{CELLS, Origin, Sockets, cell_index, count_index};
pub use pick::{ATTEMPTS, Choice, Tables, Verdict, decide};
pub use reply::{ReplyEntry, ReplyKey};
pub use scan::{LOOK_TORN, Scan, look};
pub use service::{FLAG_CANARY, FLAG_PLAIN_OK, ServiceCell, ServiceVersion, Stamp, bpf_spin_lock};
pub use slot::SlotEntry;
pub use table::{GroupTable, TableKey};

/// Marks a type as plain bytes: `repr(C)`, no padding, every bit pattern valid.
///
/// # Safety
/// An implementor has no padding bytes, no references and no invalid bit patterns.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: integers have neither padding nor invalid bit patterns.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}

/// Implements [`Plain`] and asserts a struct's size and alignment at compile time.
macro_rules! plain {
    ($type:ty, size $size:expr, align $align:expr) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        const _: () = assert!(core::mem::align_of::<$type>() == $align);
        // SAFETY: the fields are integers and byte arrays whose sizes add up to the asserted size, so there
        // is no padding, and every bit pattern of an integer is valid.
        unsafe impl $crate::Plain for $type {}
    };
}
pub(crate) use plain;
