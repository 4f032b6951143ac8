//! The value of the `CONTROL` map: layout version and the agent's heartbeat.

use crate::plain;

/// Version of the maps' layout. It also stands in the pin path; maps of another layout are never touched.
pub const LAYOUT: u32 = 7;

/// The single element of `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// [`LAYOUT`] of the agent that wrote the maps; 0 before the first write.
    pub layout: u32,
    /// Padding, always 0.
    pub zero: u32,
    /// `CLOCK_MONOTONIC` nanoseconds (`bpf_ktime_get_ns`) of the agent's last sign of life.
    pub heartbeat_ns: u64,
    /// Age in nanoseconds from which a heartbeat is too old and services with `FLAG_PLAIN_OK` pass
    /// untranslated; 0 means never.
    pub yield_after_ns: u64,
    /// Names the programs that the links run, in user space's terms; 0 while the links are being set.
    pub object: u64,
}
plain!(Control, size 32, align 8);
