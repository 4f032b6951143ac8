//! The story on real Kubernetes, told with `kubectl` against two contexts, whoever provides them.
//!
//! The service's manifests are the same in both clusters. Every command is shown as it runs.

mod agents;
pub mod plot;
mod shell;
mod watch;
mod x_wings;

use std::path::PathBuf;

use anyhow::Result;

use crate::kube::kubectl::Context;

/// One of the story's clusters.
#[derive(Clone, Debug)]
pub struct Site {
    /// As the mesh calls it.
    pub name: String,
    pub context: Context,
}

/// What the story needs beyond the clusters' API servers.
pub trait Provider {
    fn sites(&self) -> Vec<Site>;
    /// The root of a node's file system, as this machine sees it: the agent's socket is below it.
    fn node_root(&self, cluster: &str, node: &str) -> Result<PathBuf>;
    /// Pulls the plug of a node.
    fn power_off(&mut self, cluster: &str, node: &str) -> Result<()>;
    fn power_on(&mut self, cluster: &str, node: &str) -> Result<()>;
}
