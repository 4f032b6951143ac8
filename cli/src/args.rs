//! The command line: noun, then verb.

mod certificates;
mod clusters;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mesh_model::name::ServiceName;

pub(crate) use certificates::{CertVerb, RevokeArgs, RotateArgs};
pub(crate) use clusters::{
    ApiArgs, ClusterArgs, Endpoint, InviteArgs, InviteVerb, JoinArgs, LeaveArgs, PeerTarget, StatusArgs,
};

const EXAMPLES: &str = "\
Make two clusters one mesh, see it, and part them again:
  clustermesh join --context hoth --context yavin
  clustermesh status --context hoth --context yavin
  clustermesh leave yavin --context hoth --context yavin
The other cluster is somebody else's:
  there: clustermesh invite hoth --id 1 --pods 10.1.0.0/16 --nodes 192.168.1.0/24
  here:  clustermesh join --invite TOKEN
Where may connects to a service go, and how many went there?
  clustermesh service list
  clustermesh service show default/rebel-base
Is a peer there, and if not, why?
  clustermesh peer list
Does another balancer on this node come first?
  clustermesh hook list
What did a change of the maps change?
  clustermesh bpf dump > before; clustermesh bpf dump | diff before -";

/// How to use what `completion` prints.
const COMPLETION: &str = "\
For this shell only:   source <(clustermesh completion bash)
For every new one:     clustermesh completion bash > /etc/bash_completion.d/clustermesh";

