//! The lab with the mesh installed, and what the measurements ask of it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Course;
use super::api::Door;
use crate::kube::chart::Chart;
use crate::kube::{KubeCluster, KubeLab, KubeSpec};
use crate::lab::http;
use crate::wait;

/// The cluster that changes, and the one that follows.
pub(crate) const WRITER: &str = "hoth";
pub(crate) const READER: &str = "yavin";
/// Where an agent listens, below its node's root.
const SOCKET: &str = "run/clustermesh/default/agent.sock";

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

/// The socket of the agent of a cluster's last node.
pub(crate) fn socket(cluster: &KubeCluster) -> Result<PathBuf> {
    let node = cluster.nodes().pop().context("a cluster without nodes")?;
    Ok(cluster.node_root(&node)?.join(SOCKET))
}

/// How many changes of EndpointSlices the agent of a cluster's last node has heard of.
pub(crate) fn heard(cluster: &KubeCluster) -> Result<u64> {
    let text = http::fetch(&http::Door::Unix(socket(cluster)?), "/metrics")?;
    let counter = "clustermesh_source_changes_total{resource=\"endpointslices\"} ";
    let line = text.lines().find_map(|line| line.strip_prefix(counter));
    Ok(line.with_context(|| format!("no {counter}"))?.trim().parse()?)
}

/// Waits until the agents of all of a cluster's nodes know so many backends.
pub(crate) fn wait_backends(cluster: &KubeCluster, wanted: usize, patience: Duration) -> Result<()> {
    for node in cluster.nodes() {
        let door = http::Door::Unix(cluster.node_root(&node)?.join(SOCKET));
        wait::until(&format!("the agent of {node} to know all backends"), patience, || {
            let answer: Value = serde_json::from_str(&http::fetch(&door, "/v1/backends")?)?;
            let known = answer["items"].as_array().map_or(0, Vec::len);
            ensure!(known == wanted, "{known} of {wanted}");
            Ok(())
        })?;
    }
    Ok(())
}
