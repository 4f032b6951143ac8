//! The hooks of a cgroup at which sockets meet the programs, and the programs that are for them. Never decides
//! anything.

use aya::programs::{CgroupSockAddr, Program, ProgramError};
use prometheus_client::encoding::EncodeLabelValue;
use serde::{Deserialize, Serialize};

/// A hook at which another balancer could take a destination away from ours, or show another one. That of a socket's
/// release is none: nothing is lost there.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, EncodeLabelValue,
)]
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

    /// The hook of one of our programs.
    pub(super) fn of(program: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.program() == program)
    }

    /// Our program there.
    pub const fn program(self) -> &'static str {
        match self {
            Self::connect4 => "mesh_connect4",
            Self::connect6 => "mesh_connect6",
            Self::sendmsg4 => "mesh_sendmsg4",
            Self::sendmsg6 => "mesh_sendmsg6",
            Self::recvmsg4 => "mesh_recvmsg4",
            Self::recvmsg6 => "mesh_recvmsg6",
            Self::getpeername4 => "mesh_peername4",
            Self::getpeername6 => "mesh_peername6",
        }
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

/// Hands a program to the kernel's verifier.
pub(super) fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSock(program) => program.load(),
        program => <&mut CgroupSockAddr>::try_from(program)?.load(),
    }
}

/// The kernel's number of the hook that a program is for (`enum bpf_attach_type`).
pub(super) fn attach_type(program: &str) -> u32 {
    /// Where a socket is released, the one program that is not for an address.
    const RELEASE: u32 = 34;
    match Hook::of(program) {
        None => RELEASE,
        Some(Hook::connect4) => 10,
        Some(Hook::connect6) => 11,
        Some(Hook::sendmsg4) => 14,
        Some(Hook::sendmsg6) => 15,
        Some(Hook::recvmsg4) => 19,
        Some(Hook::recvmsg6) => 20,
        Some(Hook::getpeername4) => 29,
        Some(Hook::getpeername6) => 30,
    }
}
