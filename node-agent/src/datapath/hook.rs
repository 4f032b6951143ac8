//! The programs that are for the hooks of a cgroup. Never decides anything.

use aya::programs::{CgroupSockAddr, Program, ProgramError};
use mesh_admin::Hook;

/// The hook of one of our programs.
pub(super) fn of(program: &str) -> Option<Hook> {
    Hook::ALL.into_iter().find(|hook| self::program(*hook) == program)
}

/// Our program at a hook.
pub const fn program(hook: Hook) -> &'static str {
    match hook {
        Hook::connect4 => "mesh_connect4",
        Hook::connect6 => "mesh_connect6",
        Hook::sendmsg4 => "mesh_sendmsg4",
        Hook::sendmsg6 => "mesh_sendmsg6",
        Hook::recvmsg4 => "mesh_recvmsg4",
        Hook::recvmsg6 => "mesh_recvmsg6",
        Hook::getpeername4 => "mesh_peername4",
        Hook::getpeername6 => "mesh_peername6",
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
    match of(program) {
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
