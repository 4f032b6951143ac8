//! The programs that are for the hooks of a cgroup. Never decides anything.

use aya::programs::{CgroupSockAddr, Program, ProgramError};
use mesh_admin::Hook;

/// The hook of one of our programs.
pub(super) fn of(program: &str) -> Option<Hook> {
    Hook::ALL.into_iter().find(|hook| self::program(*hook) == program)
}

/// Our program at a hook.
pub(crate) const fn program(hook: Hook) -> &'static str {
    match hook {
        Hook::Connect4 => "mesh_connect4",
        Hook::Connect6 => "mesh_connect6",
        Hook::SendMsg4 => "mesh_sendmsg4",
        Hook::SendMsg6 => "mesh_sendmsg6",
        Hook::RecvMsg4 => "mesh_recvmsg4",
        Hook::RecvMsg6 => "mesh_recvmsg6",
        Hook::GetPeerName4 => "mesh_peername4",
        Hook::GetPeerName6 => "mesh_peername6",
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
        Some(Hook::Connect4) => 10,
        Some(Hook::Connect6) => 11,
        Some(Hook::SendMsg4) => 14,
        Some(Hook::SendMsg6) => 15,
        Some(Hook::RecvMsg4) => 19,
        Some(Hook::RecvMsg6) => 20,
        Some(Hook::GetPeerName4) => 29,
        Some(Hook::GetPeerName6) => 30,
    }
}
