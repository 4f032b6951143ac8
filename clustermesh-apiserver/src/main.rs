//! Starts the exporter and says why it ended.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clustermesh_apiserver::config::{Command, Invocation, RunArgs};

fn main() -> ExitCode {
    let done = match Invocation::parse_from(std::env::args_os()) {
        Ok(Invocation::Run(args)) => run(&args),
        Ok(Invocation::Command(Command::Completion { shell })) => {
            let script = Invocation::completion(shell);
            io::stdout().write_all(script.as_bytes()).context("writing the script")
        }
        // Prints help and version as well, and chooses the exit status.
        Err(error) => error.exit(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logs may not be set up yet, and this must be seen.
            eprintln!("clustermesh-apiserver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &RunArgs) -> anyhow::Result<()> {
    mesh_runtime::logs::init(&args.log).unwrap_or_else(|error| Invocation::refusal(&error).exit());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    Ok(runtime.block_on(clustermesh_apiserver::run(args))?)
}
