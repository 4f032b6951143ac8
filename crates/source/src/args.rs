//! The flag that chooses a source, and the source that it makes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use mesh_model::snapshot::ClusterSnapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::manifests::Manifests;
use crate::metrics::SourceMetrics;
use crate::status::Status;

/// Where a cluster's own Services and endpoints come from.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Source")]
pub struct SourceArgs {
    /// Where this cluster's own Services, EndpointSlices and Nodes come from: `manifests:DIR`.
    ///
    /// `manifests:DIR` reads ordinary Kubernetes YAML or JSON (*.yaml, *.yml, *.json) from a folder and follows
    /// changes; write a file beside it and rename it into place. Services need `spec.clusterIPs`. A missing or
    /// empty folder counts as unknown: nothing is deleted because of it.
    #[arg(long, env = "CLUSTERMESH_SOURCE", value_name = "SOURCE")]
    pub source: SourceSpec,
}

impl fmt::Display for SourceArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

/// A source, as written in `--source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    Manifests(PathBuf),
}

/// Why a source was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceSpecError {
    #[error("the Kubernetes API is not available as a source yet; write manifests:DIR")]
    Kubernetes,
    #[error("manifests needs a folder; write manifests:DIR")]
    NoFolder,
    #[error("{0:?} is no source; write manifests:DIR")]
    Unknown(String),
}

impl FromStr for SourceSpec {
    type Err = SourceSpecError;

    fn from_str(text: &str) -> Result<Self, SourceSpecError> {
        match text.split_once(':') {
            Some(("manifests", "")) => Err(SourceSpecError::NoFolder),
            Some(("manifests", folder)) => Ok(Self::Manifests(folder.into())),
            None if text == "manifests" => Err(SourceSpecError::NoFolder),
            None if text == "kubernetes" => Err(SourceSpecError::Kubernetes),
            _ => Err(SourceSpecError::Unknown(text.into())),
        }
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests(folder) => write!(f, "manifests:{}", folder.display()),
        }
    }
}

/// A source that is ready to run.
#[derive(Debug)]
pub enum Source {
    Manifests(Manifests),
}

impl Source {
    pub fn new(args: &SourceArgs, metrics: SourceMetrics) -> Self {
        match &args.source {
            SourceSpec::Manifests(folder) => Self::Manifests(Manifests::new(folder, metrics)),
        }
    }

    /// What the cluster consists of; `None` until everything has been seen once.
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<ClusterSnapshot>>> {
        match self {
            Self::Manifests(manifests) => manifests.snapshots(),
        }
    }

    /// What is wrong with the source's objects, and whether it has said everything.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        match self {
            Self::Manifests(manifests) => manifests.status(),
        }
    }

    /// When the source last said that what it publishes is current; `None` until it has.
    pub fn confirmed(&self) -> watch::Receiver<Option<Instant>> {
        match self {
            Self::Manifests(manifests) => manifests.confirmed(),
        }
    }

    /// Follows the source until `token` is cancelled. Never fails: a source that cannot be read is unknown, says
    /// so in its status, and is tried again.
    pub async fn run(self, token: CancellationToken) {
        match self {
            Self::Manifests(manifests) => manifests.run(token).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_folder_of_manifests() {
        assert_eq!("manifests:/etc/mesh".parse(), Ok(SourceSpec::Manifests("/etc/mesh".into())));
        assert_eq!("manifests:a:b".parse(), Ok(SourceSpec::Manifests("a:b".into())));
    }

    #[test]
    fn other_sources_are_refused_with_the_remedy() {
        for (bad, error) in [
            ("kubernetes", SourceSpecError::Kubernetes),
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
