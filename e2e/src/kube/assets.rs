//! The programs of Kubernetes: found, or built once by `e2e/kube/build.sh`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::spec::workspace;

/// Folders of programs.
#[derive(Clone, Debug)]
pub(super) struct Assets {
    pub(super) kubernetes: PathBuf,
    pub(super) etcd: PathBuf,
    pub(super) coredns: PathBuf,
}

impl Assets {
    /// Finds or builds them; what takes long says so on standard error.
    pub(super) fn ensure(version: &str) -> Result<Self> {
        Ok(Self {
            kubernetes: folder("kubernetes", version)?,
            etcd: folder("etcd", version)?,
            coredns: folder("coredns", version)?,
        })
    }
}

fn folder(goal: &str, version: &str) -> Result<PathBuf> {
    let script = workspace().join("e2e/kube/build.sh");
    let mut build = Command::new(&script);
    build.arg(goal).env("VERSION", version).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = build.output().with_context(|| format!("starting {}", script.display()))?;
    ensure!(output.status.success(), "{} {goal} failed", script.display());
    let path = String::from_utf8(output.stdout).context("build.sh printed no path")?;
    Ok(PathBuf::from(path.trim()))
}
