//! Which content a file has, and since when, as far as that can be told without reading it. Pure.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant, SystemTime};

/// Two times: one for durations, one to compare with those of files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) monotonic: Instant,
    pub(crate) wall: SystemTime,
}

impl Now {
    pub(crate) fn read() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }
}

/// Identifies content without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Of a file that is there, and of which no more can be told.
    pub(crate) fn unknown() -> Self {
        Self { device: 0, inode: 0, size: 0, modified: (0, 0), changed: (0, 0) }
    }

    /// How long ago the inode was last changed or renamed; `None` for the future, which a clock step can make.
    pub(crate) fn age(&self, wall: SystemTime) -> Option<Duration> {
        let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let nanoseconds = u32::try_from(self.changed.1).ok()?;
        let changed = Duration::new(u64::try_from(self.changed.0).ok()?, nanoseconds);
        since_epoch.checked_sub(changed)
    }
}
