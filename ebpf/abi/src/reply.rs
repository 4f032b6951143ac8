//! Key and value of the `REPLIES` map: what a datagram was sent to before it was translated.

use crate::address::{bytes, words};
use crate::plain;

/// An unconnected UDP socket and a backend that it has sent to. Two services that share a backend share the key
/// where one socket sends to both: the reply shows what was sent to last.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyKey {
    /// `bpf_get_socket_cookie`: unique among the sockets since boot.
    pub cookie: u64,
    /// 16 bytes in network order; IPv4 is v4-mapped.
    pub backend_address: [u8; 16],
    /// Network order.
    pub backend_port: [u8; 2],
    /// Padding, always 0.
    pub zero: [u8; 6],
}
plain!(ReplyKey, size 32, align 8);

impl ReplyKey {
    /// From a backend's address as words in memory order and its port as it lies in memory.
    #[inline(always)]
    pub const fn from_words(cookie: u64, address: [u64; 2], port: u16) -> Self {
        let [a, b] = port.to_ne_bytes();
        let last = u64::from_ne_bytes([a, b, 0, 0, 0, 0, 0, 0]);
        // SAFETY: a key is four aligned words without padding. Written by words, because the kernel reads it by words.
        unsafe { core::mem::transmute::<[u64; 4], Self>([cookie, address[0], address[1], last]) }
    }
}

/// The frontend that the datagram was sent to.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyEntry {
    /// 16 bytes in network order; IPv4 is v4-mapped.
    pub frontend_address: [u8; 16],
    /// Network order.
    pub frontend_port: [u8; 2],
    /// Padding, always 0.
    pub zero: [u8; 2],
}
plain!(ReplyEntry, size 20, align 4);

impl ReplyEntry {
    /// As [`ReplyKey::from_words`].
    #[inline(always)]
    pub const fn from_words(address: [u64; 2], port: u16) -> Self {
        Self { frontend_address: bytes(address), frontend_port: port.to_ne_bytes(), zero: [0; 2] }
    }

    /// The frontend, in the form that [`Self::from_words`] takes.
    #[inline(always)]
    pub const fn words(&self) -> ([u64; 2], u16) {
        (words(self.frontend_address), u16::from_ne_bytes(self.frontend_port))
    }
}
