//! Addresses as the programs handle them: sixteen bytes in network order, as four words in memory order.

/// The third word of every v4-mapped address (RFC 4291 §2.5.5.2), as it lies in memory.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// Whether the words are a v4-mapped address.
#[inline(always)]
pub const fn is_mapped(words: [u32; 4]) -> bool {
    words[0] == 0 && words[1] == 0 && words[2] == MAPPED
}

/// The v4-mapped form of an IPv4 address, both as words in memory order.
#[inline(always)]
pub const fn mapped(address: u32) -> [u32; 4] {
    [0, 0, MAPPED, address]
}

/// Four words in memory order as the sixteen bytes that they are.
#[inline(always)]
pub(crate) const fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: four words are sixteen bytes, and every bit pattern is valid in both.
    unsafe { core::mem::transmute(words) }
}

/// Sixteen bytes as words in memory order.
#[inline(always)]
pub(crate) const fn words(bytes: [u8; 16]) -> [u32; 4] {
    // SAFETY: as above.
    unsafe { core::mem::transmute(bytes) }
}
