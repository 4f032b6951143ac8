//! A part of a cluster that can be stopped and started again: etcd, clustermesh-apiserver, node-agent.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::home::Home;
use super::process::{Launch, Process};

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
    home: Arc<Home>,
    process: Option<Process>,
}

impl Component {
    pub fn new(launch: Launch, home: &Arc<Home>) -> Self {
        Self { launch, home: home.clone(), process: None }
    }

    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// What it is started with; a change counts from the next start.
    pub fn launch_mut(&mut self) -> &mut Launch {
        &mut self.launch
    }

    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    pub fn log(&self) -> std::path::PathBuf {
        self.home.log(&self.launch.name)
    }

    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.launch.name);
        self.process = Some(self.launch.start(&self.home)?);
        Ok(())
    }

    pub fn stop(&mut self, how: Stop) -> Result<()> {
        let process = self.process.take().with_context(|| format!("{} does not run", self.launch.name))?;
        match how {
            Stop::Kill => process.kill(),
            Stop::Terminate => process.terminate(Duration::from_secs(15)),
        }
    }

    /// Takes note that it was killed from outside, with its node.
    pub(super) fn lost(&mut self) {
        self.process = None;
    }

    /// Fails, with the tail of its log, when it should run and does not.
    pub fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }
}
