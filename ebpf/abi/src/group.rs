//! A group: the backends that one cluster contributes to a service.

use crate::plain;

/// How many groups a service entry holds, and so how many clusters one service can span on one node.
pub const MAX_GROUPS: usize = 16;
/// The largest weight of a group: the sum over all groups of a service stays below 2^28.
pub const MAX_WEIGHT: u32 = 1 << 24;

/// One cluster's share of a service. An unused group is all zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Cluster id, 1–4095; 0 in an unused group.
    pub cluster: u16,
    /// Lower is preferred.
    pub tier: u8,
    /// Padding, always 0.
    pub zero: u8,
    /// Share of new connections among the usable groups of a tier, 0–[`MAX_WEIGHT`]; 0 is only taken when
    /// nothing else is left.
    pub weight: u32,
    /// Index of the group's first slot in `SLOTS`.
    pub first: u32,
    /// Number of slots from `first` on.
    pub count: u32,
    /// Index of this (service, cluster)'s cell in `COUNTERS`; cell 0 is shared by those that found no room.
    pub counter: u32,
}
plain!(Group, size 20, align 4);
