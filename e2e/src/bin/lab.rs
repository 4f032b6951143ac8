//! The lab's own program: what runs in pods, the step before a lab's processes, and the broom.

use clap::{Parser, Subcommand};
use mesh_e2e::lab::enter::Enter;
use mesh_e2e::lab::manifest::ServiceSpec;
use mesh_e2e::lab::{Lab, LabSpec, lab_dir};
use mesh_e2e::load::client::Load;
use mesh_e2e::load::server::Serve;

#[derive(Parser)]
#[command(name = "lab", about = "Parts of the namespace lab")]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answer connections with a name.
    Serve(Serve),
    /// Dial at a constant rate, and print a line of JSON per connection.
    Load(Load),
    /// Be the first process of a pod's sandbox: reap, and end when told.
    Pause,
    /// Run a program in a namespace and a cgroup.
    Enter(Enter),
    /// Build a network with pods, say its id, and hold it until a signal ends both.
    #[command(hide = true)]
    Hold,
    /// Remove what labs without an owner have left: kept ones, and those whose owner was killed.
    Clean,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Verb::Enter(enter) => enter.exec(),
        Verb::Serve(serve) => runtime()?.block_on(serve.run()),
        Verb::Load(load) => runtime()?.block_on(load.run()),
        Verb::Pause => runtime()?.block_on(mesh_e2e::load::pause::run()),
        Verb::Hold => hold(),
        Verb::Clean => lab_dir::clean_and_say(),
    }
}

fn hold() -> anyhow::Result<()> {
    let mut lab = Lab::start(&LabSpec { mesh: false, ..LabSpec::new(&["hoth", "yavin"]) })?;
    lab.cluster("hoth")?.apply(&ServiceSpec::global("rebel-base", 2))?;
    println!("{}", lab.lab_dir().id());
    loop {
        std::thread::park();
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
