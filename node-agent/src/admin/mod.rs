//! The agent's admin API: HTTP and JSON on a unix socket, below `/v1/`.
//!
//! Answers questions; changes nothing.

pub mod answers;
pub mod events;
pub mod routes;
