//! The story on real Kubernetes, told with `kubectl` against two contexts, whoever provides them.
//!
//! The service's manifests are the same in both clusters. Every command is shown as it runs.

mod agents;
pub mod plot;
mod shell;
mod watch;
mod x_wings;
