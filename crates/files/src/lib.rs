//! Whether somebody is still writing a file, for everybody who follows a folder that others write into; and files that appear
//! whole, for everybody who writes some.
//!
//! A file's size and times say nothing about it: a writer that pauses leaves half a file behind that looks finished.
//! Never reads a file, and never decides what is done with one that is being written.

use std::fs::File;

#[cfg(target_os = "linux")]
mod lease;
#[cfg(unix)]
mod write;

#[cfg(unix)]
pub use write::{Group, Replaced, make_folder, replace};

/// Who has a file open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Nobody on this machine, whatever namespace or container it is in.
    Absent,
    /// Some process, or a writable mapping of the file.
    Present,
    /// The kernel does not tell: a network file system or one in user space, or a file of somebody else's where this
    /// process has no CAP_LEASE.
    Unknown,
}

/// Asks the kernel who has this file open for writing at the moment.
#[cfg(target_os = "linux")]
pub fn writers(file: &File) -> Writers {
    lease::writers(file)
}

/// Only Linux is asked.
#[cfg(not(target_os = "linux"))]
pub fn writers(_file: &File) -> Writers {
    Writers::Unknown
}
