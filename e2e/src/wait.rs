//! Waiting for a predicate with a deadline: the only way in which tests and labs wait.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a predicate is asked again.
const INTERVAL: Duration = Duration::from_millis(10);

/// Asks `probe` until it gives a value, and fails with `what` and the last reason when `patience` is over.
///
/// `Err` from the probe means "not yet, because": it is the reason that a failure shows.
pub fn until<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(reason) if Instant::now() >= deadline => {
                bail!("waited {patience:?} for {what}; last seen: {reason:#}")
            }
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

/// Like [`until`], but gives up at once when `alive` fails: what is waited for can't come any more.
pub(crate) fn until_or<T>(
    what: &str,
    patience: Duration,
    mut alive: impl FnMut() -> Result<()>,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    until(what, patience, || match alive() {
        Ok(()) => probe().map(Ok),
        Err(dead) => Ok(Err(dead)),
    })?
}

/// Microseconds since 1970, as the agents' events and the load's records count them.
pub fn unix_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
