//! From what the sources say to what the maps hold: one file for each job.
//!
//! | job | files |
//! |---|---|
//! | the loop, which alone waits | `task`; `retired` waits for grace periods, `sources` reads the sources |
//! | its passes, which are given the time | `passes`, over everything below |
//! | deciding what has to change (pure) | `merger`, with `inputs`, `marks`, `next_plan`, `one_service`, `claims`, `inherited`, `left_out`, `terminating`, `refused`, `refusal` |
//! | writing it | `planner`, `writer`, `failures`, `retries`; `logged` tells what has no room |
//! | repair of foreign writes | `sweep` |
//! | sign of life | `heartbeat`; `failback` says when an agent that was away may give it |
//! | counts, memory, readiness | `connects`, `trimming`, `shown` |
//! | answers | `query`, from the maps and from a `view` that the loop publishes; `rows`, `names`, `reasons` |
//! | names for readers without the agent | `names_file`, a task of its own |

mod claims;
mod connects;
pub mod failback;
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
mod next_plan;
mod one_service;
mod passes;
mod planner;
pub mod query;
pub mod reasons;
mod refusal;
mod refused;
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
