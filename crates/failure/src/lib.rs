//! What to say of a failure, and when to try again.
//!
//! Pure: never logs, never waits.

mod backoff;
mod chain;

pub use backoff::Backoff;
pub use chain::chain;
