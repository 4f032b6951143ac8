//! The description of a lab, and how it is written down for later commands.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How services without the mesh are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    #[default]
    Nftables,
    Iptables,
}

impl ProxyMode {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// The choices of a lab that both programs offer.
#[derive(Clone, Debug, clap::Args)]
pub struct KubeFlags {
    /// Of Kubernetes: 1.33, 1.34, 1.37, or a full one.
    #[arg(long, default_value = "1.34")]
    version: String,
    #[arg(long, value_enum, default_value_t)]
    proxy: ProxyMode,
    /// IPv6 beside IPv4.
    #[arg(long)]
    dual_stack: bool,
}

impl KubeFlags {
    /// The lab of the given clusters, as chosen; of two nodes each.
    pub fn spec(&self, clusters: &[String]) -> KubeSpec {
        let Self { version, proxy, dual_stack } = self.clone();
        let names: Vec<&str> = clusters.iter().map(String::as_str).collect();
        KubeSpec { version, proxy, dual_stack, ..KubeSpec::new(&names) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeSpec {
    /// Their names; the first has the cluster id 1.
    pub clusters: Vec<String>,
    pub nodes_per_cluster: u8,
    /// Of Kubernetes: 1.34, or all three numbers.
    pub version: String,
    pub proxy: ProxyMode,
    pub dual_stack: bool,
    /// Whether the lab may be left to itself at the end.
    pub keep: bool,
}

impl KubeSpec {
    /// Clusters of two nodes.
    pub(crate) fn new(clusters: &[&str]) -> Self {
        Self {
            clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
            nodes_per_cluster: 2,
            version: "1.34".into(),
            proxy: ProxyMode::default(),
            dual_stack: false,
            keep: false,
        }
    }

    /// How many address families everything has.
    pub(super) fn families(&self) -> usize {
        if self.dual_stack { 2 } else { 1 }
    }

    /// Joins the addresses or ranges that the lab's families have, as Kubernetes' flags want them.
    pub(super) fn join<T: ToString>(&self, pair: &[T; 2]) -> String {
        pair.iter().take(self.families()).map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// A lab as it stands in its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) spec: KubeSpec,
    /// The working copy that it was built from: `make kube-down` ends those of its own copy only.
    pub(super) workspace: PathBuf,
}

/// The file's name.
const FILE: &str = "kube.json";

/// The working copy that this program was built from.
pub(super) fn workspace() -> PathBuf {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR"));
    e2e.parent().unwrap_or(e2e).to_owned()
}

pub(super) fn write(folder: &Path, spec: &KubeSpec) -> Result<()> {
    let written = Written { spec: spec.clone(), workspace: workspace() };
    let text = serde_json::to_string_pretty(&written).context("rendering the lab's spec")?;
    fs::write(folder.join(FILE), text).with_context(|| format!("writing {FILE}"))
}

/// `None` where the folder is no Kubernetes lab's.
pub(super) fn read(folder: &Path) -> Option<Written> {
    let text = fs::read_to_string(folder.join(FILE)).ok()?;
    serde_json::from_str(&text).ok()
}
