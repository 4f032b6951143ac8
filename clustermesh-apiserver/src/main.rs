//! Starts the exporter and says why it ended.

use std::io;
use std::process::ExitCode;

use anyhow::Context;
use clustermesh_apiserver::config::{Command, Invocation, RunArgs};

fn main() -> ExitCode {
    let done = match Invocation::parse_from(std::env::args_os()) {
        Ok(Invocation::Run(args)) => run(&args),
        Ok(Invocation::Command(Command::Completion { shell })) => {
            let name = env!("CARGO_PKG_NAME");
            clap_complete::generate(shell, &mut Invocation::command(), name, &mut io::stdout());
            Ok(())
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
    mesh_runtime::logs::init(&args.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    Ok(runtime.block_on(clustermesh_apiserver::run(args))?)
}
