//! The way out: what a socket dials, or a datagram is sent to, is replaced by a backend and remembered.

use aya_ebpf::programs::SockAddrContext;
use mesh_abi::{Choice, KeyWords, Outcome, PROTOCOL_TCP, PROTOCOL_UDP, Verdict, decide};

use crate::maps::{Maps, count_connection};
use crate::memory::{Memory, OfDatagram, OfSocket};
use crate::peer::{Endpoint, Peer};
use crate::{PROCEED, REFUSE};

/// `connect()`, of TCP and of UDP.
#[inline(always)]
pub(crate) fn connect<P: Peer>(ctx: &SockAddrContext) -> i32 {
    balance::<P, OfSocket>(ctx)
}

/// `sendto()` and `sendmsg()` of UDP, where a destination is given: each datagram chooses anew.
#[inline(always)]
pub(crate) fn send<P: Peer>(ctx: &SockAddrContext) -> i32 {
    balance::<P, OfDatagram>(ctx)
}

/// Decides, counts the outcome, and returns whether the call goes on.
#[inline(always)]
fn balance<P: Peer, M: Memory>(ctx: &SockAddrContext) -> i32 {
    let Some(protocol) = balanced_protocol(ctx) else { return PROCEED };
    let dialled = P::read(ctx);
    let key = KeyWords::new(dialled.address, dialled.port.to_ne_bytes(), protocol);
    let Some(mut maps) = Maps::of_this_cpu() else { return PROCEED };
    let mut choice = Choice::NONE;
    match decide(&mut maps, key, &mut choice) {
        Verdict::Translate => {
            P::write(ctx, Endpoint { address: choice.address, port: choice.port });
            if !M::remember(ctx, dialled, &choice, protocol) {
                maps.count(Outcome::OriginLost);
            }
            count_connection(choice.counter, choice.last_resort);
            maps.count(Outcome::Translated);
            PROCEED
        }
        Verdict::Refuse => {
            maps.count(Outcome::Canary);
            REFUSE
        }
        verdict => {
            M::forget(ctx);
            maps.count(passed(verdict));
            PROCEED
        }
    }
}

/// The protocols that are balanced.
#[inline(always)]
fn balanced_protocol(ctx: &SockAddrContext) -> Option<u8> {
    const TCP: u32 = PROTOCOL_TCP as u32;
    const UDP: u32 = PROTOCOL_UDP as u32;
    // SAFETY: the kernel passes a valid context.
    let protocol = unsafe { core::ptr::addr_of!((*ctx.sock_addr).protocol).read_volatile() };
    match protocol {
        TCP => Some(PROTOCOL_TCP),
        UDP => Some(PROTOCOL_UDP),
        _ => None,
    }
}

/// The outcome of a verdict that leaves the destination as it was.
#[inline(always)]
fn passed(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::NotAService => Outcome::NotAService,
        Verdict::Yield => Outcome::Yielded,
        Verdict::GiveUp => Outcome::GaveUp,
        Verdict::Refuse => Outcome::Canary,
        // A translated connect is counted where it is rewritten.
        Verdict::NoBackend | Verdict::Translate => Outcome::NoBackend,
    }
}
