//! The agent's command line, and what it becomes once validated.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mesh_admin::Hook;
use mesh_model::name::NodeName;
use mesh_runtime::Check;
use mesh_runtime::args::{AdminArgs, LogArgs, duration, instance};
use mesh_secrets::{Layout, Mirror, MirrorMetrics, SecretName};
use mesh_source::kubernetes::{Options, QUIET};
use mesh_source::{Identity, IdentityArgs, IdentityError, SourceArgs};

use crate::datapath::actual::Capacity;
use crate::datapath::programs::DEFAULT_REPLIES;
use crate::findings::FindingsArgs;
use crate::quota::QuotaArgs;

const EXAMPLE: &str = "\
Example, without Kubernetes:
  node-agent --cluster-name hoth --cluster-id 2 --node-name hoth-1 \\
      --pod-cidr 10.2.0.0/16 --node-cidr 192.168.2.0/24 --service-cidr 10.102.0.0/16 \\
      --source manifests:/etc/clustermesh/manifests --peers-dir /etc/clustermesh/peers
Within Kubernetes; ranges are those of Nodes and ServiceCIDRs:
  node-agent --cluster-name hoth --cluster-id 2 --node-name hoth-1 --source kubernetes
What it would write, without touching anything: the same with --dry-run.
What it does:
  clustermesh service list
  clustermesh peer list

Exits with 0 after SIGTERM or SIGINT, with 2 when the command line is wrong, with 1 when something else is.";

/// How to use what `completion` prints.
const COMPLETION: &str = "\
For this shell only:   source <(node-agent completion bash)
For every new one:     node-agent completion bash > /etc/bash_completion.d/node-agent";

/// The task that the command line asks for.
pub type Invocation = mesh_runtime::Invocation<RunArgs, Command>;

/// What the mirror of the peers' Secret is called in metrics.
pub(crate) const MIRRORED: &str = "peers";

/// Secrets are where an API server is.
const PEERS_SECRET_WITHOUT_API: &str =
    "--peers-secret needs --source kubernetes: name a folder with --peers-dir instead";

impl Check for RunArgs {
    fn check(&self) -> Result<(), Box<dyn Error>> {
        self.identity()?;
        if self.peers.peers_secret.is_some() && !self.source.is_kubernetes() {
            return Err(PEERS_SECRET_WITHOUT_API.into());
        }
        Ok(())
    }
}

impl Check for Command {
    fn check(&self) -> Result<(), Box<dyn Error>> {
        Ok(())
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Removes the programs and maps of an instance from this node: links first, then maps, then names and socket.
    ///
    /// Connections that stand go on; new ones to ClusterIPs are left to kube-proxy, or to nobody. Stop the agent
    /// before: deleting or stopping an agent is not uninstalling. Says so where there is nothing to remove.
    Uninstall {
        #[command(flatten)]
        pins: PinArgs,
        /// Stay until SIGTERM when everything is removed: the pods of a clean-up DaemonSet must not end.
        #[arg(long)]
        stay: bool,
    },
    /// Shows what this kernel offers, by trying it; attaches nothing.
    ///
    /// What is missing is named with its remedy. Exits with 1 where the agent can't run.
    Features {
        /// How to show it.
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Output,
    },
    /// Prints the completion script of a shell.
    #[command(after_help = COMPLETION)]
    Completion {
        /// The shell that shall complete flags and subcommands.
        shell: Shell,
    },
    /// Dials the canary from a cgroup; for the agent's own use.
    #[command(hide = true)]
    Canary {
        #[arg(long, value_name = "DIR")]
        cgroup: PathBuf,
        #[arg(long, value_name = "DIR")]
        maps: PathBuf,
        /// Through which the frontends are dialled too.
        #[arg(long, value_name = "NAME")]
        hook: Vec<Hook>,
    },
}

/// How a command shows what it has found.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

/// Where the instance's programs, maps and socket are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Instance")]
pub struct PinArgs {
    /// Name of this agent's set of programs and maps on the node.
    #[arg(long, env = "CLUSTERMESH_INSTANCE", value_name = "NAME", default_value = "default", value_parser = instance)]
    pub instance: String,
    /// Where the bpf file system is mounted; pins go below <DIR>/clustermesh/<instance>/.
    #[arg(long, env = "CLUSTERMESH_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Admin socket and names go to <DIR>/<instance>/.
    #[arg(long, env = "CLUSTERMESH_RUN_DIR", value_name = "DIR", default_value = "/run/clustermesh")]
    pub run_dir: PathBuf,
    /// What own source and peer files said last goes to <DIR>/<instance>/; kept over a restart of the machine.
    ///
    /// What can't be read after a restart, such as a broken manifest or peer file, stays as it was before. Without a
    /// folder to write to the agent works all the same, and says so: then only the maps keep it.
    #[arg(long, env = "CLUSTERMESH_STATE_DIR", value_name = "DIR", default_value = "/var/lib/clustermesh")]
    pub state_dir: PathBuf,
}

impl PinArgs {
    /// Where what must outlive the machine's restart is.
    pub(crate) fn instance_state_dir(&self) -> PathBuf {
        self.state_dir.join(&self.instance)
    }

