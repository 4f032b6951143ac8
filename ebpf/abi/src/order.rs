//! The order of reads on CPUs that may read in another: an address that is made of what was read is read at later. Owns the
//! assembler that keeps the compiler from seeing that such an address is always the same. Never reads, never decides.

/// A word that is made of every word that was read so far.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen(u64);

impl Seen {
    pub(crate) const NOTHING: Self = Self(0);

    /// What was read so far, and a word more. Has to come before anything is decided by the word: where the compiler knows
    /// its value, it takes that instead of what was read.
    #[inline(always)]
    pub(crate) fn add(&mut self, word: u64) {
        #[cfg(target_arch = "bpf")]
        // SAFETY: an operation between two registers.
        unsafe {
            core::arch::asm!("{seen} |= {word}", seen = inout(reg) self.0, word = in(reg) word, options(nomem, nostack));
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            self.0 |= word;
        }
    }

    /// The word itself, to be added to another.
    #[inline(always)]
    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    /// Always 0, to be added to an address, in bytes: what is read there is read after everything that was seen. A constant
    /// to the verifier; to the CPU, and to the compiler, made of what was read.
    #[inline(always)]
    pub(crate) fn distance(self) -> usize {
        #[cfg(target_arch = "bpf")]
        {
            let mut distance = self.0;
            // SAFETY: an operation on a register.
            unsafe {
                core::arch::asm!("{distance} &= 0", distance = inout(reg) distance, options(nomem, nostack))
            };
            distance as usize
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            0
        }
    }
}
