//! The verbs that are about clusters, and how these are named.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use mesh_model::name::{ClusterId, ClusterName};
use mesh_runtime::args::duration;

const JOIN_EXAMPLES: &str = "\
See what would be done, then do it:
  clustermesh join --context hoth --context yavin --dry-run
  clustermesh join --context hoth --context yavin
Peer files for git instead; commit each for the cluster that its first line names:
  clustermesh join --context hoth --context yavin --dry-run -o yaml
With a token that the other cluster's operator made by `clustermesh invite`:
  clustermesh join --context hoth --invite TOKEN
Clusters of this host:
  clustermesh join --socket /run/clustermesh/hoth/apiserver.sock --socket /run/clustermesh/yavin/apiserver.sock";

const INVITE_EXAMPLES: &str = "\
  clustermesh invite hoth --id 1 --pods 10.1.0.0/16 --nodes 192.168.1.0/24
  clustermesh invite list
  clustermesh invite revoke ID";

const LEAVE_EXAMPLES: &str = "\
  clustermesh leave yavin --context hoth --context yavin
yavin does not exist any more:
  clustermesh leave yavin --context hoth --force";

const STATUS_EXAMPLES: &str = "\
  clustermesh status --context hoth --context yavin
  clustermesh status --context hoth --wait && kubectl apply -f …";

/// Which clusters, and how they are reached.
#[derive(Args, Debug)]
#[command(next_help_heading = "Clusters")]
pub(crate) struct ClusterArgs {
    /// A context of the kubeconfig, for the cluster behind it (repeatable).
    ///
    /// Its pods are asked through its API server, which takes the right to list pods, and to get and create
    /// pods/exec, in the namespace.
    #[arg(long, value_name = "NAME")]
    pub context: Vec<String>,
    /// The kubeconfig; without it those that kubectl takes.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the release, in every context.
    #[arg(long, value_name = "NAME", default_value = "clustermesh")]
    pub namespace: String,
}

/// `NAME=URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub cluster: ClusterName,
    pub url: String,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let form = "write CLUSTER=https://HOST:PORT, e.g. hoth=https://mesh.hoth.example:2379";
    let (cluster, url) = text.split_once('=').ok_or(form)?;
    if !url.starts_with("https://") {
        return Err(form.into());
    }
    let cluster = ClusterName::new(cluster).map_err(|error| error.to_string())?;
    Ok(Endpoint { cluster, url: url.into() })
}

/// Makes clusters each other's peers.
///
/// Every cluster that is named becomes a peer of every other one. First all of them say who they are. `join` compares
/// versions, names, ids, address ranges (also with those of the peers that they have already), clocks and certificates,
/// lets each dial the others, and shows what it found and what it would do. Then it asks, writes the peer files, and
/// waits until every node knows every peer. It can be interrupted at any point and run again. Private keys stay where
/// they are.
#[derive(Args, Debug)]
#[command(after_help = JOIN_EXAMPLES)]
pub(crate) struct JoinArgs {
    /// A token of `clustermesh invite`, or the file that holds it: joins the cluster that made it.
    #[arg(long, value_name = "TOKEN|FILE")]
    pub invite: Option<String>,
    /// Where peers reach a cluster, instead of what it says itself (repeatable).
    #[arg(long, value_name = "CLUSTER=URL", value_parser = endpoint)]
    pub endpoint: Vec<Endpoint>,
    /// Change nothing; -o yaml prints the peer files.
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Don't let the clusters dial each other before.
    #[arg(long)]
    pub no_probe: bool,
    /// Don't wait until every node knows every peer.
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for that.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2m")]
    pub timeout: Duration,
    #[command(flatten)]
    pub clusters: ClusterArgs,
}

/// Lets somebody else's cluster join, without its operator having any right here.
///
/// Prints a token with which one cluster can join this one, once. It is a secret, and counts for this name, this id and
/// these ranges only. Whoever gets it runs `clustermesh join --invite TOKEN` at the other cluster. Compare the
/// fingerprints that both sides show.
#[derive(Args, Debug)]
#[command(after_help = INVITE_EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct InviteArgs {
    /// The name of the cluster that is invited.
    #[arg(value_name = "NAME", required = true)]
    pub name: Option<ClusterName>,
    /// Its id.
    #[arg(long, value_name = "N", required = true)]
    pub id: Option<ClusterId>,
    /// A range of its pods (repeatable, or with commas).
    #[arg(long, value_name = "CIDR", required = true, value_delimiter = ',')]
    pub pods: Vec<IpNet>,
    /// A range of its nodes (repeatable, or with commas).
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub nodes: Vec<IpNet>,
    /// From now on.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub expires: Duration,
    #[command(subcommand)]
    pub verb: Option<InviteVerb>,
    #[command(flatten)]
    pub by: ClusterArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InviteVerb {
    /// One line per invite, without its secret.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        of: ClusterArgs,
    },
    /// Makes an invite worthless. A cluster that has joined with it stays.
    Revoke {
        /// Of the invite, from `clustermesh invite list`.
        id: String,
        #[command(flatten)]
        of: ClusterArgs,
    },
}

/// Takes a cluster out of the mesh.
///
/// No new connection crosses, then the peer files go, on both sides. The others forget it first, so that none of their
/// clients is sent there; then it forgets them. Established connections stay. It can be interrupted at any point and run
/// again.
#[derive(Args, Debug)]
#[command(after_help = LEAVE_EXAMPLES)]
pub(crate) struct LeaveArgs {
    /// The cluster that leaves.
    #[arg(value_name = "NAME")]
    pub name: ClusterName,
    /// Go on where a cluster can't be asked, and say what stays behind there.
    #[arg(long)]
    pub force: bool,
    /// Change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask.
    #[arg(short, long)]
    pub yes: bool,
    /// How long the nodes of the others may take to forget it.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m")]
    pub timeout: Duration,
    #[command(flatten)]
    pub clusters: ClusterArgs,
}

/// How clusters and their peers are.
///
/// Asks every cluster, and every one of its nodes what it knows of every peer.
/// Exits with 0 where all is well, with 1 where something is wrong, and says what to do.
#[derive(Args, Debug)]
#[command(after_help = STATUS_EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Wait until all is well.
    #[arg(long)]
    pub wait: bool,
    /// How long.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2m")]
    pub timeout: Duration,
    #[command(flatten)]
    pub clusters: ClusterArgs,
}

/// A peer of a cluster.
#[derive(Args, Debug)]
pub(crate) struct PeerTarget {
    /// The peer's cluster name.
    #[arg(value_name = "NAME")]
    pub peer: ClusterName,
    #[command(flatten)]
    pub of: ClusterArgs,
}

/// One request to a process of this host.
#[derive(Args, Debug)]
pub(crate) struct ApiArgs {
    /// Ask the agent, not the apiserver.
    #[arg(long)]
    pub agent: bool,
    /// How many bytes of standard input are the body.
    #[arg(long, value_name = "N")]
    pub body_bytes: Option<usize>,
    pub method: Method,
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum Method {
    Get,
    Put,
    Post,
    Delete,
}

impl Method {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_names_its_cluster() {
        let read = endpoint("hoth=https://a:1").unwrap();
        assert_eq!((read.cluster.as_str(), read.url.as_str()), ("hoth", "https://a:1"));
        for bad in ["https://a:1", "hoth=a:1", "Hoth=https://a:1"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
