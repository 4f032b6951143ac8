//! The way out: what a socket dials is replaced by a backend, and what it had dialled is remembered.

use aya_ebpf::programs::SockAddrContext;
use mesh_abi::{Choice, Origin, Outcome, PROTOCOL_TCP, ServiceKey, Verdict, decide};

use crate::maps::{Maps, ORIGINS, count, count_connection};
use crate::peer::{Endpoint, Peer};
use crate::{PROCEED, REFUSE};

/// `connect()`: decides, counts the outcome, and returns whether the call goes on.
#[inline(always)]
pub(crate) fn connect<P: Peer>(ctx: &SockAddrContext) -> i32 {
    let Some(protocol) = balanced_protocol(ctx) else { return PROCEED };
    let dialled = P::read(ctx);
    let key = ServiceKey::from_words(dialled.address, dialled.port.to_ne_bytes(), protocol);
    let mut choice = Choice::NONE;
    match decide(&mut Maps, &key, &mut choice) {
        Verdict::Translate => {
            translate::<P>(ctx, dialled, &choice);
            PROCEED
        }
        Verdict::Refuse => {
            count(Outcome::Canary);
            REFUSE
        }
        verdict => {
            forget_origin(ctx);
            count(passed(verdict));
            PROCEED
        }
    }
}

/// The protocols whose connects are balanced.
#[inline(always)]
fn balanced_protocol(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: the kernel passes a valid context.
    let protocol = unsafe { core::ptr::addr_of!((*ctx.sock_addr).protocol).read_volatile() };
    (protocol == u32::from(PROTOCOL_TCP)).then_some(PROTOCOL_TCP)
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

#[inline(always)]
fn translate<P: Peer>(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice) {
    let backend = Endpoint { address: choice.address, port: choice.port };
    P::write(ctx, backend);
    remember_origin(ctx, dialled, choice);
    count_connection(choice.counter, choice.last_resort);
    count(Outcome::Translated);
}

/// Remembers the frontend in the socket. A socket can be connected again, so what is there is overwritten.
#[inline(always)]
fn remember_origin(ctx: &SockAddrContext, dialled: Endpoint, choice: &Choice) {
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

/// Forgets what the socket had dialled earlier.
#[inline(always)]
fn forget_origin(ctx: &SockAddrContext) {
    // SAFETY: the context's socket is valid while the program runs. That there was nothing is no error.
    let _nothing_stored = unsafe { ORIGINS.delete((*ctx.sock_addr).__bindgen_anon_1.sk) };
}
