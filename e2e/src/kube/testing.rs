//! How tests come to a lab: `make test-kube` has brought it up, and says which one it is.

use anyhow::{Context, Result};

use super::KubeLab;

/// The lab, while a test has it.
#[derive(Debug)]
pub struct Stage {
    lab: KubeLab,
}

impl Stage {
    /// Enters the lab that `make test-kube` brought up; an error says how to get one.
    pub fn enter() -> Result<Self> {
        let id = std::env::var("CLUSTERMESH_KUBE_LAB");
        let id = id.context("no lab in CLUSTERMESH_KUBE_LAB: run this through `make test-kube`")?;
        Ok(Self { lab: KubeLab::adopt(&id)? })
    }

    pub fn lab(&self) -> &KubeLab {
        &self.lab
    }

    pub fn lab_mut(&mut self) -> &mut KubeLab {
        &mut self.lab
    }
}
