//! The flag that chooses a source, and the source that it makes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use mesh_model::address_policy::OwnRanges;
use mesh_model::snapshot::ClusterSnapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::kubernetes::{Access, Kubernetes, Options, Report, Uids};
use crate::manifests::Manifests;
use crate::memory::Known;
use crate::metrics::SourceMetrics;
use crate::status::Status;

/// Where a cluster's own Services and endpoints come from.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Source")]
pub struct SourceArgs {
    /// Where this cluster's own Services, EndpointSlices and Nodes come from: `kubernetes` or `manifests:DIR`.
    ///
    /// `kubernetes` follows the API server, as this pod's service account or by --kubeconfig. While it is away what
    /// is known stays.
    ///
    /// `manifests:DIR` reads ordinary Kubernetes YAML or JSON (*.yaml, *.yml, *.json) from a folder and follows
    /// changes; write a file beside it and rename it into place. Services need `spec.clusterIPs`. A missing or
    /// empty folder counts as unknown: nothing is deleted because of it.
    #[arg(long, env = "CLUSTERMESH_SOURCE", value_name = "SOURCE")]
    pub source: SourceSpec,

    /// How to reach the API server with --source kubernetes from outside the cluster; its current context counts.
    ///
    /// Without it this pod's service account is used. Read anew at every connection, so rotated certificates and
    /// tokens need no restart.
    #[arg(long, env = "CLUSTERMESH_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

impl SourceArgs {
    /// Whether Services come from Kubernetes: then something else serves them too, and Nodes and ServiceCIDRs tell
    /// address ranges.
    pub fn is_kubernetes(&self) -> bool {
        self.source == SourceSpec::Kubernetes
    }

    /// The way to the API server.
    pub fn access(&self) -> Access {
        Access { kubeconfig: self.kubeconfig.clone() }
    }
}

impl fmt::Display for SourceArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

/// A source, as written in `--source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    Kubernetes,
    Manifests(PathBuf),
}

/// Why a source was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceSpecError {
    #[error("manifests needs a folder; write manifests:DIR")]
    NoFolder,
    #[error("{0:?} is no source; write kubernetes or manifests:DIR")]
    Unknown(String),
}

impl FromStr for SourceSpec {
    type Err = SourceSpecError;

    fn from_str(text: &str) -> Result<Self, SourceSpecError> {
        match text.split_once(':') {
            Some(("manifests", "")) => Err(SourceSpecError::NoFolder),
            Some(("manifests", folder)) => Ok(Self::Manifests(folder.into())),
            None if text == "manifests" => Err(SourceSpecError::NoFolder),
            None if text == "kubernetes" => Ok(Self::Kubernetes),
            _ => Err(SourceSpecError::Unknown(text.into())),
        }
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubernetes => f.write_str("kubernetes"),
            Self::Manifests(folder) => write!(f, "manifests:{}", folder.display()),
        }
    }
}

/// A source that is ready to run.
#[derive(Debug)]
pub enum Source {
    Kubernetes(Box<Kubernetes>),
    Manifests(Box<Manifests>),
}

impl Source {
    pub fn new(args: &SourceArgs, options: Options, metrics: SourceMetrics) -> Self {
        match &args.source {
            SourceSpec::Kubernetes => {
                Self::Kubernetes(Box::new(Kubernetes::new(args.access(), options, metrics)))
            }
            SourceSpec::Manifests(folder) => {
                let manifests = Manifests::new(folder, metrics).seen_from(options.node);
                Self::Manifests(Box::new(manifests.within(options.service_ranges)))
            }
        }
    }

    /// Begins with what a process before this one knew: what can't be read now stays as it was. `publish`: says so
    /// before the source has said anything, for a node that has nothing else to go by.
    pub fn remembering(self, before: &Known, publish: bool) -> Self {
        match self {
            Self::Kubernetes(kubernetes) => {
                Self::Kubernetes(Box::new(kubernetes.remembering(before, publish)))
            }
            Self::Manifests(manifests) => Self::Manifests(Box::new(manifests.remembering(before, publish))),
        }
    }

    /// What shall outlive this process; `None` until everything has been seen once.
    pub fn known(&self) -> watch::Receiver<Option<Known>> {
        match self {
            Self::Kubernetes(kubernetes) => kubernetes.known(),
            Self::Manifests(manifests) => manifests.known(),
        }
    }

    /// What the cluster consists of; `None` until everything has been seen once.
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<ClusterSnapshot>>> {
        match self {
            Self::Kubernetes(kubernetes) => kubernetes.snapshots(),
            Self::Manifests(manifests) => manifests.snapshots(),
        }
    }

    /// What is wrong with the source's objects, and whether it has said everything.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        match self {
            Self::Kubernetes(kubernetes) => kubernetes.status(),
            Self::Manifests(manifests) => manifests.status(),
        }
    }

    /// When the source last said that what it publishes is current; `None` until it has.
    pub fn confirmed(&self) -> watch::Receiver<Option<Instant>> {
        match self {
            Self::Kubernetes(kubernetes) => kubernetes.confirmed(),
            Self::Manifests(manifests) => manifests.confirmed(),
        }
    }

    /// The cluster's address ranges as the source tells them; none where it never does. `None` until everything has
    /// been seen once, by this process or by the one that it remembers.
    pub fn ranges(&self) -> Option<watch::Receiver<Option<Arc<OwnRanges>>>> {
        match self {
            Self::Kubernetes(kubernetes) => Some(kubernetes.ranges()),
            Self::Manifests(_) => None,
        }
    }

    /// What the owners of Services should hear; none where there is nowhere to tell them.
    pub fn reports(&self) -> Option<watch::Receiver<Arc<Vec<Report>>>> {
        match self {
            Self::Kubernetes(kubernetes) => Some(kubernetes.reports()),
            Self::Manifests(_) => None,
        }
    }

    /// Which objects the global Services are; none where there is nowhere to tell their owners something.
    pub fn uids(&self) -> Option<watch::Receiver<Uids>> {
        match self {
            Self::Kubernetes(kubernetes) => Some(kubernetes.uids()),
            Self::Manifests(_) => None,
        }
    }

    /// Follows the source until `token` is cancelled. Never fails: a source that cannot be read is unknown, says
    /// so in its status, and is tried again.
    pub async fn run(self, token: CancellationToken) {
        match self {
            Self::Kubernetes(kubernetes) => Box::pin(kubernetes.run(token)).await,
            Self::Manifests(manifests) => manifests.run(token).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_kubernetes_or_a_folder_of_manifests() {
        assert_eq!("kubernetes".parse(), Ok(SourceSpec::Kubernetes));
        assert_eq!("manifests:/etc/mesh".parse(), Ok(SourceSpec::Manifests("/etc/mesh".into())));
        assert_eq!("manifests:a:b".parse(), Ok(SourceSpec::Manifests("a:b".into())));
    }

    #[test]
    fn other_sources_are_refused_with_the_remedy() {
        for (bad, error) in [
            ("kubernetes:x", SourceSpecError::Unknown("kubernetes:x".into())),
            ("manifests", SourceSpecError::NoFolder),
            ("manifests:", SourceSpecError::NoFolder),
            ("/etc/mesh", SourceSpecError::Unknown("/etc/mesh".into())),
            ("git:x", SourceSpecError::Unknown("git:x".into())),
        ] {
            assert_eq!(bad.parse::<SourceSpec>(), Err(error.clone()));
            assert!(error.to_string().contains("manifests:DIR"));
        }
    }
}
