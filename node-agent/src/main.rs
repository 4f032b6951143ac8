//! Starts the agent and says why it ended.

use std::process::ExitCode;

use anyhow::Context;
use mesh_runtime::process;
use node_agent::config::{Command, Invocation, Output, RunArgs};
use node_agent::datapath::canary::{self, ChildError};
use node_agent::{agent, dry_run, features, heap, uninstall};

fn main() -> ExitCode {
    let done = match Invocation::parse_from(std::env::args_os()) {
        Ok(Invocation::Run(args)) => run(&args).map(|()| ExitCode::SUCCESS),
        Ok(Invocation::Command(command)) => carry_out(command),
        // Prints help and version as well, and chooses the exit status.
        Err(error) => error.exit(),
    };
    match done {
        Ok(code) => code,
        Err(error) => process::failed("node-agent", error.as_ref()),
    }
}

fn run(args: &RunArgs) -> anyhow::Result<()> {
    heap::share();
    mesh_runtime::logs::init(&args.log).unwrap_or_else(|error| Invocation::refusal(&error).exit());
    const STARTING: &str = "starting the runtime";
    if args.datapath.dry_run {
        let plan = process::block_on(dry_run::plan(args)).context(STARTING)??;
        let lines: String = plan.into_iter().map(|line| line + "\n").collect();
        return Ok(process::print(&lines)?);
    }
    Ok(process::block_on(agent::run(args)).context(STARTING)??)
}

fn carry_out(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Uninstall { pins, stay } => {
            let stop = uninstall::Stop::watch()?;
            let found = uninstall::uninstall(&pins)?;
            let what = if found { "removed" } else { "nothing to remove for" };
            process::print(&format!("{what} instance {}\n", pins.instance))?;
            if stay {
                stop.wait()?;
            }
        }
        Command::Features { output } => {
            let report = features::probe();
            let text = match output {
                Output::Table => report.table(),
                Output::Json => serde_json::to_string_pretty(&report)? + "\n",
            };
            process::print(&text)?;
            if !report.fit {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Completion { shell } => process::print(&Invocation::completion(shell))?,
        Command::Canary { cgroup, maps, hook } => match canary::enter_and_dial(&cgroup, &maps, &hook) {
            Err(ChildError::Enter { .. }) => return Ok(ExitCode::from(canary::NOT_ENTERED)),
            outcome => process::print(&outcome?)?,
        },
    }
    Ok(ExitCode::SUCCESS)
}
