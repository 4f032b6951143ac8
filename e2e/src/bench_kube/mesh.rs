//! The lab with the mesh installed, and what the measurements ask of it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Course;
use super::api::Door;
use crate::agent_api::AgentApi;
use crate::kube::chart::Chart;
use crate::kube::{KubeCluster, KubeLab, KubeSpec};
use crate::wait;

/// The cluster that changes, and the one that follows.
pub(crate) const WRITER: &str = "hoth";
pub(crate) const READER: &str = "yavin";

/// The lab of both, of two nodes each.
pub(crate) fn spec(course: &Course) -> KubeSpec {
    course.flags.spec(&[WRITER.into(), READER.into()])
}

/// Brings a lab up, and installs the chart.
pub(crate) fn bring_up(spec: &KubeSpec) -> Result<KubeLab> {
    let lab = KubeLab::start(spec)?;
    Chart::of_lab(&lab)?.install().context("installing the chart")?;
    eprintln!("kube: the mesh is installed");
    Ok(lab)
}

pub(crate) fn cluster<'l>(lab: &'l KubeLab, name: &str) -> Result<&'l KubeCluster> {
    let found = lab.clusters().iter().find(|cluster| cluster.name() == name);
    found.with_context(|| format!("the lab has no cluster {name}"))
}

pub(crate) fn door(cluster: &KubeCluster) -> Door {
    let (kubeconfig, netns) = cluster.inside();
    Door { kubeconfig, netns }
}

/// The agent of a cluster's last node.
pub(crate) fn last_agent(cluster: &KubeCluster) -> Result<AgentApi> {
    cluster.agents()?.pop().context("a cluster without nodes")
}

/// How many changes of EndpointSlices the agent of a cluster's last node has heard of.
pub(crate) fn heard(cluster: &KubeCluster) -> Result<u64> {
    last_agent(cluster)?.metric("clustermesh_source_changes_total{resource=\"endpointslices\"}")
}

/// Waits until the agents of all of a cluster's nodes know so many backends.
pub(crate) fn wait_backends(cluster: &KubeCluster, wanted: usize, patience: Duration) -> Result<()> {
    cluster.agents()?.iter().try_for_each(|agent| {
        wait::until("the agent to know all backends", patience, || agent.ensure_backends(wanted))
    })
}
