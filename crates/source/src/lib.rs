//! Where a cluster's own Services and endpoints come from: a folder of manifests, or the Kubernetes API.
//!
//! A source publishes whole snapshots over a watch channel and nothing before it has seen everything once. It
//! never publishes to etcd and never decides what to balance.

pub mod args;
pub mod convert;
pub mod identity;
mod kinds;
pub mod kubernetes;
pub mod manifests;
pub mod memory;
pub mod metrics;
pub mod objects;
mod packed;
pub mod ranges;
pub mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod topology;
mod wire;

pub use args::{Source, SourceArgs, SourceSpec};
pub use identity::{Identity, IdentityArgs, IdentityError};
pub use kubernetes::Kubernetes;
pub use manifests::Manifests;
pub use memory::Known;
pub use metrics::SourceMetrics;
pub use status::{Problem, ProblemAges, Reason, Status};
