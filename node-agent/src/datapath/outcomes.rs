//! Map `CPUS`: what became of the connects, counted by the programs. Nobody else writes it.

use std::path::Path;

use mesh_abi::{Cpu, OUTCOMES};

use super::cpus::{self, Cpus};
use super::map_fd::MapFd;
use super::maps::MapError;

/// The programs' counts.
#[derive(Debug)]
pub struct OutcomeMap {
    per_cpu: MapFd,
    cpus: usize,
}

impl OutcomeMap {
    pub(super) fn open(folder: &Path) -> Result<Self, MapError> {
        let cpus = cpus::cpus(Cpus::Possible);
        Ok(Self {
            per_cpu: MapFd::open::<u32, Cpu>(folder, "CPUS")?,
            cpus: cpus.map_err(|source| MapError::Call {
                action: "counting the CPUs of",
                name: "CPUS",
                source,
            })?,
        })
    }

    /// How often each outcome happened, in the order of [`mesh_abi::Outcome`].
    pub fn read(&self) -> Result<[u64; OUTCOMES], MapError> {
        let cpus = self.each()?;
        Ok(std::array::from_fn(|outcome| cpus.iter().map(|cpu| cpu.outcomes[outcome]).sum()))
    }

    /// The same of one CPU, by its place among the possible ones.
    pub(super) fn read_of(&self, cpu: usize) -> Result<[u64; OUTCOMES], MapError> {
        Ok(self.each()?.get(cpu).map(|cpu| cpu.outcomes).unwrap_or_default())
    }

    fn each(&self) -> Result<Vec<Cpu>, MapError> {
        self.per_cpu.lookup_per_cpu(0, self.cpus)
    }
}