    /// Where socket and names are.
    pub(crate) fn instance_dir(&self) -> PathBuf {
        self.run_dir.join(&self.instance)
    }
}

/// Balances ClusterIPs over the backends of every cluster of the mesh.
///
/// Follows this cluster's own Services and the peer clusters, merges their backends and keeps them in the
/// node's eBPF maps, where programs on the root cgroup rewrite the destination of every connect()
/// and of every datagram. Stopping or
/// killing the agent changes nothing: programs and maps stay pinned and keep balancing. `node-agent uninstall`
/// removes them.
#[derive(Clone, Debug, Parser)]
#[command(name = "node-agent", version, after_help = EXAMPLE, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct RunArgs {
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub peers: PeerArgs,
    #[command(flatten)]
    pub datapath: DatapathArgs,
    #[command(flatten)]
    pub quotas: QuotaArgs,
    #[command(flatten)]
    pub findings: FindingsArgs,
    #[command(flatten)]
    pub pins: PinArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Peers")]
pub struct PeerArgs {
    /// Folder of peer files, one `<peer's cluster name>.yaml` each; read again whenever it changes.
    ///
    /// A peer file holds `id`, `endpoints: [https://HOST:PORT]`, `ranges: {pods: [CIDR], nodes: [CIDR]}` and
    /// `trust:` (PEM). Removing the file drains the peer. A file that breaks counts as it was last read, also after a
    /// restart (--state-dir); a folder that is missing or unreadable drains nobody.
    #[arg(long, env = "CLUSTERMESH_PEERS_DIR", value_name = "DIR", default_value = "/etc/clustermesh/peers")]
    pub peers_dir: PathBuf,
    /// Secret of the own namespace whose keys are the peer files, in place of --peers-dir. Needs --source kubernetes.
    ///
    /// Followed over the API server and mirrored below --state-dir: while the API server is away, or the Secret is missing,
    /// everybody is followed as before. With --dry-run, what a running agent has mirrored counts.
    #[arg(long, env = "CLUSTERMESH_PEERS_SECRET", value_name = "NAME", conflicts_with = "peers_dir")]
    pub peers_secret: Option<SecretName>,
    /// Folder with tls.crt and tls.key: this cluster's identity towards all peers.
    ///
    /// Needed where a peer asks for a client certificate. A rotated certificate is shown at the next connection, and needs
    /// no restart; one that breaks counts as it was last read. Whom to trust stands in each peer's file.
    #[arg(long, env = "CLUSTERMESH_TLS_DIR", value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Datapath")]
pub struct DatapathArgs {
    /// This node's name, as its Node object has it.
    #[arg(long, env = "CLUSTERMESH_NODE_NAME", value_name = "NAME")]
    pub node_name: NodeName,
    /// The cgroup v2 directory whose processes are served; without it the root, found in the mount table.
    ///
    /// Connects of processes elsewhere are not translated. In a container the host's root must be mounted: its own
    /// namespace's looks like it, but holds nobody else.
    #[arg(long, env = "CLUSTERMESH_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Leave services that kube-proxy serves too to it when the agent has been dead for so long. 0s: never.
    ///
    /// So does an agent that runs, but whose own source has confirmed nothing for so long, or whose plans can't be
    /// written. A watch over which nothing comes is asked anew after 5/8 of this time, at most 75 s, and has a fifth
    /// of that for its answer.
    ///
    /// Where Services come from manifests nobody else serves them, and the maps go on balancing for ever.
    #[arg(long, env = "CLUSTERMESH_YIELD_AFTER", value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub yield_after: Duration,
    /// Room for so many frontends (ClusterIP, port, protocol); about 1,000 bytes each once used.
    ///
    /// Another size than that of the pinned maps builds new ones beside them and swaps, without a gap; so do the
    /// four flags below. What finds no room is left out, and shown by `clustermesh service list -o wide`.
    #[arg(long, env = "CLUSTERMESH_MAX_SERVICES", value_name = "N", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub max_services: u32,
    /// Room for so many slots over all frontends; 8 bytes each, taken at once.
    ///
    /// One cluster's backends behind one frontend take a power of two of them: 3 backends take 4 slots, 100 take 128. A
    /// group that grows beyond that needs its next size beside the one in use for a moment.
    #[arg(long, env = "CLUSTERMESH_MAX_SLOTS", value_name = "N", default_value_t = 1_048_576, value_parser = clap::value_parser!(u32).range(64..=268_435_456))]
    pub max_slots: u32,
    /// Room for so many distinct backends; 32 bytes each, taken at once.
    #[arg(long, env = "CLUSTERMESH_MAX_BACKENDS", value_name = "N", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(64..=67_108_864))]
    pub max_backends: u32,
    /// Count connections for so many (service, cluster) pairs; 16 bytes each on every CPU, taken at once.
    #[arg(long, env = "CLUSTERMESH_MAX_COUNTERS", value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub max_counters: u32,
    /// Remember so many pairs of an unconnected UDP socket and a backend; 112 bytes each, taken at once.
    ///
    /// What was used least recently goes first; a reply to it shows the backend's address instead of the
    /// ClusterIP. A change of this number forgets all of them once.
    #[arg(long, env = "CLUSTERMESH_MAX_REPLIES", value_name = "N", default_value_t = DEFAULT_REPLIES, value_parser = clap::value_parser!(u32).range(64..=16_777_216))]
    pub max_replies: u32,
    /// Be ready although something else takes what this node's host network dials.
    ///
    /// For balancers that leave pods alone, as Cilium's does with socketLB.hostNamespaceOnly: the agent can't dial from
    /// a pod's network. Log, metrics and `clustermesh hook list` say it all the same.
    #[arg(long, env = "CLUSTERMESH_ALLOW_TAKEN")]
    pub allow_taken: bool,
    /// Print what would be written to the maps, one line per write, and exit; nothing is touched.
    ///
    /// Source and peers have 10 s each to say everything; peers that don't are named in the log and left as they
    /// are.
    #[arg(long)]
    pub dry_run: bool,
}

impl DatapathArgs {
    pub(crate) fn capacity(&self) -> Capacity {
        Capacity {
            services: self.max_services,
            slots: self.max_slots,
            backends: self.max_backends,
            counters: self.max_counters,
        }
    }
}

impl RunArgs {
    /// The folder of peer files: somebody else's, or the mirror of a Secret.
    pub(crate) fn peers_folder(&self) -> PathBuf {
        let mirrored = |_: &SecretName| self.pins.instance_state_dir().join("peers-secret");
        self.peers.peers_secret.as_ref().map_or_else(|| self.peers.peers_dir.clone(), mirrored)
    }

