//! Actions on all clusters of a lab at once, and the load that most tests run under.

use std::time::Duration;

use anyhow::Result;

use super::client::{LoadSpec, Records};
use super::component::{Component, Stop};
use super::manifest::{NAMESPACE, ServiceSpec};
use super::{Lab, LabSpec};
use crate::wait;

/// How long the mesh may take to follow.
const PATIENCE: Duration = Duration::from_secs(10);

impl Lab {
    /// [`Lab::test`] in two small clusters with a global service of two pods each, while a client in hoth dials it.
    /// Both clusters have answered when `work` begins.
    pub fn test_under_load(
        service: &str,
        odd: &[&str],
        work: impl FnOnce(&mut Self, &Records) -> Result<()>,
    ) -> Result<()> {
        Self::test(&LabSpec::small(), odd, |lab| {
            lab.apply(&ServiceSpec::global(service, 2))?;
            let records = lab.dial("hoth", 0, "x-wing", service)?;
            records.wait_answers(&["hoth", "yavin"])?;
            work(lab, &records)
        })
    }

    /// Declares a global service in every cluster, and waits until all nodes know all of its backends.
    pub fn apply(&mut self, spec: &ServiceSpec) -> Result<()> {
        self.clusters_mut().iter_mut().try_for_each(|cluster| cluster.apply(spec).map(drop))?;
        self.wait_backends(&spec.name, spec.backends())
    }

    /// Gives a service so many pods in every cluster.
    pub fn scale(&mut self, service: &str, replicas: usize) -> Result<()> {
        self.clusters_mut().iter_mut().try_for_each(|cluster| cluster.scale(service, replicas).map(drop))
    }

    /// Waits until every node has this many active backends of each cluster.
    pub fn wait_backends(&self, service: &str, per_cluster: usize) -> Result<()> {
        let wanted: Vec<_> = self.clusters().iter().map(|cluster| (cluster.name(), per_cluster)).collect();
        for node in self.clusters().iter().flat_map(|cluster| cluster.nodes()) {
            wait::until(&format!("{} to know all backends of {service}", node.describe()), PATIENCE, || {
                node.api().ensure_active(&format!("{NAMESPACE}/{service}"), &wanted)
            })?;
        }
        Ok(())
    }

    /// Waits until every node has this many active backends of its own cluster.
    pub fn wait_own_backends(&self, service: &str, count: usize) -> Result<()> {
        let own = |cluster: &super::cluster::Cluster| {
            self.wait_backends_of(cluster.name(), service, &[(cluster.name(), count)])
        };
        self.clusters().iter().try_for_each(own)
    }

    /// Waits until every node of a cluster has so many active backends of each of these.
    pub fn wait_backends_of(&self, cluster: &str, service: &str, wanted: &[(&str, usize)]) -> Result<()> {
        let cluster = self.clusters().iter().find(|it| it.name() == cluster);
        for node in cluster.into_iter().flat_map(|cluster| cluster.nodes()) {
            wait::until(&format!("{} to know {wanted:?} of {service}", node.describe()), PATIENCE, || {
                node.api().ensure_active(&format!("{NAMESPACE}/{service}"), wanted)
            })?;
        }
        Ok(())
    }

    /// Ends the agents of all nodes.
    pub fn stop_agents(&mut self, stop: Stop) -> Result<()> {
        let mut agents = self.clusters_mut().iter_mut().flat_map(|cluster| cluster.agents());
        agents.try_for_each(|agent| agent.stop(stop))
    }

    /// Starts them again, and waits until they are ready.
    pub fn start_agents(&mut self) -> Result<()> {
        for cluster in self.clusters_mut() {
            cluster.agents().try_for_each(Component::start)?;
        }
        self.wait_ready()
    }

    /// Starts a client that dials a service's ClusterIP with the usual load.
    pub fn dial(&mut self, cluster: &str, node: usize, name: &str, service: &str) -> Result<Records> {
        let target = self.cluster(cluster)?.dial_address(service)?;
        self.client(cluster, node, name, &LoadSpec::to(target))
    }
}
