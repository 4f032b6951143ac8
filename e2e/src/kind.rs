//! The kind clusters of `e2e/kind/up.sh`, as a provider of clusters: a node is a container of Docker's. Runs where docker
//! answers, which `e2e/kind/engine.sh run` sees to.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::kube::kubectl::Context;
use crate::kube::provider::{Provider, Site};

/// As in `e2e/kind/*.yaml`.
const CLUSTERS: [&str; 2] = ["hoth", "yavin"];
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kind");

/// The two clusters. They outlive it: `make kind-clean` removes them.
#[derive(Debug)]
pub struct KindClusters {
    kubeconfig: PathBuf,
    /// Where `docker` and `kubectl` are looked for.
    path: OsString,
}

impl KindClusters {
    /// Makes what is missing of clusters, images, routes and mesh, which takes minutes; it says how far it is.
    pub fn up() -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "not root: agents' sockets on kind's nodes are root's; use sudo"
        );
        let script = Command::new(format!("{SCRIPTS}/up.sh")).stderr(Stdio::inherit()).output();
        let output = script.context("starting e2e/kind/up.sh")?;
        ensure!(
            output.status.success(),
            "e2e/kind/up.sh failed ({}); what it said stands above",
            output.status
        );
        let said = String::from_utf8(output.stdout).context("e2e/kind/up.sh printed no text")?;
        let kubeconfig = said.lines().last().context("e2e/kind/up.sh did not say where the kubeconfig is")?;
        Ok(Self::found(Path::new(kubeconfig), &env::var_os("PATH").unwrap_or_default()))
    }

    /// Clusters that are up, by their kubeconfig; `path` as in the variable `PATH`.
    pub fn found(kubeconfig: &Path, path: &OsStr) -> Self {
        Self { kubeconfig: kubeconfig.into(), path: path.to_owned() }
    }

    fn docker(&self, args: &[&str]) -> Result<String> {
        self.run(Command::new("docker").args(args))
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        command.env("PATH", &self.path).env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("starting {command:?}"))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {}", complaint.trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Provider for KindClusters {
    fn sites(&self) -> Vec<Site> {
        let site = |name: &str| Site {
            name: name.to_owned(),
            context: Context::new(&self.kubeconfig, &format!("kind-{name}")),
        };
        CLUSTERS.map(site).into()
    }

    /// A node is named as its container is, whose first process sees the node's root.
    fn node_root(&self, _: &str, node: &str) -> Result<PathBuf> {
        let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", node])?;
        let is_running = pid.parse::<u32>().is_ok_and(|pid| pid > 0);
        ensure!(is_running, "node {node} is not running: docker says that its process is {pid:?}");
        Ok(PathBuf::from(format!("/proc/{pid}/root")))
    }

    fn power_off(&mut self, _: &str, node: &str) -> Result<()> {
        self.docker(&["kill", "--signal", "KILL", node]).map(drop)
    }

    /// Returns when the node has its routes: its pods may be ready before its CNI makes them.
    fn power_on(&mut self, _: &str, node: &str) -> Result<()> {
        self.docker(&["start", node])?;
        self.run(Command::new(format!("{SCRIPTS}/nodes.sh")).args(CLUSTERS)).map(drop)
    }
}
