//! Our cost in a large cluster of which hardly anything is ours: thousands of Services, few of them global, beside
//! kube-proxy, which needs them all.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::mesh::{self, WRITER};
use super::object::{self, ENDPOINTS, GLOBAL};
use super::usage::{self, Kind};
use super::{Course, api::Door};
use crate::bench::row::{Goal, Row};
use crate::kube::chart::NAMESPACE;
use crate::kube::{KubeCluster, KubeSpec};
use crate::wait;

/// In each cluster. The cost of a process doesn't depend on it, and each more brings another kube-proxy that takes most of a
/// CPU under these changes.
const NODES: u8 = 1;
/// Of endpoints that are none of ours.
const CHANGES_PER_SECOND: u32 = 200;
/// For everybody to have digested what is there.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many Services there are, and how long each window is.
#[derive(Clone, Copy, Debug)]
struct Extent {
    services: usize,
    seconds: u32,
}

pub(crate) fn measure(course: &Course) -> Result<Vec<Row>> {
    let quick = course.effort.is_quick();
    let extent = Extent { services: course.effort.times(5000), seconds: if quick { 10 } else { 60 } };
    let mut lab = mesh::bring_up(&KubeSpec { nodes_per_cluster: NODES, ..mesh::spec(course) })?;
    let cluster = mesh::cluster(&lab, WRITER)?;
    create(cluster, extent)?;
    restart_ours(cluster)?;
    mesh::wait_backends(cluster, GLOBAL * ENDPOINTS, PATIENCE)?;
    let kinds = kinds(cluster)?;
    eprintln!("bench:   waiting until all is digested");
    usage::settle(&kinds, PATIENCE)?;
    let rows = watch(cluster, &kinds, extent)?;
    lab.check()?;
    Ok(rows)
}

fn create(cluster: &KubeCluster, extent: Extent) -> Result<()> {
    let id = cluster.address_plan().index();
    eprintln!("bench:   {} Services with {ENDPOINTS} endpoints each", extent.services);
    let services = (0..extent.services).map(|number| object::service(number, number < GLOBAL)).collect();
    let slices = (0..extent.services).map(|number| object::new_slice(id, number)).collect();
    mesh::door(cluster).with(async move |api| {
        api.change(object::namespace()).await?;
        api.change_all("Services", services).await?;
        api.change_all("EndpointSlices", slices).await
    })
}

/// They begin with a full list then, as after an upgrade. Those that were there before are gone afterwards: a process that
/// ends in the middle could not be measured.
fn restart_ours(cluster: &KubeCluster) -> Result<()> {
    let context = cluster.context();
    for workload in ["daemonset/clustermesh-node-agent", "deployment/clustermesh-apiserver"] {
        context.kubectl(&["-n", NAMESPACE, "rollout", "restart", workload])?;
    }
    for workload in ["daemonset/clustermesh-node-agent", "deployment/clustermesh-apiserver"] {
        context.kubectl(&["-n", NAMESPACE, "rollout", "status", workload, "--timeout=180s"])?;
    }
    wait::until("the pods from before to be gone", PATIENCE, || {
        let ends = "jsonpath={.items[*].metadata.deletionTimestamp}";
        let ends = context.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", ends])?;
        ensure!(ends.is_empty(), "still ending, since {ends}");
        Ok(())
    })
}

fn kinds(cluster: &KubeCluster) -> Result<Vec<Kind>> {
    Ok(vec![
        Kind::find(cluster, "agent", "node-agent")?,
        Kind::find(cluster, "apiserver", "clustermesh-apiserver")?,
        Kind::find(cluster, "kube_proxy", "kube-proxy")?,
    ])
}

fn watch(cluster: &KubeCluster, kinds: &[Kind], extent: Extent) -> Result<Vec<Row>> {
    eprintln!("bench:   idle for {} s", extent.seconds);
    let (idle, ()) = usage::shares(kinds, || {
        // The window itself is what is measured, so nothing else ends it.
        thread::sleep(Duration::from_secs(extent.seconds.into()));
        Ok(())
    })?;
    eprintln!("bench:   {CHANGES_PER_SECOND} changes a second for {} s", extent.seconds);
    let (door, id) = (mesh::door(cluster), cluster.address_plan().index());
    let heard = mesh::heard(cluster)?;
    let (busy, reached) = usage::shares(kinds, || make_changes(&door, id, extent))?;
    wait::until("the agent to have heard of all changes", PATIENCE, || {
        let heard = mesh::heard(cluster)? - heard;
        ensure!(heard >= u64::from(CHANGES_PER_SECOND * extent.seconds), "{heard}");
        Ok(())
    })?;
    let rate = Goal::AtLeast(0.95 * f64::from(CHANGES_PER_SECOND));
    let mut rows = vec![
        Row::shown("kube_objects_services", count(extent.services), "objects"),
        Row::shown("kube_objects_endpoints", count(extent.services * ENDPOINTS), "endpoints"),
        // Where it is missed the machine was too busy, and a busy share says nothing.
        Row::new("kube_objects_changes_per_second", reached, "1/s", rate),
    ];
    for ((kind, idle), busy) in kinds.iter().zip(idle).zip(busy) {
        rows.extend(kind_rows(kind, idle, busy)?);
        let per_change = (busy - idle) / 100.0 * 1e6 / reached;
        rows.push(Row::shown(format!("kube_objects_{}_change_cpu_us", kind.label), per_change, "us"));
    }
    rows.push(Row::shown("kube_objects_agent_map_mb", usage::map_mb(cluster)?, "MB"));
    Ok(rows)
}

/// Changes of Services that are not global, one after the other.
fn make_changes(door: &Door, id: u8, extent: Extent) -> Result<f64> {
    let others = extent.services - GLOBAL;
    let all = usize::try_from(CHANGES_PER_SECOND * extent.seconds)?;
    let changes = (0..all).map(move |change| {
        let (number, round) = (GLOBAL + change % others, change / others);
        object::changed_slice(id, number, round + 1)
    });
    door.with(async move |api| api.change_at_rate(CHANGES_PER_SECOND, changes).await)
}

fn kind_rows(kind: &Kind, idle: f64, busy: f64) -> Result<Vec<Row>> {
    let [now, most] = kind.rss_mb()?;
    let goal = |most| if kind.label == "kube_proxy" { Goal::None } else { Goal::AtMost(most) };
    let name = |what: &str| format!("kube_objects_{}_{what}", kind.label);
    Ok(vec![
        Row::new(name("rss_mb"), now, "MB", goal(60.0)),
        Row::shown(name("rss_peak_mb"), most, "MB"),
        Row::new(name("idle_cpu"), idle, "% of a CPU", goal(1.0)),
        Row::new(name("busy_cpu"), busy, "% of a CPU", goal(5.0)),
    ])
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}
