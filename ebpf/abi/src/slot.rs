//! The value of the `SLOTS` array: which backend stands in a slot, and whose slot it is.

use crate::plain;

/// One slot. Eight aligned bytes, so the kernel reads and writes it whole.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotEntry {
    /// Index in `BACKENDS`; 0 in a slot that was never used.
    pub backend: u32,
    /// Id of the service that owns the slot. A reader that finds another one looks its service up again.
    pub service: u32,
}
plain!(SlotEntry, size 8, align 8);
