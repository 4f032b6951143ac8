//! `make bench-kube`: what the product costs on real Kubernetes clusters, measured beside kube-proxy and a bare watch.

use std::process::ExitCode;

use clap::Parser;
use mesh_e2e::bench_kube;

#[derive(Parser)]
#[command(name = "bench-kube", about = "What the product costs on real Kubernetes clusters")]
struct Cli {
    #[command(flatten)]
    args: bench_kube::Args,
}

fn main() -> ExitCode {
    match bench_kube::run(&Cli::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-kube: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_fit_together() {
        Cli::command().debug_assert();
    }
}
