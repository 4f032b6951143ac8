//! What every lab offers to the story and to tests that are written once: a small set of verbs.
//!
//! The namespace lab implements them here; other labs do it beside their own code.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::lab::client::{LoadSpec, Records};
use crate::lab::component::Stop;
use crate::lab::manifest::ServiceSpec;
use crate::lab::workload::Change;
use crate::wait;

/// Clusters with a mesh between them.
pub trait World {
    fn clusters(&self) -> Vec<String>;
    /// Nodes of one cluster.
    fn nodes(&self, cluster: &str) -> usize;
    /// Declares a service, and starts or ends pods until it has as many as the spec says.
    fn apply(&mut self, cluster: &str, spec: &ServiceSpec) -> Result<Change>;
    /// Starts pods, or ends some gracefully, and waits for their end.
    fn scale(&mut self, cluster: &str, service: &str, replicas: usize) -> Result<Change>;
    /// Kills all pods; the objects still name them.
    fn kill_pods(&mut self, cluster: &str, service: &str) -> Result<()>;
    /// The objects follow.
    fn notice_killed_pods(&mut self, cluster: &str, service: &str) -> Result<Change>;
    /// Pulls the plug of a cluster.
    fn power_off(&mut self, cluster: &str) -> Result<()>;
    fn partition(&mut self, one: &str, other: &str) -> Result<()>;
    fn heal(&mut self, one: &str, other: &str) -> Result<()>;
    /// Kills the agents of all nodes.
    fn kill_agents(&mut self) -> Result<()>;
    /// Starts them again, and waits until they are ready.
    fn start_agents(&mut self) -> Result<()>;
    /// Starts a client that dials the service's ClusterIP; see [`LoadSpec::to`].
    fn start_client(&mut self, cluster: &str, node: usize, name: &str, service: &str) -> Result<Records>;
    /// Ends all clients; what is under way is waited for.
    fn end_clients(&mut self) -> Result<()>;
    /// How long a change took to the first map write of the last node of every other cluster.
    fn control_time(&mut self, change: &Change) -> Result<Duration>;
    /// Waits until every node has this many active backends of each cluster.
    fn wait_backends(&mut self, service: &str, per_cluster: usize) -> Result<()>;
    /// Fails when something that should run does not.
    fn check(&mut self) -> Result<()>;
}

/// How long the mesh may take to follow.
const PATIENCE: Duration = Duration::from_secs(10);

impl World for Lab {
    fn clusters(&self) -> Vec<String> {
        Lab::clusters(self).iter().map(|cluster| cluster.name().to_owned()).collect()
    }

    fn nodes(&self, cluster: &str) -> usize {
        let found = Lab::clusters(self).iter().find(|found| found.name() == cluster);
        found.map_or(0, |cluster| cluster.nodes().len())
    }

    fn apply(&mut self, cluster: &str, spec: &ServiceSpec) -> Result<Change> {
        self.cluster(cluster)?.apply(spec)
    }

    fn scale(&mut self, cluster: &str, service: &str, replicas: usize) -> Result<Change> {
        self.cluster(cluster)?.scale(service, replicas)
    }

    fn kill_pods(&mut self, cluster: &str, service: &str) -> Result<()> {
        self.cluster(cluster)?.kill_pods(service)
    }

    fn notice_killed_pods(&mut self, cluster: &str, service: &str) -> Result<Change> {
        self.cluster(cluster)?.notice_killed_pods(service)
    }

    fn power_off(&mut self, cluster: &str) -> Result<()> {
        self.cluster(cluster)?.power_off()
    }

    fn partition(&mut self, one: &str, other: &str) -> Result<()> {
        Lab::partition(self, one, other)
    }

    fn heal(&mut self, one: &str, other: &str) -> Result<()> {
        Lab::heal(self, one, other)
    }

    fn kill_agents(&mut self) -> Result<()> {
        let mut agents = self.clusters_mut().iter_mut().flat_map(|cluster| cluster.agents());
        agents.try_for_each(|agent| agent.stop(Stop::Kill))
    }

    fn start_agents(&mut self) -> Result<()> {
        for cluster in self.clusters_mut() {
            cluster.agents().try_for_each(|agent| agent.start())?;
        }
        self.wait_ready()
    }

    fn start_client(&mut self, cluster: &str, node: usize, name: &str, service: &str) -> Result<Records> {
        let target = self.cluster(cluster)?.dial_address(service)?;
        self.client(cluster, node, name, &LoadSpec::to(target))
    }

    fn end_clients(&mut self) -> Result<()> {
        Lab::end_clients(self)
    }

    fn control_time(&mut self, change: &Change) -> Result<Duration> {
        Lab::control_time(self, change, PATIENCE)
    }

    fn wait_backends(&mut self, service: &str, per_cluster: usize) -> Result<()> {
        let names = World::clusters(self);
        for node in Lab::clusters(self).iter().flat_map(|cluster| cluster.nodes()) {
            wait::until(&format!("{} to know all backends of {service}", node.describe()), PATIENCE, || {
                let backends = node.backends(service)?;
                for cluster in &names {
                    let active =
                        backends.iter().filter(|(of, state)| of == cluster && state == "active").count();
                    ensure!(active == per_cluster, "{active} active ones of {cluster}: {backends:?}");
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        Lab::check(self)
    }
}

impl crate::lab::node::Node {
    /// Cluster and state of each backend of a service of the lab's namespace, as the agent tells.
    fn backends(&self, service: &str) -> Result<Vec<(String, String)>> {
        let full_name = format!("{}/{service}", crate::lab::manifest::NAMESPACE);
        let answer = self.admin("backends")?;
        let items = answer["items"].as_array().context("the agent's backends are no list")?;
        let of_service = items.iter().filter(|item| item["service"] == full_name.as_str());
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Ok(of_service.map(|item| (text(&item["cluster"]), text(&item["state"]))).collect())
    }
}
