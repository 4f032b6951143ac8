//! How a story is shown and judged, the same for every lab: the live view, the closing table, the report.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::board::Board;
use super::step::{Outcomes, Step};
use super::{report, table, view};

/// Shows the board for as long as `tell` takes.
pub fn live<T>(board: &Board, tell: impl FnOnce() -> Result<T>) -> Result<T> {
    let screen = view::watch(board).context("starting the view")?;
    let told = tell();
    board.end();
    // The view has nothing to say that its screen has not said.
    let _ = screen.join();
    told
}

/// Judges the steps, prints the table, and writes the report where one is wanted.
pub fn judge(board: &Board, steps: &[Step], legend: &str, json: Option<&Path>) -> Result<Vec<Outcomes>> {
    let outcomes: Vec<_> = steps.iter().map(|step| step.judge(&board.x_wings(), &board.clusters)).collect();
    print!("{}", table::render(&outcomes, &board.clusters, legend));
    if let Some(path) = json {
        report::write(path, &outcomes)?;
    }
    Ok(outcomes)
}

/// How a demo ends that met what was expected, or didn't, or broke off.
pub fn exit_code(demo: &str, as_expected: Result<bool>) -> ExitCode {
    match as_expected {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{demo}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
