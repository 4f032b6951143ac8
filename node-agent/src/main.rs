//! Starts the agent and says why it ended.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use node_agent::config::{Command, Invocation, RunArgs};
use node_agent::datapath::canary;
use node_agent::{agent, dry_run, heap, uninstall};

fn main() -> ExitCode {
    let done = match Invocation::parse_from(std::env::args_os()) {
        Ok(Invocation::Run(args)) => run(&args),
        Ok(Invocation::Command(command)) => carry_out(command),
        // Prints help and version as well, and chooses the exit status.
        Err(error) => error.exit(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logs may not be set up yet, and this must be seen.
            eprintln!("node-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &RunArgs) -> anyhow::Result<()> {
    heap::share();
    mesh_runtime::logs::init(&args.log).unwrap_or_else(|error| Invocation::refusal(&error).exit());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    if args.datapath.dry_run {
        runtime.block_on(dry_run::plan(args))?.iter().for_each(|line| println!("{line}"));
        return Ok(());
    }
    Ok(runtime.block_on(agent::run(args))?)
}

fn carry_out(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Uninstall { pins, stay } => {
            let stop = uninstall::Stop::watch()?;
            let found = uninstall::uninstall(&pins)?;
            let what = if found { "removed" } else { "nothing to remove for" };
            println!("{what} instance {}", pins.instance);
            if stay { Ok(stop.wait()?) } else { Ok(()) }
        }
        Command::Completion { shell } => {
            let script = Invocation::completion(shell);
            io::stdout().write_all(script.as_bytes()).context("writing the script")
        }
        Command::Canary { cgroup } => canary::dial(&cgroup).map_err(|said| anyhow!(said)),
    }
}
