//! Watches the programs of others at our hooks and whether pods are served, and reports both in log, metrics, readiness and
//! admin API.
//!
//! Reading the hooks and placing a program there is the datapath's.

mod ahead;
pub mod metrics;
mod told;
mod verdict;
pub mod watch;
