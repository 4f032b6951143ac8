//! From what the sources say to what the maps hold.
//!
//! `merger` decides (pure), `task` carries out and answers questions about it (async), `claims` settles which
//! service owns a frontend, `comeback` when an agent that was away for long may show that it is back.

mod claims;
pub mod comeback;
pub mod merger;
pub mod metrics;
pub mod query;
pub mod task;

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod merger_tests;
