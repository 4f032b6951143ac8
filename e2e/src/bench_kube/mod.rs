//! Measurements on real Kubernetes clusters with the chart installed: `make bench-kube`.
//!
//! Owns a lab for each of them. Judges nothing by itself, as [`crate::bench`], whose rows and flags it shares.

mod api;
mod calls;
mod mesh;
mod object;
mod objects;
mod propagate;
mod rolling;
mod usage;
mod watch;

use anyhow::Result;

use crate::bench::row::Row;
use crate::bench::{self, Effort};
use crate::kube::KubeFlags;

/// The measurements, and the Kubernetes to take them on.
#[derive(Debug, clap::Args)]
// Each set of flags is a group of its own, named by its type: two of one name are refused by debug builds.
#[group(id = "bench_kube")]
pub struct Args {
    #[command(flatten)]
    bench: bench::Args,
    /// Rolling updates to count failed requests in; one with --quick.
    #[arg(long, default_value_t = 10)]
    runs: usize,
    #[command(flatten)]
    flags: KubeFlags,
}

/// How much to do, and on which Kubernetes.
#[derive(Clone, Debug)]
struct Course {
    effort: Effort,
    /// Rolling updates.
    runs: usize,
    flags: KubeFlags,
}

type Measure = fn(&Course) -> Result<Vec<Row>>;

/// Each measurement brings up a lab of its own and ends it.
const ALL: &[(&str, Measure)] =
    &[("propagate", propagate::measure), ("objects", objects::measure), ("rolling", rolling::measure)];

/// Measures, shows and writes.
pub fn run(args: &Args) -> Result<()> {
    let Some(chosen) = args.bench.chosen(ALL)? else { return Ok(()) };
    crate::prerequisite::check_kube()?;
    if cfg!(debug_assertions) {
        eprintln!("bench: an unoptimised build, of the mesh too: nothing to quote");
    }
    args.bench.carry_out(&chosen, |measure, effort| {
        let runs = if effort.is_quick() { 1 } else { args.runs };
        measure(&Course { effort, runs, flags: args.flags.clone() })
    })
}
