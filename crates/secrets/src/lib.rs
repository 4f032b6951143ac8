//! Kubernetes Secrets of the own namespace: read, written so that nobody else's writes are lost, and mirrored into a folder.
//!
//! Knows nothing of what is in them. Never lists or watches any but those that it is given by name, so that a Role can name
//! them, and never puts a value into a log, an error or a debug text.

mod folder;
mod metrics;
mod mirror;
mod name;
mod secret;
mod secrets;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use folder::Layout;
pub use mesh_kube::Access;
pub use metrics::MirrorMetrics;
pub use mirror::{Mirror, MirrorState};
pub use name::{KeyName, NameError, SecretName};
pub use secret::{Content, Secret};
pub use secrets::{Applied, OnConflict, Removed, Secrets, SecretsError};
