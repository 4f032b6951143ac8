//! Time that only goes forward.

use std::ops::Add;
use std::time::Duration;

/// A point on this host's monotonic clock: the time since an origin that is the same for the whole life of a process. A stamp
/// that the kernel took on the wall clock is converted by whoever read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(Duration);

impl Monotonic {
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The time from `earlier` to here, and nothing where that is later: a stamp may be taken after `now` was.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<Duration> for Monotonic {
    fn from(since_origin: Duration) -> Self {
        Self(since_origin)
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}
