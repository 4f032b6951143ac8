//! The way back: who asks for a socket's peer, or for a datagram's sender, sees what was dialled.

use aya_ebpf::programs::SockAddrContext;

use crate::PROCEED;
use crate::memory::{OfDatagram, OfSocket};
use crate::peer::Peer;

/// `getpeername()`: shows the frontend while the peer is still the backend that it was translated to.
#[inline(always)]
pub(crate) fn show_peer<P: Peer>(ctx: &SockAddrContext) -> i32 {
    if let Some(frontend) = OfSocket::recall(ctx, P::read(ctx)) {
        P::write(ctx, frontend);
    }
    PROCEED
}

/// `recvfrom()`: a connected socket's sender is its peer; an unconnected one's is what it had sent to.
#[inline(always)]
pub(crate) fn show_sender<P: Peer>(ctx: &SockAddrContext) -> i32 {
    let sender = P::read(ctx);
    if let Some(frontend) = OfSocket::recall(ctx, sender) {
        P::write(ctx, frontend);
    } else if let Some(frontend) = OfDatagram::recall(ctx, sender) {
        P::write(ctx, frontend);
    }
    PROCEED
}
