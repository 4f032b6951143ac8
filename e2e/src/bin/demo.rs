//! `make demo`: the story in the namespace lab, shown live.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mesh_e2e::lab::{Lab, LabSpec, lab_dir};
use mesh_e2e::story::board::Board;
use mesh_e2e::story::{picture, plot, show, table};
use mesh_e2e::{prerequisite, story};

#[derive(Parser)]
#[command(name = "demo", about = "Two clusters, one global service: a failover to watch, in under a minute")]
struct Cli {
    /// Also write the result as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the run.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Leave the lab up, and say what to try in it.
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Remove kept labs, and what is left of labs whose process was killed.
    Clean,
}

fn main() -> ExitCode {
    show::exit_code("demo", run(&Cli::parse()))
}

/// Whether all went as expected.
fn run(cli: &Cli) -> Result<bool> {
    if let Some(Verb::Clean) = cli.command {
        lab_dir::clean_and_say()?;
        return Ok(true);
    }
    prerequisite::check(&["lab", "node-agent", "clustermesh-apiserver", "clustermesh"])?;
    let spec = LabSpec { keep: cli.keep, mesh_api: true, joined: false, ..LabSpec::new(&["hoth", "yavin"]) };
    let board = Board::new(spec.clusters.clone(), plot::STEPS);
    let (lab, steps) = show::live(&board, || perform(&spec, &board))?;
    let outcomes = show::judge(&board, &steps, table::MANIFESTS, cli.json.as_deref())?;
    if let Some(path) = &cli.svg {
        picture::write(path, &board, &outcomes)?;
    }
    if cli.keep {
        print!("{}", story::tour::of(&lab)?);
        lab.abandon();
    }
    Ok(outcomes.iter().all(|step| step.failures.is_empty()))
}

fn perform(spec: &LabSpec, board: &Board) -> Result<(Lab, Vec<story::step::Step>)> {
    let mut lab = Lab::start(spec)?;
    let told = plot::set_up(&mut lab, board).and_then(|()| plot::tell(&mut lab, board));
    match told {
        Ok(steps) => Ok((lab, steps)),
        Err(error) => {
            lab.say_tails();
            Err(error)
        }
    }
}
