//! The value of the `SERVICES` map: a frontend's groups, stamped so that a reader notices a torn read.

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

/// A frontend's groups, sorted by tier, then cluster.
///
/// The kernel copies a hash value without atomicity and hands a replaced element to the next insert at once,
/// without a grace period (seen on 6.18). A reader therefore takes an entry as whole only if head and tail are
/// equal before *and* after it read the rest, and as its own only if `key` is what it looked up.
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
