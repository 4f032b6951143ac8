//! The Kubernetes lab's program: brings labs up and down, does things to kept ones, and is the step before a node.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use mesh_e2e::kube::gate::Gate;
use mesh_e2e::kube::join::Join;
use mesh_e2e::kube::{self, KubeFlags, KubeLab, KubeSpec};
use mesh_e2e::lab::lab_dir;
use mesh_e2e::prerequisite;

#[derive(Parser)]
#[command(name = "kube", about = "Real Kubernetes clusters on this machine, without a container engine")]
struct Cli {
    /// Which kept lab; not needed where there is one.
    #[arg(long, env = "CLUSTERMESH_KUBE_LAB", global = true)]
    lab: Option<String>,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring clusters up, and leave them up.
    Up(Up),
    /// End the lab, or every kept one of this working copy, and leave nothing.
    Down,
    /// Pull the plug of a node (hoth-n2) or of a cluster (hoth).
    PowerOff { what: String },
    /// Switch it on again.
    PowerOn { what: String },
    /// Cut the way between two clusters.
    Partition { one: String, other: String },
    /// Restore it.
    Heal { one: String, other: String },
    /// Run a command on a node: in its namespaces and its cgroup.
    In {
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// The step before a node's first process.
    #[command(hide = true)]
    Join(Join),
    /// The host's way to an API server.
    #[command(hide = true)]
    Gate(Gate),
}

#[derive(clap::Args)]
struct Up {
    #[arg(long, value_delimiter = ',', default_value = "hoth,yavin")]
    clusters: Vec<String>,
    /// Of each cluster.
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    #[command(flatten)]
    flags: KubeFlags,
    /// Print nothing but the lab's id.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kube: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Cli { lab, command } = Cli::parse();
    let adopt = || adopt(lab.as_deref());
    match command {
        Verb::Up(up) => up.run(),
        Verb::Down => {
            lab_dir::say_cleaned(&kube::clean(lab.as_deref())?);
            Ok(())
        }
        Verb::PowerOff { what } => power(adopt()?, &what, false),
        Verb::PowerOn { what } => power(adopt()?, &what, true),
        Verb::Partition { one, other } => adopt()?.partition(&one, &other),
        Verb::Heal { one, other } => adopt()?.heal(&one, &other),
        Verb::In { node, command } => run_on(adopt()?, &node, &command),
        Verb::Join(join) => join.exec(),
        Verb::Gate(gate) => gate.run(),
    }
}

impl Up {
    fn run(self) -> Result<()> {
        prerequisite::check_kube()?;
        let spec = self.flags.spec(&self.clusters);
        let spec = KubeSpec { nodes_per_cluster: self.nodes, keep: true, ..spec };
        let lab = KubeLab::start(&spec)?;
        let kubeconfig = lab.kubeconfig();
        let id = lab.abandon();
        if self.quiet {
            println!("{id}");
        } else {
            let clusters = spec.clusters.join(", ");
            println!("lab {id} is up: contexts {clusters}\n  export KUBECONFIG={}", kubeconfig.display());
            println!("  kubectl --context {} get pods -A\n  make kube-down", spec.clusters[0]);
        }
        Ok(())
    }
}

fn adopt(id: Option<&str>) -> Result<KubeLab> {
    if let Some(id) = id {
        return KubeLab::adopt(id);
    }
    match kube::kept()?.as_slice() {
        [id] => KubeLab::adopt(id),
        [] => bail!("no lab is up: make kube-up"),
        many => bail!("more than one lab is up; which one? --lab {}", many.join(", --lab ")),
    }
}

/// The name of the cluster that has a node of this name.
fn cluster_of(lab: &KubeLab, node: &str) -> Result<String> {
    let found = lab.clusters().iter().find(|cluster| cluster.nodes().iter().any(|name| name == node));
    Ok(found.with_context(|| format!("the lab has neither cluster nor node {node}"))?.name().to_owned())
}

fn power(mut lab: KubeLab, what: &str, on: bool) -> Result<()> {
    if lab.clusters().iter().any(|cluster| cluster.name() == what) {
        let cluster = lab.cluster(what)?;
        return if on { cluster.power_on(kube::PATIENCE) } else { cluster.power_off() };
    }
    let name = cluster_of(&lab, what)?;
    let cluster = lab.cluster(&name)?;
    if on { cluster.power_on_node(what) } else { cluster.power_off_node(what) }
}

fn run_on(mut lab: KubeLab, node: &str, command: &[String]) -> Result<()> {
    let cluster = cluster_of(&lab, node)?;
    let args: Vec<_> = command.iter().map(String::as_str).collect();
    let mut inside = lab.cluster(&cluster)?.on_node(node, &args)?;
    drop(lab);
    Err(inside.exec()).context("starting a command on a node")
}
