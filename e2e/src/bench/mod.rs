//! Measurements of the product beside what it replaces: `make bench`.
//!
//! Owns testbeds of its own, made of the lab's parts, and what runs in them. Judges nothing by itself: every row says
//! what it wanted and whether that was met, and a run succeeds once everything was measured.

pub(crate) mod agent;
mod change;
mod connect;
mod data_set;
pub mod dial;
mod fan_out;
mod fixture;
mod hooks;
pub(crate) mod journal;
mod kernel;
mod nft;
pub mod picture;
mod propagate;
mod rate;
pub(crate) mod row;
mod scale;
mod seed;
pub mod serve;
pub(crate) mod stats;
mod store;
mod testbed;

use std::path::PathBuf;

use anyhow::{Result, ensure};

use row::Row;

/// What to measure, and where the result goes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also write the result as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only the measurement of this name (repeatable); `--list` shows them.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// A tenth of the repetitions: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Show the names of the measurements.
    #[arg(long)]
    list: bool,
}

/// How much to repeat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    quick: bool,
}

impl Effort {
    /// Blocks whose median counts.
    pub(crate) fn blocks(self) -> usize {
        if self.quick { 3 } else { 9 }
    }

    /// Runs whose median counts, where each takes many seconds.
    pub(crate) fn runs(self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    pub(crate) fn is_quick(self) -> bool {
        self.quick
    }

    /// Repetitions: the given number, or a tenth of it.
    pub(crate) fn times(self, full: usize) -> usize {
        if self.quick { full / 10 } else { full }
    }
}

type Measure = fn(Effort) -> Result<Vec<Row>>;

/// Each measurement builds its own world and ends it.
const ALL: &[(&str, Measure)] = &[
    ("connect", connect::measure),
    ("hooks", hooks::measure),
    ("propagate", propagate::measure),
    ("scale", scale::measure),
    ("rate", rate::measure),
    ("serve", fan_out::measure),
];

/// Measures, shows and writes.
pub fn run(args: &Args) -> Result<()> {
    let Some(chosen) = args.chosen(ALL)? else { return Ok(()) };
    crate::prerequisite::check(&["lab", "bench", "node-agent", "clustermesh-apiserver"])?;
    args.carry_out(&chosen, |measure, effort| measure(effort))
}

impl Args {
    /// Those that were asked for, of all that there are; none where only their names were, which it shows.
    pub(crate) fn chosen<M: Copy>(
        &self,
        all: &[(&'static str, M)],
    ) -> Result<Option<Vec<(&'static str, M)>>> {
        if self.list {
            all.iter().for_each(|(name, _)| println!("{name}"));
            return Ok(None);
        }
        for name in &self.only {
            ensure!(all.iter().any(|(known, _)| known == name), "no measurement {name}: see --list");
        }
        let chosen = |name: &str| self.only.is_empty() || self.only.iter().any(|only| only == name);
        Ok(Some(all.iter().copied().filter(|(name, _)| chosen(name)).collect()))
    }

    /// Makes the measurements, shows the rows and writes them.
    pub(crate) fn carry_out<M: Copy>(
        &self,
        chosen: &[(&'static str, M)],
        measure: impl Fn(M, Effort) -> Result<Vec<Row>>,
    ) -> Result<()> {
        let effort = Effort { quick: self.quick };
        let mut rows = Vec::new();
        for (name, one) in chosen {
            eprintln!("bench: {name} …");
            rows.extend(measure(*one, effort)?);
            // After every one: a later failure loses nothing.
            if let Some(path) = &self.json {
                row::write(path, &rows)?;
            }
        }
        print!("{}", row::table(&rows));
        Ok(())
    }
}
