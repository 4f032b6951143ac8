//! The lab as a provider of the story's clusters.

use std::path::PathBuf;

use anyhow::Result;

use super::KubeLab;
use crate::story::kubernetes::{Provider, Site};

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
