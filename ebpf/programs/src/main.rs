//! The datapath's eBPF programs: they rewrite, once, what a socket dials or a datagram is sent to, and show the
//! application what it had dialled. This file holds the entry points only; each parses, decides by a function and returns that
//! function's verdict.
//!
//! One code path serves IPv4 and IPv6 (`peer`), one decision both protocols (`mesh_abi::decide`).
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "the target has no stable compare-and-exchange")]

mod maps;
mod memory;
mod peer;
mod reply;
mod translate;

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};

use crate::peer::{V4, V6};

/// The kernel's answer to "may the call go on": yes.
const PROCEED: i32 = 1;
/// The kernel's answer to "may the call go on": no, the caller gets EPERM.
const REFUSE: i32 = 0;

#[cgroup_sock_addr(connect4)]
pub fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    translate::connect::<V4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    translate::connect::<V6>(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn mesh_sendmsg4(ctx: SockAddrContext) -> i32 {
    translate::send::<V4>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn mesh_sendmsg6(ctx: SockAddrContext) -> i32 {
    translate::send::<V6>(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn mesh_recvmsg4(ctx: SockAddrContext) -> i32 {
    reply::show_sender::<V4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn mesh_recvmsg6(ctx: SockAddrContext) -> i32 {
    reply::show_sender::<V6>(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn mesh_peername4(ctx: SockAddrContext) -> i32 {
    reply::show_peer::<V4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn mesh_peername6(ctx: SockAddrContext) -> i32 {
    reply::show_peer::<V6>(&ctx)
}

/// A socket is closed: nobody will ask for its peer any more.
#[cgroup_sock(sock_release)]
pub fn mesh_release(ctx: SockContext) -> i32 {
    memory::closed(&ctx);
    PROCEED
}

/// Nothing here can panic; the target wants a handler all the same.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel's GPL-only helpers ask for a compatible licence; this is how the kernel spells ours.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
