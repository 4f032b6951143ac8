//! The value of the `BACKENDS` array: where a connection goes.

use crate::plain;

/// The id is not in use. Backend 0 is never in use.
pub const STATE_FREE: u32 = 0;
/// Takes new connections.
pub const STATE_ACTIVE: u32 = 1;
/// Serving but terminating: used only when no active backend is left.
pub const STATE_TERMINATING: u32 = 2;
/// Taken out by health evidence: used only when nothing else is left.
pub const STATE_QUARANTINED: u32 = 3;

/// A backend. Its address never changes under its id while anything refers to it; its state is one aligned
/// word of which only the lowest byte ever changes, so a concurrent reader sees the old or the new state.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendEntry {
    /// 16 bytes in network order; IPv4 is v4-mapped.
    pub address: [u8; 16],
    /// Network order.
    pub port: [u8; 2],
    /// Cluster id, 1–4095.
    pub cluster: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Padding, always 0.
    pub zero: [u8; 3],
    /// One of the `STATE_…` constants.
    pub state: u32,
    /// Goes up by one every time the id is given to another backend, wrapping. What outlives a lookup refers
    /// to (id, epoch).
    pub epoch: u32,
}
plain!(BackendEntry, size 32, align 8);
