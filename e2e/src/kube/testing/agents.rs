//! What the agents of a cluster's nodes say, through their sockets on the nodes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::PATIENCE;
use crate::kube::KubeCluster;
use crate::lab::http::{self, Door};
use crate::wait;

/// Where an agent listens, below its node's root.
const SOCKET: &str = "run/clustermesh/default/agent.sock";

/// An agent, whichever runs on the node at the moment.
#[derive(Clone, Debug)]
pub struct Agent {
    pub node: String,
    door: Door,
}

/// Numbers by node.
pub type Counts = BTreeMap<String, u64>;

impl Agent {
    /// Those of all nodes of a cluster.
    pub fn of(cluster: &KubeCluster) -> Result<Vec<Self>> {
        let agent = |node: String| {
            let door = Door::Unix(cluster.node_root(&node)?.join(SOCKET));
            Ok(Self { node, door })
        };
        cluster.nodes().into_iter().map(agent).collect()
    }

    /// The items of a list of its admin API.
    pub fn items(&self, path: &str) -> Result<Vec<Value>> {
        let mut answer: Value = serde_json::from_str(&http::fetch(&self.door, path)?)?;
        let items = answer["items"].as_array_mut().map(std::mem::take);
        items.with_context(|| format!("{path} of {} is no list", self.node))
    }

    /// The sum of a metric's series.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let text = http::fetch(&self.door, "/metrics")?;
        let of = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let values: Vec<u64> =
            of.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)).collect::<Result<_>>()?;
        ensure!(!values.is_empty(), "{} has no metric {name}", self.node);
        Ok(values.iter().sum())
    }

    /// What the maps hold of a service: "cluster address:port state".
    pub fn backends(&self, service: &str) -> Result<Vec<String>> {
        let items = self.items(&format!("/v1/backends?service={service}"))?;
        let text = |item: &Value, field: &str| item[field].as_str().unwrap_or_default().to_owned();
        let line = |item: &Value| {
            format!(
                "{} {}:{} {}",
                text(item, "cluster"),
                text(item, "address"),
                item["port"],
                text(item, "state")
            )
        };
        Ok(items.iter().map(line).collect())
    }

    /// What became of its peers: state and the incarnation of their etcd, by name.
    pub fn peers(&self) -> Result<BTreeMap<String, (String, String)>> {
        let text = |item: &Value, field: &str| item[field].as_str().unwrap_or_default().to_owned();
        let peers = self.items("/v1/peers")?;
        Ok(peers
            .iter()
            .map(|peer| (text(peer, "name"), (text(peer, "state"), text(peer, "incarnation"))))
            .collect())
    }
}

/// A metric of every agent of these clusters.
pub fn counts(clusters: &[&KubeCluster], metric: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    for cluster in clusters {
        for agent in Agent::of(cluster)? {
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
pub fn wait_all(what: &str, clusters: &[&KubeCluster], holds: impl Fn(&Agent) -> Result<()>) -> Result<()> {
    for cluster in clusters {
        for agent in Agent::of(cluster)? {
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
        http::fetch(&agent.door, "/readyz").map(drop)
    })
}
