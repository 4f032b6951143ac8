//! `clustermesh`: makes clusters one mesh and shows what it does, for people and scripts.

mod api;
mod args;
mod backend;
mod bpf;
mod cert;
mod client;
mod cluster;
mod confirm;
mod hook;
mod invite;
mod join;
mod leave;
mod peer;
mod peer_file;
mod progress;
mod render;
mod service;
mod status;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Noun};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.noun {
        Noun::Join(args) => join::run(&cli.agent, args, cli.output),
        Noun::Invite(args) => invite::run(&cli.agent, args, cli.output),
        Noun::Leave(args) => leave::run(&cli.agent, args, cli.output),
        Noun::Status(args) => status::run(&cli.agent, args, cli.output),
        Noun::Service { verb } => service::run(&cli.agent, verb, cli.output),
        Noun::Backend { verb } => backend::run(&cli.agent, verb, cli.output),
        Noun::Peer { verb } => peer::run(&cli.agent, verb, cli.output),
        Noun::Cert { verb } => cert::run(&cli.agent, verb, cli.output),
        Noun::Hook { verb } => hook::run(&cli.agent, verb, cli.output),
        Noun::Bpf { verb } => bpf::run(&cli.agent, verb, cli.output),
        Noun::Completion { shell } => render::print(&args::completion(*shell)),
        Noun::Api(args) => api::run(&cli.agent, args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => mesh_runtime::process::failed("clustermesh", error.as_ref()),
    }
}
