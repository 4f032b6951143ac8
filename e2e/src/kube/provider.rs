//! Providers of real clusters: this lab is one, kind another. A story in them needs no more than this.

use std::path::PathBuf;

use anyhow::Result;

use super::KubeLab;
use super::kubectl::Context;

/// One of a provider's clusters.
#[derive(Clone, Debug)]
pub struct Site {
    /// As the mesh calls it.
    pub name: String,
    pub context: Context,
}

/// Everything that a story needs beyond the clusters' API servers.
pub trait Provider {
    fn sites(&self) -> Vec<Site>;
    /// The root of a node's file system, as this machine sees it: the agent's socket is below it.
    fn node_root(&self, cluster: &str, node: &str) -> Result<PathBuf>;
    /// Pulls the plug of a node.
    fn power_off(&mut self, cluster: &str, node: &str) -> Result<()>;
    fn power_on(&mut self, cluster: &str, node: &str) -> Result<()>;
}

impl Provider for KubeLab {
    fn sites(&self) -> Vec<Site> {
        let site = |cluster: &super::KubeCluster| Site {
            name: cluster.name().to_owned(),
            context: cluster.context(),
        };
        self.clusters().iter().map(site).collect()
    }

    fn node_root(&self, cluster: &str, node: &str) -> Result<PathBuf> {
        let found = self.clusters().iter().find(|found| found.name() == cluster);
        let found = anyhow::Context::with_context(found, || format!("the lab has no cluster {cluster}"))?;
        found.node_root(node)
    }

    fn power_off(&mut self, cluster: &str, node: &str) -> Result<()> {
        self.cluster(cluster)?.power_off_node(node)
    }

    fn power_on(&mut self, cluster: &str, node: &str) -> Result<()> {
        self.cluster(cluster)?.power_on_node(node)
    }
}
