//! `make bench`: what the product costs, measured beside what it replaces.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mesh_e2e::bench;

#[derive(Parser)]
#[command(
    name = "bench",
    about = "What the product costs, beside what it replaces",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(flatten)]
    args: bench::Args,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Carry out a plan of dials.
    #[command(hide = true)]
    Dial { plan: PathBuf },
    /// Draw a result as a picture of the scaling.
    Draw {
        /// What `--json` wrote.
        json: PathBuf,
        svg: PathBuf,
    },
    /// Be what is dialled.
    #[command(hide = true)]
    Serve,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.part {
        Some(Part::Dial { plan }) => bench::dial::run(plan),
        Some(Part::Draw { json, svg }) => bench::picture::run(json, svg),
        Some(Part::Serve) => bench::serve::run(),
        None => bench::run(&cli.args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
