//! Shared by the node agent, the apiserver and their clients: the shapes of their admin APIs, and where an instance keeps
//! its sockets and its names.
//!
//! Plain data, for any operating system. Never serves, never asks.

pub mod api;
pub mod cluster;
pub mod hook;
pub mod instance;

pub use hook::Hook;
