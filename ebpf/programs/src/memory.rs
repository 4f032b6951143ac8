//! What was dialled, remembered until somebody asks: with the socket where it is connected, with the pair of
//! socket and backend where each datagram has its own destination.

use core::hint::cold_path;
use core::intrinsics::AtomicOrdering::SeqCst;
use core::intrinsics::atomic_cxchg;
use core::ptr::{addr_of, addr_of_mut, null_mut};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_sk_storage_get, bpf_skc_to_mptcp_sock};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use mesh_abi::{Choice, Origin, PROTOCOL_TCP, ReplyEntry, ReplyKey, cell_index};

use crate::maps::{MPTCP, ORIGINS, REPLIES, SOCKETS};
use crate::peer::Endpoint;

/// Remembers what was dialled.
pub(crate) trait Memory {
    /// `dialled` became `choice`; false where there is no room to remember that.
    fn remember(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice, protocol: u8) -> bool;
    /// What is dialled now stays as it is; what was dialled earlier no longer counts.
    fn forget(ctx: &SockAddrContext);
}

/// The memory of connected sockets: goes with the socket, and there is always room.
///
/// A TCP socket takes a cell that goes by where it lies, because storage of its own is an allocation, which costs four
/// times what all the rest of a connect does. Where the cell is another's, and for UDP, it is the storage.
pub(crate) struct OfSocket;

impl Memory for OfSocket {
    /// A socket can be connected again, so what is there is overwritten.
    #[inline(always)]
    fn remember(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice, protocol: u8) -> bool {
        // Made anew where it is needed: what the kernel is given the address of is written to memory and read again.
        let origin = || {
            Origin::from_words(
                (dialled.address, dialled.port),
                (choice.address, choice.port),
                (choice.backend, choice.epoch),
            )
        };
        let mptcp = mptcp_socket(ctx, protocol);
        if mptcp.is_null() && protocol == PROTOCOL_TCP && take_cell(dialling(ctx), &origin()) {
            return true;
        }
        cold_path();
        let mut origin = origin();
        if !mptcp.is_null() {
            return store_at(mptcp, &mut origin);
        }
        // SAFETY: the context's socket is valid while the program runs.
        let stored = unsafe { ORIGINS.get_or_insert_ptr_mut(ctx, Some(&mut origin)) };
        if stored.is_null() {
            return false;
        }
        // SAFETY: the storage lives as long as the socket, and only the task that connects it writes it.
        unsafe { origin.store(stored) };
        true
    }

    /// Both places are cleared: which of them a socket got may differ from one connect to the next. An MPTCP socket's
    /// stays: its further subflows dial the backend's other addresses, and pass by here too.
    #[inline(always)]
    fn forget(ctx: &SockAddrContext) {
        give_cell_back(dialling(ctx));
        // SAFETY: the context's socket is valid while the program runs. That there was nothing is no error.
        unsafe {
            // To look is cheaper than to delete what isn't there, and most sockets have nothing there.
            if !ORIGINS.get_ptr_mut(ctx).is_null() {
                let _gone_already = ORIGINS.delete((*ctx.sock_addr).__bindgen_anon_1.sk);
            }
        }
    }
}

/// The MPTCP socket for which a TCP socket of the kernel's own (a subflow) connects; null for all others, and where the
/// loader has not said that this kernel can tell.
///
/// The application asks the MPTCP socket for its peer and closes that one; the subflow passes no release hook, so that a
/// cell of its own would never be given back.
#[inline(always)]
fn mptcp_socket(ctx: &SockAddrContext, protocol: u8) -> *mut c_void {
    // SAFETY: the word is the loader's, and never changes once the programs are loaded. The context's socket is valid
    // while the program runs.
    unsafe {
        if protocol != PROTOCOL_TCP || addr_of!(MPTCP).read_volatile() == 0 {
            return null_mut();
        }
        bpf_skc_to_mptcp_sock((*ctx.sock_addr).__bindgen_anon_1.sk.cast()).cast()
    }
}

/// Remembers an origin in the storage of a socket that is not the context's; false where there is no room.
#[inline(always)]
fn store_at(socket: *mut c_void, origin: &mut Origin) -> bool {
    // SAFETY: the map is one of socket storage, the socket is one that a helper has just returned, and a value of the
    // map's type is copied. The storage lives as long as the socket, and only the task that connects it writes it.
    unsafe {
        let map = addr_of!(ORIGINS).cast_mut().cast();
        let value: *mut Origin = origin;
        let stored = bpf_sk_storage_get(map, socket, value.cast(), BPF_SK_STORAGE_GET_F_CREATE.into());
        if stored.is_null() {
            return false;
        }
        origin.store(stored.cast());
    }
    true
}

impl OfSocket {
    /// What the socket had dialled, if `peer` is what it became.
    #[inline(always)]
    pub(crate) fn recall(ctx: &SockAddrContext, peer: Endpoint) -> Option<Endpoint> {
        let origin = match own_cell(dialling(ctx)) {
            Some(origin) => origin,
            // SAFETY: the context's socket is valid while the program runs.
            None => unsafe { ORIGINS.get_ptr_mut(ctx) },
        };
        if origin.is_null() {
            return None;
        }
        // SAFETY: cells live as long as their map, and the storage as long as the socket; both are written only by
        // the task that connects the socket.
        let origin = unsafe { &*origin };
        let (address, port) = origin.backend_words();
        if peer != (Endpoint { address, port }) {
            return None;
        }
        let (address, port) = origin.frontend_words();
        Some(Endpoint { address, port })
    }
}

