//! What it takes to make clusters each other's peers: what is wrong with a join before anything changes, and which peer file
//! goes where.
//!
//! Plain values in, plain values out. Never asks a cluster, dials, reads a file or knows the time.

pub mod plan;
