//! What a peer may have, and what is told of one that has more.

use crate::name::ServiceName;

/// What a peer may have of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of memory for its records, as the view counts them. A list that is received takes as many once more.
    pub bytes: usize,
    /// Distinct backends.
    pub backends: u64,
    /// Slots over all frontends.
    pub slots: u64,
}

impl Quota {
    /// No bounds.
    pub const NONE: Self = Self { bytes: usize::MAX, backends: u64::MAX, slots: u64::MAX };
}

/// Of what a peer has more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Excess {
    Backends,
    Memory,
    Records,
    Slots,
}

impl Excess {
    pub const ALL: [Self; 4] = [Self::Backends, Self::Memory, Self::Records, Self::Slots];

    /// The stable label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backends => "backends",
            Self::Memory => "memory",
            Self::Records => "records",
            Self::Slots => "slots",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Backends => "--max-backends or --max-peer-backends",
            Self::Memory => "--max-peer-memory",
            Self::Records => "--max-peer-records",
            Self::Slots => "--max-slots or --max-peer-slots",
        }
    }
}

/// A peer is cut at its quota. Displays what is cut, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub excess: Excess,
    pub allowed: u64,
    /// The first service by name that is not whole; those behind it are left out. None where only the peer's next list
    /// can tell.
    pub from: Option<ServiceName>,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { excess, allowed, from } = self;
        let unit = match excess {
            Excess::Memory => "bytes of memory",
            other => other.as_str(),
        };
        write!(f, "it has more than {allowed} {unit}")?;
        match from {
            Some(from) => write!(f, ": service {from} is not used wholly, and none behind it by name")?,
            None => f.write_str(": what lies beyond is not read")?,
        }
        write!(f, "; ask the peer whether it should have so many, else raise {}", excess.flag())
    }
}
