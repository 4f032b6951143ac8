//! What was dialled, remembered until somebody asks: with the socket where it is connected, with the pair of
//! socket and backend where each datagram has its own destination.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SockAddrContext;
use mesh_abi::{Choice, Origin, Outcome, ReplyEntry, ReplyKey};

use crate::maps::{ORIGINS, REPLIES, count};
use crate::peer::Endpoint;

/// Remembers what was dialled.
pub(crate) trait Memory {
    /// `dialled` became `choice`.
    fn remember(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice);
    /// What is dialled now stays as it is; what was dialled earlier no longer counts.
    fn forget(ctx: &SockAddrContext);
}

/// The memory of connected sockets: goes with the socket, and there is always room.
pub(crate) struct OfSocket;

impl Memory for OfSocket {
    /// A socket can be connected again, so what is there is overwritten.
    #[inline(always)]
    fn remember(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice) {
        let mut origin = Origin::from_words(
            (dialled.address, dialled.port),
            (choice.address, choice.port),
            (choice.backend, choice.epoch),
        );
        // SAFETY: the context's socket is valid while the program runs.
        let stored = unsafe { ORIGINS.get_or_insert_ptr_mut(ctx, Some(&mut origin)) };
        if stored.is_null() {
            count(Outcome::OriginLost);
            return;
        }
        // SAFETY: the storage lives as long as the socket, and only the task that connects it writes it.
        unsafe { origin.store(stored) };
    }

    #[inline(always)]
    fn forget(ctx: &SockAddrContext) {
        // SAFETY: the context's socket is valid while the program runs. That there was nothing is no error.
        let _nothing_stored = unsafe { ORIGINS.delete((*ctx.sock_addr).__bindgen_anon_1.sk) };
    }
}

impl OfSocket {
    /// What the socket had dialled, if `peer` is what it became.
    #[inline(always)]
    pub(crate) fn recall(ctx: &SockAddrContext, peer: Endpoint) -> Option<Endpoint> {
        // SAFETY: the context's socket is valid while the program runs.
        let origin = unsafe { ORIGINS.get_ptr_mut(ctx) };
        if origin.is_null() {
            return None;
        }
        // SAFETY: the storage lives as long as the socket.
        let origin = unsafe { &*origin };
        let (address, port) = origin.backend_words();
        if peer != (Endpoint { address, port }) {
            return None;
        }
        let (address, port) = origin.frontend_words();
        Some(Endpoint { address, port })
    }
}

/// The memory of datagrams, by socket and backend: the least recently used go where room is short.
pub(crate) struct OfDatagram;

impl Memory for OfDatagram {
    /// Most datagrams follow others of their socket to the same place, and a lookup costs less than an update; it
    /// also keeps the entry among the recently used.
    #[inline(always)]
    fn remember(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice) {
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
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the program's own.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}
