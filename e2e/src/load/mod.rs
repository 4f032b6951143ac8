//! Load: clients that open connections at a constant rate and say who answered, and the servers that answer.
//!
//! Runs inside a pod's namespace and cgroup, as a process of its own; knows nothing of labs.

pub mod client;
mod dns;
pub mod pause;
pub mod record;
pub mod server;
