//! Starts the exporter and says why it ended.

use std::process::ExitCode;

use anyhow::Context;
use clustermesh_apiserver::config::{Command, ForgetArgs, Invocation, RunArgs};
use mesh_runtime::process;

fn main() -> ExitCode {
    let done = match Invocation::parse_from(std::env::args_os()) {
        Ok(Invocation::Run(args)) => run(&args),
        Ok(Invocation::Command(Command::Completion { shell })) => {
            process::print(&Invocation::completion(shell)).map_err(Into::into)
        }
        Ok(Invocation::Command(Command::Forget(args))) => forget(&args),
        // Prints help and version as well, and chooses the exit status.
        Err(error) => error.exit(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => process::failed("clustermesh-apiserver", error.as_ref()),
    }
}

fn run(args: &RunArgs) -> anyhow::Result<()> {
    mesh_runtime::logs::init(&args.log).unwrap_or_else(|error| Invocation::refusal(&error).exit());
    Ok(process::block_on(clustermesh_apiserver::run(args)).context("starting the runtime")??)
}

fn forget(args: &ForgetArgs) -> anyhow::Result<()> {
    let said =
        process::block_on(clustermesh_apiserver::forget::forget(args)).context("starting the runtime")??;
    Ok(process::print(&said)?)
}
