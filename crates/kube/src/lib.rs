//! How the Kubernetes API server is reached, asked and heard: for whoever follows objects there, and whoever writes some.
//!
//! Never retries, logs or waits for a server to come back: that is for whoever asks.

mod access;
mod api;
mod watch;

pub use access::{Access, AccessError};
pub use api::{ApiError, Lines, get, request, send, whole};
pub use watch::{Event, ListPage, encoded, parse_event, parse_page};
