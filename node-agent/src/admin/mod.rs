//! The agent's admin API.

pub mod api;
pub mod events;
