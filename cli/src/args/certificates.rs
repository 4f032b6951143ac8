//! The verbs that are about certificates.

use std::time::Duration;

use clap::{Args, Subcommand};
use mesh_model::name::ClusterName;
use mesh_runtime::args::duration;

use super::ClusterArgs;

const ROTATE_EXAMPLES: &str = "\
Every certificate of a cluster, or those of its agents:
  clustermesh cert rotate --context hoth
  clustermesh cert rotate agent --context hoth
The authority of hoth; yavin is told of the new one:
  clustermesh cert rotate --ca --of hoth --context hoth --context yavin
yavin is somebody else's: run this, do what it says is left, run it again
  clustermesh cert rotate --ca --context hoth";

const REVOKE_EXAMPLES: &str = "\
  clustermesh cert show -o wide --context hoth
  clustermesh cert revoke 51:0E:… --context hoth --context yavin
The operator of yavin is not trusted any more:
  clustermesh cert revoke --peer yavin --context hoth";

#[derive(Debug, Subcommand)]
pub(crate) enum CertVerb {
    /// One line per certificate: how long it counts, and when it is renewed.
    ///
    /// `ca` is the cluster's authority, which peers trust. While another one takes its place there is also `ca-next`, which
    /// has issued nothing yet, or `ca-previous`, which still counts. `revoked` ones count no more.
    Show {
        #[command(flatten)]
        of: ClusterArgs,
    },
    Rotate(RotateArgs),
    Revoke(RevokeArgs),
}

/// Makes certificates anew before they are due, or replaces the authority that issues them.
///
/// Without a HOLDER all of them: apiserver, agent, and etcd where it is kept. No connection ends.
/// With --ca another authority takes the place of the cluster's own, in phases: it is announced, and every peer's file gets both;
/// once everybody is seen to trust it, it issues, and all certificates are made anew; once these are in use, the old one goes, and
/// the peers' files get the new one alone. Each phase waits for what it needs. What somebody else has to do is printed; run the
/// command again to go on, also after an interruption at any point. Exits with 0 when nothing is left to do.
#[derive(Args, Debug)]
#[command(after_help = ROTATE_EXAMPLES)]
pub(crate) struct RotateArgs {
    /// Whose certificate: apiserver, agent or etcd.
    #[arg(value_name = "HOLDER", conflicts_with = "ca")]
    pub holder: Vec<String>,
    /// Replace the authority of every cluster that is named.
    #[arg(long)]
    pub ca: bool,
    /// Only that of this cluster; the others are told (repeatable).
    #[arg(long, value_name = "CLUSTER", requires = "ca")]
    pub of: Vec<ClusterName>,
    /// Go on without this peer, though it does not trust the new authority or can't be asked (repeatable).
    #[arg(long, value_name = "PEER", requires = "ca")]
    pub without: Vec<ClusterName>,
    /// Change nothing; say what would be done first, and what stands against it.
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask.
    #[arg(short, long)]
    pub yes: bool,
    /// How long to wait for what passes by itself.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m")]
    pub timeout: Duration,
    #[command(flatten)]
    pub clusters: ClusterArgs,
}

/// Has certificates count no more, at once.
///
/// They stand on a list that the cluster's authority signs; whoever of the clusters that are named has it as a peer is given the list.
/// A certificate that is in use is made anew. Until a peer has the list, what is revoked counts there: what is left to do is printed.
/// The own etcd reads no list; after a theft of the apiserver's certificate rotate the authority, too.
#[derive(Args, Debug)]
#[command(after_help = REVOKE_EXAMPLES)]
pub(crate) struct RevokeArgs {
    /// A serial number, or the SHA-256 fingerprint of a certificate that is in use: see `cert show -o wide`.
    #[arg(value_name = "SERIAL|FINGERPRINT", required_unless_present = "peer")]
    pub certificate: Vec<String>,
    /// A peer, with all that its authority has issued: removes its peer file, as `peer remove` does.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["certificate", "of"])]
    pub peer: Option<ClusterName>,
    /// The cluster whose authority has issued them, where several are named.
    #[arg(long, value_name = "CLUSTER")]
    pub of: Option<ClusterName>,
    /// Change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask.
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub clusters: ClusterArgs,
}
