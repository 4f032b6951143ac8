//! The way back: a socket that asks for its peer sees what it had dialled.

use aya_ebpf::programs::SockAddrContext;

use crate::PROCEED;
use crate::maps::ORIGINS;
use crate::peer::{Endpoint, Peer};

/// `getpeername()`: shows the frontend while the peer is still the backend that it was translated to.
#[inline(always)]
pub(crate) fn show_frontend<P: Peer>(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the context's socket is valid while the program runs.
    let origin = unsafe { ORIGINS.get_ptr_mut(ctx) };
    if origin.is_null() {
        return PROCEED;
    }
    // SAFETY: the storage lives as long as the socket.
    let origin = unsafe { &*origin };
    let (address, port) = origin.backend_words();
    if P::read(ctx) == (Endpoint { address, port }) {
        let (address, port) = origin.frontend_words();
        P::write(ctx, Endpoint { address, port });
    }
    PROCEED
}
