//! A frontend as user space plans, writes and reads it: what lies in a [`ServiceCell`](crate::ServiceCell) and, where there
//! are more than two groups, in a [`GroupTable`](crate::GroupTable).

use crate::group::{Group, MAX_GROUPS};
use crate::key::ServiceKey;
use crate::service::Stamp;

/// A frontend's groups, sorted by tier, then cluster. In no map as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The stamp before what it stamps.
    pub head: Stamp,
    /// The key under which the entry stands.
    pub key: ServiceKey,
    /// Number of used groups, at most [`MAX_GROUPS`].
    pub group_count: u8,
    /// [`FLAG_PLAIN_OK`](crate::FLAG_PLAIN_OK), [`FLAG_CANARY`](crate::FLAG_CANARY).
    pub flags: u8,
    /// Groups beyond `group_count` are all zero.
    pub groups: [Group; MAX_GROUPS],
    /// The stamp behind what it stamps: another than `head` where what was read is not of one entry.
    pub tail: Stamp,
}

impl ServiceEntry {
    /// Whether its groups lie in a table, because a cell has no room for them.
    pub const fn is_wide(&self) -> bool {
        is_wide(self.group_count)
    }
}

/// How many groups a cell has room for in each version.
pub const INLINE_GROUPS: usize = 2;

/// Whether so many groups lie in a table.
#[inline(always)]
pub(crate) const fn is_wide(groups: u8) -> bool {
    groups as usize > INLINE_GROUPS
}
