//! Shared by the node agent and its clients: the shapes of the admin API, and where an instance keeps its
//! socket and its names.
//!
//! Plain data, for any operating system. Never serves, never asks.

pub mod api;
pub mod hook;
pub mod instance;

pub use hook::Hook;
