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

    /// The key by words.
    pub const fn words(&self) -> KeyWords {
        KeyWords::new(words(self.address), self.port, self.protocol)
    }
}

/// A key as the programs carry it, in registers: what a helper is given the address of is written to memory, and a
/// processor waits where a word is read from there that was just written in pieces.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyWords {
    /// The address as words in memory order.
    pub address: [u64; 2],
    /// Port, protocol and padding in memory order.
    pub rest: u32,
}

impl KeyWords {
    /// From an address as words in memory order and a port in network order.
    #[inline(always)]
    pub const fn new(address: [u64; 2], port: [u8; 2], protocol: u8) -> Self {
        Self { address, rest: u32::from_ne_bytes([port[0], port[1], protocol, 0]) }
    }

    /// The key that they are the words of.
    #[inline(always)]
    pub const fn key(&self) -> &ServiceKey {
        // SAFETY: both begin with the same twenty bytes, of which any make a key; a word is aligned as a key is.
        unsafe { &*core::ptr::from_ref(self).cast::<ServiceKey>() }
    }
}
