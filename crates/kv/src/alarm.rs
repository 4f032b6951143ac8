//! Alarms: what etcd says of its own health, and what to do about it.

use std::fmt;

/// A state in which etcd refuses calls until somebody disarms it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// The quota is used up: no puts, no new leases. Reads, deletions and renewals go on.
    NoSpace,
    /// Members hold different data: nothing goes on.
    Corrupt,
}

impl Alarm {
    pub const ALL: [Self; 2] = [Self::NoSpace, Self::Corrupt];

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NoSpace => {
                "make room: etcdctl compact REVISION (of etcdctl endpoint status -w fields), etcdctl defrag, \
                 then etcdctl alarm disarm; if that doesn't last, raise --quota-backend-bytes"
            }
            Self::Corrupt => {
                "find the member whose etcdctl endpoint hashkv differs, replace it, then etcdctl alarm disarm; an \
                 etcd of one member may be wiped: its records are written anew"
            }
        }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        })
    }
}
