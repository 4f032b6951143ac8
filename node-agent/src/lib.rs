//! The node agent: follows the peer clusters and its own, merges their backends, and keeps the node's eBPF
//! service maps as they shall be.

pub mod admin;
pub mod agent;
pub mod config;
pub mod datapath;
pub mod dry_run;
pub mod features;
pub mod findings;
mod following;
pub mod heap;
pub mod hooks;
pub mod install;
mod memory;
pub mod merge;
pub mod metrics;
pub mod peers;
pub mod quota;
pub mod uninstall;
