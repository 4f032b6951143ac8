//! The key of the `SERVICES` map: what a client dials.

use crate::address::words;
use crate::plain;

/// IANA protocol number of TCP, as the kernel gives it in `bpf_sock_addr.protocol`.
pub const PROTOCOL_TCP: u8 = 6;
/// IANA protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// A frontend: address, port and protocol. Aligned, so that a program compares keys by words.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// 16 bytes in network order; IPv4 is v4-mapped (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2).
    pub address: [u8; 16],
    /// Network order.
    pub port: [u8; 2],
    /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub protocol: u8,
    /// Padding, always 0.
    pub zero: u8,
}
plain!(ServiceKey, size 20, align 4);

impl ServiceKey {
    pub const fn new(address: [u8; 16], port: u16, protocol: u8) -> Self {
        Self { address, port: port.to_be_bytes(), protocol, zero: 0 }
    }

    /// As [`Self::new`], from an address as words in memory order and a port in network order.
    #[inline(always)]
    pub const fn from_words(address: [u32; 4], port: [u8; 2], protocol: u8) -> Self {
        let [a, b, c, d] = address;
        // Written and read by words: a processor waits where a word is read that was just written in pieces.
        let last = u32::from_ne_bytes([port[0], port[1], protocol, 0]);
        // SAFETY: a key is five aligned words without padding.
        unsafe { core::mem::transmute::<[u32; 5], Self>([a, b, c, d, last]) }
    }

    /// The address as words in memory order.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        words(self.address)
    }
}
