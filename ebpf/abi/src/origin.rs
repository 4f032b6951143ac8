//! The values of the socket storage `ORIGINS` and of `SOCKETS`: what a translated socket had dialled.

use core::ptr::addr_of_mut;

use crate::address::{bytes, words};
use crate::plain;

/// The frontend that a socket dialled and the backend that it got. `getpeername` shows the frontend only
/// while the peer is still that backend: a socket can be connected again. Aligned, so that a program moves it
/// by words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Dialled address, network order, IPv4 v4-mapped.
    pub frontend_address: [u8; 16],
    /// Address after translation.
    pub backend_address: [u8; 16],
    /// Dialled port, network order.
    pub frontend_port: [u8; 2],
    /// Port after translation, network order.
    pub backend_port: [u8; 2],
    /// Index in `BACKENDS` at the time.
    pub backend: u32,
    /// The backend's epoch at the time.
    pub epoch: u32,
    /// Padding, always 0.
    pub zero: u32,
}
plain!(Origin, size 48, align 8);

impl Origin {
    /// From addresses as words in memory order with ports as they lie in memory, and a backend's (id, epoch).
    #[inline(always)]
    pub const fn from_words(frontend: ([u64; 2], u16), backend: ([u64; 2], u16), id: (u32, u32)) -> Self {
        Self {
            frontend_address: bytes(frontend.0),
            backend_address: bytes(backend.0),
            frontend_port: frontend.1.to_ne_bytes(),
            backend_port: backend.1.to_ne_bytes(),
            backend: id.0,
            epoch: id.1,
            zero: 0,
        }
    }

    /// Writes it to `to` by words: as one assignment it would be a call that moves byte by byte.
    ///
    /// # Safety
    /// `to` is aligned to eight bytes, as the kernel aligns values, and valid for writes; nobody else writes it
    /// meanwhile.
    #[inline(always)]
    pub unsafe fn store(&self, to: *mut Self) {
        let (frontend, backend) = (words(self.frontend_address), words(self.backend_address));
        let ([a, b], [c, d]) = (self.frontend_port, self.backend_port);
        // SAFETY: the offsets lie inside an `Origin` and are those of its fields; `to` is as the caller promises.
        unsafe {
            let addresses = to.cast::<u64>();
            addresses.write_volatile(frontend[0]);
            addresses.add(1).write_volatile(frontend[1]);
            addresses.add(2).write_volatile(backend[0]);
            addresses.add(3).write_volatile(backend[1]);
            addr_of_mut!((*to).frontend_port).cast::<u32>().write_volatile(u32::from_ne_bytes([a, b, c, d]));
            addr_of_mut!((*to).backend).write_volatile(self.backend);
            addr_of_mut!((*to).epoch).write_volatile(self.epoch);
        }
    }

    /// The frontend, in the form that [`Self::from_words`] takes.
    #[inline(always)]
    pub const fn frontend_words(&self) -> ([u64; 2], u16) {
        (words(self.frontend_address), u16::from_ne_bytes(self.frontend_port))
    }

    /// The backend, likewise.
    #[inline(always)]
    pub const fn backend_words(&self) -> ([u64; 2], u16) {
        (words(self.backend_address), u16::from_ne_bytes(self.backend_port))
    }
}

/// As many translated TCP sockets remember what they had dialled without an allocation.
pub const CELLS: usize = 1 << 16;

/// So many cells share a count of the sockets that have storage although a cell of these would be theirs.
const CELLS_PER_COUNT: usize = 16;
const COUNTS: usize = CELLS / CELLS_PER_COUNT;

/// The single element of `SOCKETS`, so that a program looks it up once and then indexes it: cells by [`cell_index`].
///
/// The owners lie apart from the origins, because every connect reads one: close together they stay in the cache. So do the
/// counts, which tell most connects that there is no storage to look for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sockets {
    /// What the programs tell the socket by to which the cell belongs, 0 where it is free: where the kernel has put it,
    /// counted from where it has put the map, for as long as it lives.
    pub owners: [u64; CELLS],
    /// What it had dialled.
    pub origins: [Origin; CELLS],
    /// How many sockets have storage in `ORIGINS`, by [`count_index`]: at least as many as have.
    pub stored: [u32; COUNTS],
}
plain!(Sockets, size 56 * CELLS + 4 * COUNTS, align 8);

/// Index of the cell that a socket may have; where that is another socket's, `ORIGINS` has room. Sockets lie side by
/// side: a multiplication by the golden ratio (Knuth's, for 64 bits) spreads them.
#[inline(always)]
pub const fn cell_index(socket: u64) -> usize {
    (socket.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - CELLS.trailing_zeros())) as usize
}

/// Index of the count in which a socket of this [`cell_index`] is counted.
#[inline(always)]
pub const fn count_index(cell: usize) -> usize {
    cell / CELLS_PER_COUNT
}
