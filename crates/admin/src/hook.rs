//! The hooks of a cgroup at which sockets meet the programs, by the kernel's names.

use serde::{Deserialize, Serialize};

/// A hook at which another balancer could take a destination away from ours, or show another one. That of a socket's
/// release is none: nothing is lost there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(non_camel_case_types, reason = "the kernel's names, which are label values")]
pub enum Hook {
    connect4,
    connect6,
    sendmsg4,
    sendmsg6,
    recvmsg4,
    recvmsg6,
    getpeername4,
    getpeername6,
}

impl Hook {
    pub const ALL: [Self; 8] = [
        Self::connect4,
        Self::connect6,
        Self::sendmsg4,
        Self::sendmsg6,
        Self::recvmsg4,
        Self::recvmsg6,
        Self::getpeername4,
        Self::getpeername6,
    ];

    /// Whether destinations are rewritten there; elsewhere it is what applications are shown.
    pub fn translates(self) -> bool {
        matches!(self, Self::connect4 | Self::connect6 | Self::sendmsg4 | Self::sendmsg6)
    }
}

impl std::str::FromStr for Hook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|hook| hook.to_string() == text);
        found.ok_or_else(|| format!("{text} is no hook"))
    }
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
