//! The content of a node's maps, and whether a fresh agent would write the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Lab;
use super::component::{Component, Stop};
use super::node::Node;
use super::process::{Launch, program};
use crate::wait;

/// How long a fresh agent may take to come to its conclusions.
const PATIENCE: Duration = Duration::from_secs(60);

impl Node {
    /// The maps of the node's agent as `clustermesh bpf dump` shows them.
    pub fn dump(&self) -> Result<String> {
        dump(self, &self.instance())
    }

    /// Everything pinned for the node's agent, as paths below its own folder, sorted.
    pub fn pins(&self) -> Result<Vec<PathBuf>> {
        let folder = self.lab_dir().bpffs().join("clustermesh").join(self.instance());
        let mut pins = Vec::new();
        collect(&folder, &mut pins)?;
        pins.sort();
        Ok(pins)
    }
}

fn collect(folder: &Path, pins: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), pins)?;
        } else {
            pins.push(entry.path());
        }
    }
    Ok(())
}

fn dump(node: &Node, instance: &str) -> Result<String> {
    let mut command = Command::new(program("clustermesh")?);
    command.args(["bpf", "dump", "--instance", instance]);
    command.arg("--bpffs").arg(node.lab_dir().bpffs()).arg("--run-dir").arg(node.lab_dir().run_dir());
    let output = command.stdin(Stdio::null()).output().context("starting clustermesh")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "clustermesh bpf dump of {instance}: {}", complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Lab {
    /// Waits until the maps of every node equal those that an agent which starts from nothing computes.
    pub fn settle_as_fresh(&self) -> Result<()> {
        let nodes = self.clusters.iter().flat_map(|cluster| cluster.nodes());
        nodes.into_iter().try_for_each(settle_as_fresh)
    }
}

fn settle_as_fresh(node: &Node) -> Result<()> {
    let mut fresh = Component::new(fresh(node)?, node.lab_dir());
    fresh.start()?;
    let instance = format!("{}-fresh", node.instance());
    let same = wait::until(&format!("the maps of {} to equal fresh ones", node.describe()), PATIENCE, || {
        fresh.check()?;
        let (present, wanted) = (dump(node, &node.instance())?, dump(node, &instance)?);
        ensure!(!wanted.trim().is_empty(), "the fresh agent has written nothing yet");
        compare(&present, &wanted)
    });
    fresh.stop(Stop::Kill)?;
    let lab_dir = node.lab_dir();
    let folders = [lab_dir.bpffs().join("clustermesh"), lab_dir.run_dir(), lab_dir.state_dir()];
    let folders = folders.map(|folder| folder.join(&instance));
    for folder in folders.iter().filter(|folder| folder.exists()) {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    same
}

/// An agent like the node's own, for an empty corner of the node: it has its own maps, and no pod feels them.
fn fresh(node: &Node) -> Result<Launch> {
    let own = node.launch();
    let corner = node.cgroup().child("fresh");
    node.lab_dir().make_cgroup(&corner)?;
    let instance = format!("{}-fresh", node.instance());
    let ours = ["--instance=", "--cgroup-root=", "--admin-address="];
    let mut args: Vec<_> =
        own.args.iter().filter(|arg| !ours.iter().any(|flag| arg.starts_with(flag))).cloned().collect();
    args.push(format!("--instance={instance}"));
    args.push(format!("--cgroup-root={}", corner.path().display()));
    args.push("--admin-address=127.0.0.1:0".into());
    Ok(Launch { name: format!("{}.fresh", own.name), args, cgroup: corner.child("agent"), ..own.clone() })
}

/// Fails with the lines that differ.
fn compare(present: &str, wanted: &str) -> Result<()> {
    let only = |these: &str, those: &str, sign: char| -> Vec<String> {
        let those: Vec<_> = those.lines().collect();
        these.lines().filter(|line| !those.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    let different = [only(present, wanted, '+'), only(wanted, present, '-')].concat();
    if different.is_empty() {
        return Ok(());
    }
    bail!("(+ there, - wanted)\n{}", different.join("\n"))
}
