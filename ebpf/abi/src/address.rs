//! Addresses as the programs handle them: sixteen bytes in network order, as two words in memory order.

/// The third quarter of every v4-mapped address (RFC 4291 §2.5.5.2).
const MAPPED: [u8; 4] = [0, 0, 0xff, 0xff];

/// Whether the words are a v4-mapped address.
#[inline(always)]
pub const fn is_mapped(words: [u64; 2]) -> bool {
    let [a, b, c, d, ..] = words[1].to_ne_bytes();
    words[0] == 0 && u32::from_ne_bytes([a, b, c, d]) == u32::from_ne_bytes(MAPPED)
}

/// The v4-mapped form, as words, of an IPv4 address as a word.
#[inline(always)]
pub const fn mapped(address: u32) -> [u64; 2] {
    let [a, b, c, d] = MAPPED;
    let [e, f, g, h] = address.to_ne_bytes();
    [0, u64::from_ne_bytes([a, b, c, d, e, f, g, h])]
}

/// The four quarters of an address; the last is the IPv4 address where it is a v4-mapped one.
#[inline(always)]
pub const fn quarters(words: [u64; 2]) -> [u32; 4] {
    // SAFETY: sixteen bytes each, and every bit pattern is valid in both.
    unsafe { core::mem::transmute(words) }
}

/// An address of four quarters.
#[inline(always)]
pub const fn from_quarters(quarters: [u32; 4]) -> [u64; 2] {
    // SAFETY: as above.
    unsafe { core::mem::transmute(quarters) }
}

/// Two words as the sixteen bytes that they are.
#[inline(always)]
pub(crate) const fn bytes(words: [u64; 2]) -> [u8; 16] {
    // SAFETY: as above.
    unsafe { core::mem::transmute(words) }
}

/// Sixteen bytes as words.
#[inline(always)]
pub(crate) const fn words(bytes: [u8; 16]) -> [u64; 2] {
    // SAFETY: as above.
    unsafe { core::mem::transmute(bytes) }
}
