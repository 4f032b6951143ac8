//! The step between fork and a lab's program: cgroup, namespace, "die with the lab", exec.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use super::netns;

/// Where a program runs.
#[derive(Debug, clap::Args)]
pub struct Enter {
    /// Name of the network namespace.
    #[arg(long)]
    netns: String,
    /// Folder of the cgroup.
    #[arg(long)]
    cgroup: PathBuf,
    /// The process without which this one must not live.
    #[arg(long)]
    parent: Option<i32>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Enter {
    /// Becomes the program; returns only what went wrong.
    pub fn exec(self) -> Result<()> {
        if let Some(parent) = self.parent {
            set_pdeathsig(Signal::SIGKILL).context("asking to die with the lab")?;
            // The parent may have died before the kernel knew.
            ensure!(getppid().as_raw() == parent, "the lab's process has ended");
        }
        let procs = self.cgroup.join("cgroup.procs");
        fs::write(&procs, "0").with_context(|| format!("writing {}", procs.display()))?;
        netns::enter_by_path(&netns::path_of(&self.netns))?;
        let [program, args @ ..] = self.command.as_slice() else { return Ok(()) };
        let error = Command::new(program).args(args).exec();
        Err(error).with_context(|| format!("starting {}", program.to_string_lossy()))
    }
}
