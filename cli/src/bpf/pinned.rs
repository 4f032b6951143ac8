//! Reads the pinned maps and the file of names, without the agent.

use anyhow::{Context, Result};
use mesh_admin::api::Names;
use mesh_admin::instance;
use node_agent::datapath::dump;
use node_agent::datapath::maps::Maps;

use crate::args::{AgentArgs, BpfVerb, Output};
use crate::render;

pub(crate) fn run(agent: &AgentArgs, verb: &BpfVerb, output: Output) -> Result<()> {
    let BpfVerb::Dump = verb;
    let maps = Maps::open_pinned(&agent.bpffs, &agent.instance)
        .with_context(|| format!("opening the maps of instance {}", agent.instance))?;
    let contents = maps.services.contents().context("reading the maps")?;
    let states = maps.clusters.read().context("reading the maps")?;
    let lines = dump::lines(&contents, &states, &names(agent)?);
    match output {
        Output::Table | Output::Wide => {
            render::print(&lines.into_iter().map(|line| line + "\n").collect::<String>())
        }
        other => render::items(lines, other, &[], |_| Vec::new()),
    }
}

/// Without the file, numbers stand for names.
fn names(agent: &AgentArgs) -> Result<Names> {
    let path = instance::names_file(&agent.instance_dir());
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Names::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}
