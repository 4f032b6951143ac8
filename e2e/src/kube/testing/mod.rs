//! Shared by the lab's tests: how they come to the lab that `make test-kube` has brought up, what they put into it, who
//! calls there, and what the agents say.

pub mod agents;
pub mod callers;
pub mod objects;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::chart::Chart;
use super::{KubeCluster, KubeLab};

/// How long a test waits for anything that the lab does.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The lab, while a test has it.
#[derive(Debug)]
pub struct Fixture {
    lab: KubeLab,
}

impl Fixture {
    /// Enters the lab that `make test-kube` brought up; an error says how to get one.
    pub fn enter() -> Result<Self> {
        let id = std::env::var("CLUSTERMESH_KUBE_LAB");
        let id = id.context("no lab in CLUSTERMESH_KUBE_LAB: run this through `make test-kube`")?;
        Ok(Self { lab: KubeLab::adopt(&id)? })
    }

    /// The same with the chart installed in every cluster, with its usual values. It stays for the tests that follow:
    /// those that want none remove it first.
    pub fn enter_mesh() -> Result<(Self, Chart)> {
        let fixture = Self::enter()?;
        let chart = Chart::of_lab(fixture.lab())?;
        chart.install()?;
        Ok((fixture, chart))
    }

    pub fn lab(&self) -> &KubeLab {
        &self.lab
    }

    pub fn lab_mut(&mut self) -> &mut KubeLab {
        &mut self.lab
    }

    /// The lab's two clusters.
    pub fn pair(&self) -> Result<[&KubeCluster; 2]> {
        let [one, other] = self.lab.clusters() else { bail!("two clusters are needed") };
        Ok([one, other])
    }
}
