//! The two families' fields of `bpf_sock_addr`, behind one trait. Never decides anything.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use core::ptr::{addr_of, addr_of_mut};

/// An address and port as the context holds them: words in memory order, IPv4 v4-mapped, and a port in
/// network order as it lies in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: [u64; 2],
    pub(crate) port: u16,
}

/// Reads and writes the peer's address of one family.
pub(crate) trait Peer {
    fn address(ctx: *mut bpf_sock_addr) -> [u64; 2];
    fn rewrite(ctx: *mut bpf_sock_addr, address: [u64; 2]);

    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> Endpoint {
        // SAFETY: the kernel passes a valid context; the verifier wants each access at a constant offset.
        let port = unsafe { addr_of!((*ctx.sock_addr).user_port).read_volatile() };
        Endpoint { address: Self::address(ctx.sock_addr), port: port as u16 }
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, to: Endpoint) {
        Self::rewrite(ctx.sock_addr, to.address);
        // SAFETY: as above.
        unsafe { addr_of_mut!((*ctx.sock_addr).user_port).write_volatile(u32::from(to.port)) };
    }
}

/// IPv4 sockets.
pub(crate) struct V4;

impl Peer for V4 {
    #[inline(always)]
    fn address(ctx: *mut bpf_sock_addr) -> [u64; 2] {
        // SAFETY: the kernel passes a valid context.
        mesh_abi::mapped(unsafe { addr_of!((*ctx).user_ip4).read_volatile() })
    }

    #[inline(always)]
    fn rewrite(ctx: *mut bpf_sock_addr, address: [u64; 2]) {
        // SAFETY: the kernel passes a valid context.
        unsafe { addr_of_mut!((*ctx).user_ip4).write_volatile(mesh_abi::quarters(address)[3]) };
    }
}

/// IPv6 sockets, also where they dial a v4-mapped address.
pub(crate) struct V6;

impl Peer for V6 {
    #[inline(always)]
    fn address(ctx: *mut bpf_sock_addr) -> [u64; 2] {
        // SAFETY: the kernel passes a valid context; one word at a time, at constant offsets.
        unsafe {
            mesh_abi::from_quarters([
                addr_of!((*ctx).user_ip6[0]).read_volatile(),
                addr_of!((*ctx).user_ip6[1]).read_volatile(),
                addr_of!((*ctx).user_ip6[2]).read_volatile(),
                addr_of!((*ctx).user_ip6[3]).read_volatile(),
            ])
        }
    }

    #[inline(always)]
    fn rewrite(ctx: *mut bpf_sock_addr, address: [u64; 2]) {
        let address = mesh_abi::quarters(address);
        // SAFETY: as above.
        unsafe {
            addr_of_mut!((*ctx).user_ip6[0]).write_volatile(address[0]);
            addr_of_mut!((*ctx).user_ip6[1]).write_volatile(address[1]);
            addr_of_mut!((*ctx).user_ip6[2]).write_volatile(address[2]);
            addr_of_mut!((*ctx).user_ip6[3]).write_volatile(address[3]);
        }
    }
}