    /// What brings the Secret into that folder, where there is one.
    pub(crate) fn peers_mirror(&self, metrics: &MirrorMetrics) -> Option<Mirror> {
        let name = self.peers.peers_secret.clone()?;
        let (access, folder) = (self.source.access(), self.peers_folder());
        Some(Mirror::new(access, (MIRRORED, name), folder, Layout::Files, metrics))
    }

    /// Checks the flags against each other.
    ///
    /// # Errors
    /// Ranges that overlap or that no cluster has.
    pub(crate) fn identity(&self) -> Result<Identity, IdentityError> {
        self.identity.identity()
    }
}

/// The demands of the agent on its own source.
pub(crate) fn source_options(args: &RunArgs) -> Options {
    Options {
        node: Some(args.datapath.node_name.clone()),
        service_cidrs: args.identity.service_cidrs.is_empty(),
        latest: false,
        service_ranges: args.identity.service_cidrs.clone(),
        quiet: quiet(args.datapath.yield_after),
    }
}

/// How long a watch may be silent, so that it and the wait for an answer end before services would be left to kube-proxy.
fn quiet(yield_after: Duration) -> Option<Duration> {
    (!yield_after.is_zero()).then(|| (yield_after * 5 / 8).min(QUIET))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Invocation::command().debug_assert();
    }
}
