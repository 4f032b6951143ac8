//! What was dialled, remembered until somebody asks: with the socket where it is connected, with the pair of
//! socket and backend where each datagram has its own destination.

use core::intrinsics::AtomicOrdering::SeqCst;
use core::intrinsics::atomic_cxchg;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SockAddrContext;
use mesh_abi::{Choice, Origin, Outcome, PROTOCOL_TCP, ReplyEntry, ReplyKey, cell_index};

use crate::maps::{CELLS, ORIGINS, OWNERS, REPLIES, count};
use crate::peer::Endpoint;

/// Remembers what was dialled.
pub(crate) trait Memory {
    /// `dialled` became `choice`.
    fn remember(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice, protocol: u8);
    /// What is dialled now stays as it is; what was dialled earlier no longer counts.
    fn forget(ctx: &SockAddrContext);
}

/// The memory of connected sockets: goes with the socket, and there is always room.
///
/// A TCP socket takes the cell that its cookie names, because storage of its own is an allocation, which costs four
/// times what all the rest of a connect does. Where the cell is another's, and for UDP, it is the storage.
pub(crate) struct OfSocket;

impl Memory for OfSocket {
    /// A socket can be connected again, so what is there is overwritten.
    #[inline(always)]
    fn remember(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice, protocol: u8) {
        // Made anew where it is needed: what the kernel is given the address of is written to memory and read again.
        let origin = || {
            Origin::from_words(
                (dialled.address, dialled.port),
                (choice.address, choice.port),
                (choice.backend, choice.epoch),
            )
        };
        if protocol == PROTOCOL_TCP && take_cell(cookie(ctx), &origin()) {
            return;
        }
        let mut origin = origin();
        // SAFETY: the context's socket is valid while the program runs.
        let stored = unsafe { ORIGINS.get_or_insert_ptr_mut(ctx, Some(&mut origin)) };
        if stored.is_null() {
            count(Outcome::OriginLost);
            return;
        }
        // SAFETY: the storage lives as long as the socket, and only the task that connects it writes it.
        unsafe { origin.store(stored) };
    }

    /// Both places are cleared: which of them a socket got may differ from one connect to the next.
    #[inline(always)]
    fn forget(ctx: &SockAddrContext) {
        give_cell_back(cookie(ctx));
        // SAFETY: the context's socket is valid while the program runs. That there was nothing is no error.
        unsafe {
            // To look is cheaper than to delete what isn't there, and most sockets have nothing there.
            if !ORIGINS.get_ptr_mut(ctx).is_null() {
                let _gone_already = ORIGINS.delete((*ctx.sock_addr).__bindgen_anon_1.sk);
            }
        }
    }
}

impl OfSocket {
    /// What the socket had dialled, if `peer` is what it became.
    #[inline(always)]
    pub(crate) fn recall(ctx: &SockAddrContext, peer: Endpoint) -> Option<Endpoint> {
        let origin = match own_cell(cookie(ctx)) {
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

/// The word that says whose the cell is that a cookie names, and what it says.
#[inline(always)]
fn owner(cookie: u64) -> Option<(*mut u64, u64)> {
    let owner = OWNERS.get_ptr_mut(cell_index(cookie))?;
    // SAFETY: elements live as long as their map and are aligned.
    Some((owner, unsafe { owner.read_volatile() }))
}

/// The origin in the socket's cell, if it has one.
#[inline(always)]
fn own_cell(cookie: u64) -> Option<*mut Origin> {
    let (_, found) = owner(cookie)?;
    if found == cookie { CELLS.get_ptr_mut(cell_index(cookie)) } else { None }
}

/// Puts the origin into the socket's cell; false where that is another socket's.
#[inline(always)]
fn take_cell(cookie: u64, origin: &Origin) -> bool {
    let Some((owner, found)) = owner(cookie) else { return false };
    let Some(cell) = CELLS.get_ptr_mut(cell_index(cookie)) else { return false };
    let is_own = found == cookie || found == 0 && claim(owner, cookie);
    if is_own {
        // SAFETY: elements live as long as their map; only the task that connects the cell's socket writes it.
        unsafe { origin.store(cell) };
    }
    is_own
}

/// Puts a cookie where there was none, unless another CPU does it first.
#[inline(always)]
fn claim(owner: *mut u64, cookie: u64) -> bool {
    // SAFETY: cells live as long as their map, and the word is aligned. The instruction is there since Linux 5.12;
    // the target has no stable name for it.
    unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(owner, 0, cookie).1 }
}

/// Gives the socket's cell back, if it has one.
#[inline(always)]
pub(crate) fn give_cell_back(cookie: u64) {
    if let Some((owner, found)) = owner(cookie)
        && found == cookie
    {
        // SAFETY: elements live as long as their map and are aligned; nobody else writes what is the socket's.
        unsafe { owner.write_volatile(0) };
    }
}

/// The memory of datagrams, by socket and backend: the least recently used go where room is short.
pub(crate) struct OfDatagram;

impl Memory for OfDatagram {
    /// Most datagrams follow others of their socket to the same place, and a lookup costs less than an update; it
    /// also keeps the entry among the recently used.
    #[inline(always)]
    fn remember(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice, _: u8) {
        let key = ReplyKey::from_words(cookie(ctx), choice.address, choice.port);
        if recall(&key) == Some(dialled) {
            return;
        }
        let entry = ReplyEntry::from_words(dialled.address, dialled.port);
        if REPLIES.insert(&key, &entry, 0).is_err() {
            count(Outcome::OriginLost);
        }
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
pub(crate) fn cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the context is the program's own.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}
