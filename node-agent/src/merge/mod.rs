//! From what the sources say to what the maps hold.
//!
//! `merger` decides what has to change (pure), `marks` of which services, `claims` which service owns a frontend, `left_out` which clusters take no part in one, `terminating` which have nothing better than terminating backends, `refusal` why one is not as desired, and `inherited` what of the
//! maps stays while the source can't be read; `planner` carries it out and does
//! again what failed, when `retries` says so, and `sweep` finds what somebody else wrote; `retired` waits for grace periods, `heartbeat` shows that the agent lives, and `comeback` says when
//! one that was away for long may do so; `query` answers questions from the maps and from what the loop publishes, `names`
//! says what things are called, `reasons` why something is not in use, and `names_file` writes it down. `task` is the loop
//! around them.

mod claims;
pub mod comeback;
mod connects;
mod failures;
mod heartbeat;
mod inherited;
mod inputs;
mod left_out;
mod logged;
mod marks;
pub mod merger;
pub mod metrics;
pub mod names;
pub mod names_file;
mod passes;
mod planner;
pub mod query;
pub mod reasons;
mod refusal;
mod retired;
mod retries;
mod rows;
mod shown;
mod sources;
mod start;
mod sweep;
pub mod task;
mod terminating;
mod trimming;
mod view;
mod writer;

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod merger_tests;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod task_tests;
#[cfg(test)]
mod testing;
