//! The node agent: follows the peer clusters and its own, merges their backends, and keeps the node's eBPF
//! service maps as they shall be.

pub mod admin;
pub mod datapath;
pub mod merge;
pub mod peers;
