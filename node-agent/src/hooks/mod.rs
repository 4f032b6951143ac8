//! Who else is at our hooks, and whether pods are served: watched, and told in log, metrics, readiness and admin API.
//!
//! What there is to know, and how a program gets its place, is the datapath's.

mod ahead;
pub mod metrics;
mod told;
mod verdict;
pub mod watch;
