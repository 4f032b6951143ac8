//! Settings of glibc's allocator; those of other C libraries need none.

#![allow(unsafe_code, reason = "glibc's functions are foreign")]

/// Gives free memory back to the kernel. glibc keeps what a large list or plan needed for a moment.
pub fn trim() {
    // SAFETY: it takes no address and locks what it touches.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// One heap for all threads: what one of them needed for a moment is of use to the others then.
pub fn share() {
    // SAFETY: it takes no address; called before there are other threads.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
