//! A part of a cluster that can be stopped and started again: etcd, clustermesh-apiserver, node-agent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::disk::Disk;
use super::lab_dir::LabDir;
use super::process::{Launch, Process};

/// How long a component may take to end when it is asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// How a component is made to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `kill -9`: it learns nothing of it.
    Kill,
    /// SIGTERM: it ends by itself, with status 0.
    Terminate,
}

#[derive(Debug)]
pub struct Component {
    launch: Launch,
    lab_dir: Arc<LabDir>,
    process: Option<Process>,
    disk: Option<Disk>,
}

impl Component {
    pub(crate) fn new(launch: Launch, lab_dir: &Arc<LabDir>) -> Self {
        Self { launch, lab_dir: lab_dir.clone(), process: None, disk: None }
    }

    /// Mounts a disk for it at `path`, and puts its log there.
    pub(super) fn mount_disk(&mut self, path: &Path, megabytes: u32) -> Result<()> {
        let disk = Disk::mount(&self.lab_dir, path, megabytes)?;
        disk.take_log(&self.lab_dir, &self.launch.name)?;
        self.disk = Some(disk);
        Ok(())
    }

    /// Its own disk; only in a lab that was built with disks.
    pub(crate) fn disk(&self) -> Result<&Disk> {
        self.disk.as_ref().with_context(|| format!("{} has no disk of its own", self.launch.name))
    }

    pub(crate) fn name(&self) -> &str {
        &self.launch.name
    }

    /// Its command line; a change counts from the next start.
    pub fn launch_mut(&mut self) -> &mut Launch {
        &mut self.launch
    }

    pub(crate) fn launch(&self) -> &Launch {
        &self.launch
    }

    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.launch.name);
        self.process = Some(self.launch.start(&self.lab_dir)?);
        Ok(())
    }

    pub fn stop(&mut self, how: Stop) -> Result<()> {
        let process = self.process.take().with_context(|| format!("{} does not run", self.launch.name))?;
        match how {
            Stop::Kill => process.kill(),
            Stop::Terminate if self.launch.program.is_ours() => process.terminate(STOP_PATIENCE),
            // Others have their own ideas of the status with which one ends.
            Stop::Terminate => {
                process.signal(Signal::SIGTERM)?;
                process.wait(STOP_PATIENCE).map(drop)
            }
        }
    }

    /// Stops it without ending it: it answers nobody, and its connections stay.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.running()?.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen one go on.
    pub(crate) fn resume(&self) -> Result<()> {
        self.running()?.signal(Signal::SIGCONT)
    }

    /// Takes note of it where the process has ended by itself, and tells whether it has.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        let ended = self.process.as_mut().map_or(Ok(None), Process::ended)?;
        if ended.is_some() {
            self.process = None;
        }
        Ok(self.process.is_none())
    }

    /// How many files its process has open.
    pub(crate) fn open_files(&self) -> Result<usize> {
        let folder = format!("/proc/{}/fd", self.running()?.pid());
        Ok(std::fs::read_dir(&folder).with_context(|| format!("reading {folder}"))?.count())
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("{} does not run", self.launch.name))
    }

    /// Takes note that it was killed from outside, with its node.
    pub(super) fn lost(&mut self) {
        self.process = None;
    }

    /// Fails, with the tail of its log, when it should run and does not.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }
}
