//! `make demo-kube`: the story on real Kubernetes clusters with real kubelets, shown live.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use mesh_e2e::kind::KindClusters;
use mesh_e2e::kube::chart::Chart;
use mesh_e2e::kube::provider::Provider;
use mesh_e2e::kube::{KubeFlags, KubeLab};
use mesh_e2e::prerequisite;
use mesh_e2e::story::board::Board;
use mesh_e2e::story::kubernetes::plot;
use mesh_e2e::story::{show, table};

#[derive(Parser)]
#[command(
    name = "demo-kube",
    about = "Two real Kubernetes clusters, one global service: a failover to watch"
)]
struct Cli {
    /// Also write the result as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Tell it in a lab that is up already, with the mesh installed or not, and leave it.
    #[arg(long, value_name = "ID")]
    lab: Option<String>,
    /// Tell it on two kind clusters, which are made where they are missing and left (needs Docker).
    #[arg(long, conflicts_with_all = ["lab", "version", "proxy", "dual_stack"])]
    kind: bool,
    #[command(flatten)]
    flags: KubeFlags,
}

fn main() -> ExitCode {
    show::exit_code("demo-kube", run(&Cli::parse()))
}

/// Whether all went as expected.
fn run(cli: &Cli) -> Result<bool> {
    if cli.kind {
        return tell(cli, &mut KindClusters::up()?);
    }
    prerequisite::check_kube()?;
    let mut lab = bring_up(cli)?;
    Chart::of_lab(&lab)?.install_without_peers().context("installing the chart")?;
    eprintln!("kube: the chart is installed");
    tell(cli, &mut lab)
}

/// Tells the story and judges it.
fn tell(cli: &Cli, provider: &mut dyn Provider) -> Result<bool> {
    let clusters = provider.sites().into_iter().map(|site| site.name).collect();
    let board = Board::new(clusters, plot::STEPS);
    let steps = show::live(&board, || plot::tell(provider, &board))?;
    let outcomes = show::judge(&board, &steps, table::KUBERNETES, cli.json.as_deref())?;
    for step in &steps {
        print!("{}", plot::remark(step).unwrap_or_default());
    }
    Ok(outcomes.iter().all(|step| step.failures.is_empty()))
}

fn bring_up(cli: &Cli) -> Result<KubeLab> {
    match &cli.lab {
        Some(id) => KubeLab::adopt(id),
        None => KubeLab::start(&cli.flags.spec(&["hoth".into(), "yavin".into()])),
    }
}
