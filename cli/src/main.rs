//! `clustermesh`: what the mesh does on this node, for people and scripts.

mod args;
mod backend;
mod bpf;
mod client;
mod hook;
mod peer;
mod render;
mod service;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Noun};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.noun {
        Noun::Service { verb } => service::run(&cli.agent, verb, cli.output),
        Noun::Backend { verb } => backend::run(&cli.agent, verb, cli.output),
        Noun::Peer { verb } => peer::run(&cli.agent, verb, cli.output),
        Noun::Hook { verb } => hook::run(&cli.agent, verb, cli.output),
        Noun::Bpf { verb } => bpf::run(&cli.agent, verb, cli.output),
        Noun::Completion { shell } => render::print(&args::completion(*shell)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => mesh_runtime::process::failed("clustermesh", error.as_ref()),
    }
}
