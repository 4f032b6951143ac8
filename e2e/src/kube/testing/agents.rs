//! Answers of the agents of a cluster's nodes, through their sockets on the nodes.

use std::collections::BTreeMap;

use super::PATIENCE;
use crate::agent_api::AgentApi;
use crate::kube::KubeCluster;
use crate::lab::http;
use crate::wait;
use anyhow::{Result, ensure};

/// Numbers by node.
pub type Counts = BTreeMap<String, u64>;

/// A metric of every agent of these clusters.
pub fn counts(clusters: &[&KubeCluster], metric: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    for cluster in clusters {
        for agent in cluster.agents()? {
            counts.insert(agent.node.clone(), agent.metric(metric)?);
        }
    }
    Ok(counts)
}

/// Elements that every agent has written into its maps since its start.
pub fn map_writes(clusters: &[&KubeCluster]) -> Result<Counts> {
    counts(clusters, "clustermesh_map_writes_total")
}

/// Waits until something holds for every agent of these clusters.
pub fn wait_all(
    what: &str,
    clusters: &[&KubeCluster],
    holds: impl Fn(&AgentApi) -> Result<()>,
) -> Result<()> {
    for cluster in clusters {
        for agent in cluster.agents()? {
            wait::until(&format!("{what} on {}", agent.node), PATIENCE, || holds(&agent))?;
        }
    }
    Ok(())
}

/// Waits until every agent has plans for its own source and knows all of its peers.
pub fn wait_synced(clusters: &[&KubeCluster]) -> Result<()> {
    wait_all("synced peers", clusters, |agent| {
        let peers = agent.peers()?;
        ensure!(!peers.is_empty() && peers.values().all(|(state, _)| state == "synced"), "{peers:?}");
        http::fetch(&agent.door(), "/readyz").map(drop)
    })
}