/// What tells a socket from all others while it lives, and is never 0: its distance from a map in the kernel's memory.
/// A cookie would do as well, but takes a call that counts and exchanges atomically, a fifth of the hook's time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Socket(u64);

impl Socket {
    /// The verifier allows no arithmetic with a pointer but this one, and this one only to those who may see pointers
    /// (`CAP_PERFMON`).
    #[inline(always)]
    fn at<T>(socket: *const T) -> Self {
        Self((socket as u64).wrapping_sub(addr_of!(SOCKETS) as u64))
    }
}

/// The socket that connects, or whose peer is asked for.
#[inline(always)]
fn dialling(ctx: &SockAddrContext) -> Socket {
    // SAFETY: the kernel passes a valid context with a socket.
    Socket::at(unsafe { addr_of!((*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile() })
}

/// The socket that is closed. To programs of this kind the kernel passes nothing else.
#[inline(always)]
pub(crate) fn closing(ctx: &SockContext) -> Socket {
    Socket::at(ctx.sock)
}

/// Where a socket's memory may be, by where the socket lies.
#[derive(Clone, Copy)]
struct Cell {
    owner: *mut u64,
    origin: *mut Origin,
}

/// The socket's cell, and whose it is.
#[inline(always)]
fn cell(socket: Socket) -> Option<(Cell, u64)> {
    let sockets = SOCKETS.get_ptr_mut(0)?;
    let index = cell_index(socket.0);
    // SAFETY: the element lives as long as its map and is aligned, and the index is below the number of cells.
    unsafe {
        let cell = Cell {
            owner: addr_of_mut!((*sockets).owners).cast::<u64>().add(index),
            origin: addr_of_mut!((*sockets).origins).cast::<Origin>().add(index),
        };
        Some((cell, cell.owner.read_volatile()))
    }
}

/// The origin in the socket's cell, if it has one.
#[inline(always)]
fn own_cell(socket: Socket) -> Option<*mut Origin> {
    let (cell, owner) = cell(socket)?;
    (owner == socket.0).then_some(cell.origin)
}

/// Puts the origin into the socket's cell; false where that is another socket's.
#[inline(always)]
fn take_cell(socket: Socket, origin: &Origin) -> bool {
    let Some((cell, owner)) = cell(socket) else { return false };
    let is_own = owner == socket.0 || owner == 0 && claim(cell.owner, socket);
    if is_own {
        // SAFETY: cells live as long as their map; only the task that connects the cell's socket writes it.
        unsafe { origin.store(cell.origin) };
    }
    is_own
}

/// Puts a socket where there was none, unless another CPU does it first.
#[inline(always)]
fn claim(owner: *mut u64, socket: Socket) -> bool {
    // SAFETY: cells live as long as their map, and the word is aligned. The instruction is there since Linux 5.12;
    // the target has no stable name for it.
    unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(owner, 0, socket.0).1 }
}

/// Gives the socket's cell back, if it has one.
#[inline(always)]
pub(crate) fn give_cell_back(socket: Socket) {
    if let Some((cell, owner)) = cell(socket)
        && owner == socket.0
    {
        // SAFETY: cells live as long as their map and are aligned; nobody else writes what is the socket's.
        unsafe { cell.owner.write_volatile(0) };
    }
}

/// The memory of datagrams, by socket and backend: the least recently used go where room is short.
pub(crate) struct OfDatagram;

impl Memory for OfDatagram {
    /// Most datagrams follow others of their socket to the same place, and a lookup costs less than an update; it
    /// also keeps the entry among the recently used.
    #[inline(always)]
    fn remember(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice, _: u8) -> bool {
        let key = ReplyKey::from_words(cookie(ctx), choice.address, choice.port);
        if recall(&key) == Some(dialled) {
            return true;
        }
        let entry = ReplyEntry::from_words(dialled.address, dialled.port);
        REPLIES.insert(&key, &entry, 0).is_ok()
    }

    /// Replies to earlier datagrams may still be on their way.
    #[inline(always)]
    fn forget(_: &SockAddrContext) {}
}

impl OfDatagram {
    /// What the socket had last sent to, if that became `sender`.
    #[inline(always)]
    pub(crate) fn recall(ctx: &SockAddrContext, sender: Endpoint) -> Option<Endpoint> {
        recall(&ReplyKey::from_words(cookie(ctx), sender.address, sender.port))
    }
}

#[inline(always)]
fn recall(key: &ReplyKey) -> Option<Endpoint> {
    let entry = REPLIES.get_ptr(key)?;
    // SAFETY: the element's memory stays while the program runs. It may be given to another key meanwhile, which
    // takes as many new destinations at that very moment as the map has room.
    let (address, port) = unsafe { &*entry }.words();
    Some(Endpoint { address, port })
}

#[inline(always)]
fn cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the context is the program's own.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}
