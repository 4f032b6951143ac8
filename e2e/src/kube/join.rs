//! The step between the lab and a node's first process: the node's cgroups, and its namespaces.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

#[derive(Debug, clap::Args)]
pub struct Join {
    /// The node's folder in cgroup v2: it becomes the root of what the node sees.
    #[arg(long)]
    unified: PathBuf,
    /// The node's folders in hierarchies of cgroup v1.
    #[arg(long)]
    legacy: Vec<PathBuf>,
    /// The node's first process.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Join {
    /// Becomes the node; returns only what went wrong.
    pub fn exec(self) -> Result<()> {
        for folder in self.legacy.iter().chain([&self.unified]) {
            enter(folder)?;
        }
        unshare(CloneFlags::CLONE_NEWCGROUP).context("making a cgroup namespace")?;
        // Where version 2 has controllers, a folder with folders below it must hold no process itself.
        enter(&self.unified.join("init"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=SIGKILL"]);
        command.args(["--uts", "--ipc", "--"]).args(&self.command);
        Err(command.exec()).context("starting unshare")
    }
}

fn enter(folder: &Path) -> Result<()> {
    let procs = folder.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("writing {}", procs.display()))
}