/// Makes clusters one mesh, and shows what the mesh does.
///
/// `join`, `invite`, `leave`, `status`, `cert` and `peer export|import|remove` ask the clustermesh-apiserver of a cluster: behind
/// --context in its pods, through the API server that kubectl uses; behind --socket, or without either, on this host.
/// Everything else asks the node agent of this host over its admin socket; `bpf dump` reads the pinned maps and needs no
/// agent. Exits with 1 when something is wrong or could not be shown, with 2 when the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "clustermesh", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub agent: AgentArgs,
    #[command(subcommand)]
    pub noun: Noun,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    Join(JoinArgs),
    Invite(InviteArgs),
    Leave(LeaveArgs),
    Status(StatusArgs),
    /// Global services as this node balances them.
    Service {
        #[command(subcommand)]
        verb: ServiceVerb,
    },
    /// Backends behind the global services.
    Backend {
        #[command(subcommand)]
        verb: BackendVerb,
    },
    /// The peer clusters, and what became of them.
    Peer {
        #[command(subcommand)]
        verb: PeerVerb,
    },
    /// The certificates that a cluster's own processes show.
    Cert {
        #[command(subcommand)]
        verb: CertVerb,
    },
    /// Programs, ours and others', at the hooks where this node's sockets connect and send.
    Hook {
        #[command(subcommand)]
        verb: HookVerb,
    },
    /// The pinned eBPF maps, with or without an agent.
    Bpf {
        #[command(subcommand)]
        verb: BpfVerb,
    },
    /// Prints the completion script of a shell.
    #[command(after_help = COMPLETION)]
    Completion {
        /// The shell that shall complete flags and subcommands.
        shell: Shell,
    },
    /// Passes one request to a process of this host: what `--context` runs in pods.
    #[command(hide = true)]
    Api(ApiArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceVerb {
    /// One line per frontend and cluster: tier, weight, backends and connections.
    ///
    /// The lowest TIER with a usable backend takes all connections, shared by WEIGHT. A cluster shown as #ID has no
    /// peer file any more. -o wide adds why a frontend is not as desired, and which clusters it has no room for.
    #[command(visible_alias = "ls")]
    List {
        /// Only services of this namespace.
        #[arg(short, long, value_name = "NAME")]
        namespace: Option<String>,
    },
    /// One service with its backends, and what is left out of it.
    ///
    /// LEFT OUT lists each cluster, port and endpoint that takes no part, the reason and who can act: `owner` writes the
    /// Service here or there, `operator` runs this mesh, `peer` the other one, `nobody` has to. docs/services.md explains
    /// the reasons.
    Show {
        /// The service, as NAMESPACE/NAME.
        #[arg(value_name = "NAMESPACE/NAME", value_parser = service)]
        service: ServiceName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackendVerb {
    /// One line per frontend and backend.
    ///
    /// `terminating` backends are used only when nothing better is left, `quarantined` ones only when nothing else is.
    #[command(visible_alias = "ls")]
    List {
        /// Only backends of this service, as NAMESPACE/NAME.
        #[arg(short, long, value_name = "NAMESPACE/NAME", value_parser = service)]
        service: Option<ServiceName>,
        /// Only backends of this cluster.
        #[arg(short, long, value_name = "NAME")]
        cluster: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeerVerb {
    /// One line per peer file.
    ///
    /// `synced` means known and followed; `disconnected` that what was known stays in use; `refused` that the peer
    /// file, or what the peer says of itself, is wrong. REASON says what to do.
    #[command(visible_alias = "ls")]
    List,
    /// One peer with the records that were refused.
    Show {
        /// The peer's cluster name: the stem of its file.
        #[arg(value_name = "NAME")]
        peer: String,
    },
    /// Prints the peer file of the own cluster: what its peers need to know of it.
    ///
    /// Store it as NAME.yaml, under the cluster's name. It holds no secret.
    Export {
        #[command(flatten)]
        of: clusters::ClusterArgs,
        /// Where peers reach the cluster, as https://HOST:PORT; instead of what it says itself (repeatable).
        #[arg(long, value_name = "URL")]
        endpoint: Vec<String>,
    },
    /// Makes another cluster a peer: writes its peer file.
    ///
    /// The file is checked first: name, id and address ranges against this cluster and all of its peers.
    Import {
        /// A peer file, or - for standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The peer's cluster name; without it the file's stem.
        #[arg(long, value_name = "NAME")]
        name: Option<mesh_model::name::ClusterName>,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        to: clusters::ClusterArgs,
    },
    /// Removes a peer's file: no new connection goes there, and its processes are let in no more.
    ///
    /// This is one side only; the other one still sends connections here until it does the same. `leave` does both.
    Remove(PeerTarget),
}

#[derive(Debug, Subcommand)]
pub(crate) enum HookVerb {
    /// One line per hook and program, in the order in which they run.
    ///
    /// A program that runs `before` ours can take destinations away from it; TAKEN says how many of the frontends that
    /// the agent dialled did not arrive at ours. NAME is told only where the agent has CAP_SYS_ADMIN; `bpftool prog show
    /// id ID` on the node has it. CGROUP is the highest one for which it runs. -o wide adds the hash of its instructions,
    /// and frontends that are taken.
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BpfVerb {
    /// One sorted line per map entry, with names instead of numbers; two dumps can be compared with diff.
    ///
    /// Needs root. Names come from <run-dir>/<instance>/names, which the agent writes; without it numbers stand.
    Dump,
}

/// Which agent, and where its maps are.
#[derive(Args, Debug)]
#[command(next_help_heading = "Agent")]
pub(crate) struct AgentArgs {
    /// Name of the agent's instance on this node.
    #[arg(long, global = true, env = "CLUSTERMESH_INSTANCE", value_name = "NAME", default_value = "default")]
    pub instance: String,
    /// Where instances keep their sockets and names.
    #[arg(
        long,
        global = true,
        env = "CLUSTERMESH_RUN_DIR",
        value_name = "DIR",
        default_value = "/run/clustermesh"
    )]
    pub run_dir: PathBuf,
    /// An admin socket of this host; without it agent.sock or apiserver.sock in <run-dir>/<instance>.
    ///
    /// An agent's for what is shown of a node, an apiserver's for what is about clusters; `join`, `leave` and `status`
    /// take several (repeatable), also of agents, beside the apiservers'.
    #[arg(long, global = true, env = "CLUSTERMESH_SOCKET", value_name = "PATH")]
    pub socket: Vec<PathBuf>,
    /// Where the bpf file system is mounted.
    #[arg(long, global = true, env = "CLUSTERMESH_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}

impl AgentArgs {
    pub(crate) fn instance_dir(&self) -> PathBuf {
        self.run_dir.join(&self.instance)
    }

    /// The socket of the one agent that is asked.
    pub(crate) fn socket(&self) -> anyhow::Result<PathBuf> {
        anyhow::ensure!(self.socket.len() <= 1, "this asks one agent; name one --socket");
        let named = self.socket.first().cloned();
        Ok(named.unwrap_or_else(|| mesh_admin::instance::socket(&self.instance_dir())))
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people.
    Table,
    /// More columns.
    Wide,
    /// One JSON document: {"items":[…]}.
    Json,
    /// The same as YAML.
    Yaml,
}

fn service(text: &str) -> Result<ServiceName, String> {
    text.parse().map_err(|error| match text.contains('/') {
        true => format!("{error}"),
        false => format!("write NAMESPACE/NAME, e.g. default/{text}"),
    })
}

pub(crate) fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "clustermesh", &mut script);
    String::from_utf8(script).expect("scripts are text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
