//! How a lab makes a failure happen, and how it mends it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Failure, Fault, Round, Victim};
use crate::lab::Lab;
use crate::lab::cluster::Cluster;
use crate::lab::component::{Component, Stop};
use crate::wait;

/// How long a frozen process stays frozen, at least.
const FROZEN: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that a fault means, found while it still was what the fault says.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// Of the first node.
    Agent,
    Apiserver(usize),
    Etcd,
}

/// A fault that stands.
#[derive(Clone, Copy, Debug)]
pub struct Injected {
    fault: Fault,
    target: Target,
    since: Instant,
}

/// Makes all faults of a round happen.
pub fn inject(lab: &mut Lab, round: &Round) -> Result<Vec<Injected>> {
    // All before the first injection: afterwards another one may lead.
    let targets = round.0.iter().map(|fault| find(lab.cluster(fault.cluster)?, fault.victim));
    let targets = targets.collect::<Result<Vec<_>>>()?;
    let mut injected = Vec::new();
    for (fault, target) in round.0.iter().copied().zip(targets) {
        let cluster = lab.cluster(fault.cluster)?;
        inject_one(cluster, target, fault.failure).with_context(|| format!("injecting {fault}"))?;
        injected.push(Injected { fault, target, since: Instant::now() });
    }
    Ok(injected)
}

/// Lets everything run again that can.
pub fn mend(lab: &mut Lab, injected: Vec<Injected>) -> Result<()> {
    for Injected { fault, target, since } in injected {
        let cluster = lab.cluster(fault.cluster)?;
        mend_one(cluster, target, fault.failure, since).with_context(|| format!("mending {fault}"))?;
    }
    Ok(())
}

fn find(cluster: &Cluster, victim: Victim) -> Result<Target> {
    let leader = || wait::until("a leader", PATIENCE, || cluster.leader());
    Ok(match victim {
        Victim::Agent => Target::Agent,
        Victim::Etcd => Target::Etcd,
        Victim::Leader => Target::Apiserver(leader()?),
        Victim::Standby => Target::Apiserver(1 - leader()?),
    })
}

fn component(cluster: &mut Cluster, target: Target) -> Result<&mut Component> {
    match target {
        Target::Agent => cluster.agents().next().context("the cluster has no node"),
        Target::Apiserver(index) => cluster.apiservers().get_mut(index).context("there is no standby"),
        Target::Etcd => Ok(cluster.etcd()),
    }
}

fn inject_one(cluster: &mut Cluster, target: Target, failure: Failure) -> Result<()> {
    let victim = component(cluster, target)?;
    match failure {
        Failure::Kill => victim.stop(Stop::Kill),
        Failure::Freeze => victim.freeze(),
        Failure::Restart => {
            victim.stop(Stop::Terminate)?;
            victim.start()
        }
        Failure::FullDisk => fill(victim),
        Failure::WipedData => wipe(cluster, target),
    }
}

/// Ours have no need of a disk, not even to start; etcd ends with its next write.
fn fill(victim: &mut Component) -> Result<()> {
    victim.disk()?.fill()?;
    if !victim.launch().program.is_ours() {
        return Ok(());
    }
    victim.stop(Stop::Kill)?;
    victim.start()
}

fn wipe(cluster: &mut Cluster, target: Target) -> Result<()> {
    let victim = component(cluster, target)?;
    victim.stop(Stop::Kill)?;
    match target {
        Target::Agent | Target::Etcd => {
            victim.disk()?.wipe()?;
            victim.start()
        }
        Target::Apiserver(index) => start_without_manifests(cluster, index),
    }
}

/// The folder is missing until the process has seen that it is.
fn start_without_manifests(cluster: &mut Cluster, index: usize) -> Result<()> {
    let folder = cluster.manifests().to_owned();
    let aside: PathBuf = folder.with_file_name("manifests-aside");
    fs::rename(&folder, &aside).with_context(|| format!("moving {} away", folder.display()))?;
    cluster.apiservers()[index].start()?;
    let seen = wait::until("the apiserver to miss its manifests", PATIENCE, || {
        let metrics = cluster.apiserver_metrics(index)?;
        let failures =
            metrics.lines().find_map(|line| line.strip_prefix("clustermesh_source_failures_total "));
        ensure!(failures.is_some_and(|count| count != "0"), "failures: {failures:?}");
        Ok(())
    });
    // As a whole, as a mount comes back: file by file would be a folder that says less.
    fs::rename(&aside, &folder).with_context(|| format!("bringing {} back", folder.display()))?;
    seen
}

fn mend_one(cluster: &mut Cluster, target: Target, failure: Failure, since: Instant) -> Result<()> {
    let victim = component(cluster, target)?;
    match failure {
        Failure::Kill => victim.start(),
        Failure::Freeze => {
            wait::until("the freeze's end", FROZEN * 2, || {
                ensure!(since.elapsed() >= FROZEN, "{:?}", since.elapsed());
                Ok(())
            })?;
            victim.resume()
        }
        Failure::FullDisk => {
            victim.disk()?.free()?;
            if !victim.has_ended()? {
                return Ok(());
            }
            ensure!(!victim.launch().program.is_ours(), "{} has ended", victim.name());
            victim.start()
        }
        Failure::Restart | Failure::WipedData => Ok(()),
    }
}
