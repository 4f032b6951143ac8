//! What was dialled, remembered until somebody asks: with the socket where it is connected, with the pair of
//! socket and backend where each datagram has its own destination.

use core::hint::cold_path;
use core::intrinsics::AtomicOrdering::SeqCst;
use core::intrinsics::{atomic_cxchg, atomic_xadd, atomic_xsub};
use core::ptr::{addr_of, addr_of_mut, null_mut};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_sk_storage_get, bpf_skc_to_mptcp_sock};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use mesh_abi::{Choice, Origin, PROTOCOL_TCP, ReplyEntry, ReplyKey, cell_index, count_index};

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
        if mptcp.is_null() && protocol == PROTOCOL_TCP && take_cell(ctx, &origin()) {
            return true;
        }
        cold_path();
        let socket = if mptcp.is_null() { context_socket(ctx) } else { mptcp };
        store_at(socket, &mut origin())
    }

    /// Both places are cleared: which of them a socket got may differ from one connect to the next. An MPTCP socket's
    /// stays: its further subflows dial the backend's other addresses, and pass by here too.
    #[inline(always)]
    fn forget(ctx: &SockAddrContext) {
        let Some(place) = Place::of(dialling(ctx)) else { return };
        place.give_cell_back();
        if place.may_have_storage() {
            cold_path();
            // SAFETY: the context's socket is valid while the program runs.
            unsafe {
                // To look is cheaper than to delete what isn't there.
                if !ORIGINS.get_ptr_mut(ctx).is_null() {
                    let _gone_already = ORIGINS.delete((*ctx.sock_addr).__bindgen_anon_1.sk);
                    place.uncount();
                }
            }
        }
    }
}

/// Puts the origin into the cell of the socket that connects; false where that is another's.
#[inline(always)]
fn take_cell(ctx: &SockAddrContext, origin: &Origin) -> bool {
    Place::of(dialling(ctx)).is_some_and(|place| place.take_cell(origin))
}

/// The socket that connects.
#[inline(always)]
fn context_socket(ctx: &SockAddrContext) -> *mut c_void {
    // SAFETY: the kernel passes a valid context with a socket.
    unsafe { addr_of!((*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile().cast() }
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

/// Remembers an origin in a socket's storage; false where there is no room.
#[inline(always)]
fn store_at(socket: *mut c_void, origin: &mut Origin) -> bool {
    let Some(place) = Place::of(Socket::at(socket)) else { return false };
    // SAFETY: the map is one of socket storage, the socket is the context's or one that a helper has just returned, and a
    // value of the map's type is copied. The storage lives as long as the socket, and only the task that connects it
    // writes it.
    unsafe {
        let map = addr_of!(ORIGINS).cast_mut().cast();
        let stored = bpf_sk_storage_get(map, socket, null_mut(), 0);
        if !stored.is_null() {
            origin.store(stored.cast());
            return true;
        }
        // Counted first, so that the count is never too small.
        place.count();
        let value: *mut Origin = origin;
        let stored = bpf_sk_storage_get(map, socket, value.cast(), BPF_SK_STORAGE_GET_F_CREATE.into());
        if stored.is_null() {
            place.uncount();
            return false;
        }
    }
    true
}

impl OfSocket {
    /// What the socket had dialled, if `peer` is what it became.
    #[inline(always)]
    pub(crate) fn recall(ctx: &SockAddrContext, peer: Endpoint) -> Option<Endpoint> {
        let place = Place::of(dialling(ctx))?;
        let origin = if place.has_cell() {
            place.origin
        } else if place.may_have_storage() {
            // SAFETY: the context's socket is valid while the program runs.
            unsafe { ORIGINS.get_ptr_mut(ctx) }
        } else {
            return None;
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
    Socket::at(context_socket(ctx))
}

/// A socket is closed: its cell is free, and with the socket goes its storage. To programs of this kind the kernel passes
/// nothing but sockets that are closed.
#[inline(always)]
pub(crate) fn closed(ctx: &SockContext) {
    let Some(place) = Place::of(Socket::at(ctx.sock)) else { return };
    place.give_cell_back();
    if place.may_have_storage() {
        cold_path();
        // SAFETY: the map is one of socket storage, and for programs of this kind the context is the socket.
        let stored = unsafe {
            bpf_sk_storage_get(addr_of!(ORIGINS).cast_mut().cast(), ctx.sock.cast(), null_mut(), 0)
        };
        if !stored.is_null() {
            place.uncount();
        }
    }
}

/// Where a socket's memory may be, by where the socket lies, and what is known of it.
#[derive(Clone, Copy)]
struct Place {
    socket: Socket,
    /// The cell's owner, which was another's at the time, the socket's, or nobody's.
    holder: u64,
    owner: *mut u64,
    origin: *mut Origin,
    stored: *mut u32,
}

impl Place {
    #[inline(always)]
    fn of(socket: Socket) -> Option<Self> {
        let sockets = SOCKETS.get_ptr_mut(0)?;
        let index = cell_index(socket.0);
        // SAFETY: the element lives as long as its map and is aligned, and the indices are below the numbers of cells and
        // counts.
        unsafe {
            let owner = addr_of_mut!((*sockets).owners).cast::<u64>().add(index);
            let origin = addr_of_mut!((*sockets).origins).cast::<Origin>().add(index);
            let stored = addr_of_mut!((*sockets).stored).cast::<u32>().add(count_index(index));
            Some(Self { socket, holder: owner.read_volatile(), owner, origin, stored })
        }
    }

    /// Whether the cell is the socket's.
    #[inline(always)]
    fn has_cell(&self) -> bool {
        self.holder == self.socket.0
    }

    /// Puts the origin into the cell; false where that is another socket's.
    #[inline(always)]
    fn take_cell(&self, origin: &Origin) -> bool {
        let is_own = self.has_cell() || self.holder == 0 && self.claim();
        if is_own {
            // SAFETY: cells live as long as their map; only the task that connects the cell's socket writes it.
            unsafe { origin.store(self.origin) };
        }
        is_own
    }

    /// Puts the socket where there was none, unless another CPU does it first.
    #[inline(always)]
    fn claim(&self) -> bool {
        // SAFETY: cells live as long as their map, and the word is aligned. The instruction is there since Linux 5.12;
        // the target has no stable name for it.
        unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(self.owner, 0, self.socket.0).1 }
    }

    /// Gives the socket's cell back, if it has one.
    #[inline(always)]
    fn give_cell_back(&self) {
        if self.has_cell() {
            // SAFETY: cells live as long as their map and are aligned; nobody else writes what is the socket's.
            unsafe { self.owner.write_volatile(0) };
        }
    }

    /// Whether any socket that is counted here has storage: asking for the storage itself is a call, which most connects
    /// are spared.
    ///
    /// What the socket did itself it did under its lock, and so is seen here. A count stays too large where a socket was
    /// closed without the hook; that costs the call.
    #[inline(always)]
    fn may_have_storage(&self) -> bool {
        // SAFETY: counts live as long as their map and are aligned.
        unsafe { self.stored.read_volatile() != 0 }
    }

    /// The socket gets storage.
    #[inline(always)]
    fn count(&self) {
        // SAFETY: counts live as long as their map and are aligned; the target has no stable name for the instruction.
        unsafe { atomic_xadd::<u32, u32, { SeqCst }>(self.stored, 1) };
    }

    /// The socket has no storage any more.
    #[inline(always)]
    fn uncount(&self) {
        // SAFETY: as above.
        unsafe { atomic_xsub::<u32, u32, { SeqCst }>(self.stored, 1) };
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
