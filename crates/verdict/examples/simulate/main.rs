//! Judges a mesh in virtual time, with an oracle that knows the truth. A seed reproduces everything.

mod simulation;
mod truth;

use std::process::ExitCode;
use std::str::FromStr;

use simulation::{Size, simulate};

/// `--NAME VALUE`, or the default.
fn flag<T: FromStr>(name: &str, default: T) -> T {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    let value = arguments.nth(1);
    value.map_or(Some(default), |value| value.parse().ok()).unwrap_or_else(|| {
        eprintln!(
            "{name} wants a number: simulate [--seed N] [--clusters N] [--nodes N] [--in-use N] [--minutes N]"
        );
        std::process::exit(2)
    })
}

fn main() -> ExitCode {
    let size = Size {
        clusters: flag("--clusters", 511).clamp(2, 4095),
        nodes: flag("--nodes", 50).max(2),
        in_use: flag("--in-use", 7).max(1),
        minutes: flag("--minutes", 30),
    };
    let seed = flag("--seed", 1);
    println!("seed {seed}, {size:?}");
    let result = simulate(seed, size);
    println!("{result}");
    if result.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
