//! What it takes to make clusters each other's peers: what is wrong with a join before anything changes, which peer file
//! goes where, how everybody learns of another certificate authority, and invites.
//!
//! Plain values in, plain values out. Never asks a cluster, dials, reads a file, hashes or knows the time.

mod admission;
pub mod invite;
pub mod plan;
pub mod rotation;

pub use admission::{Admission, Candidate};
