//! `clustermesh hook`.

use anyhow::Result;
use mesh_admin::api::{HookProgram, HookPrograms, Runs};

use crate::args::{AgentArgs, HookVerb, Output};
use crate::render::{self, or_dash};

const HEADER: [&str; 6] = ["HOOK", "RUNS", "ID", "NAME", "TAKEN", "CGROUP"];
const WIDE_HEADER: [&str; 8] = ["HOOK", "RUNS", "ID", "NAME", "TAKEN", "CGROUP", "TAG", "EXAMPLES"];

pub(crate) fn run(agent: &AgentArgs, verb: &HookVerb, output: Output) -> Result<()> {
    let HookVerb::List = verb;
    let hooks: Vec<HookPrograms> = crate::client::list(agent, "/v1/hooks")?;
    let wide = output == Output::Wide;
    let header: &[&str] = if wide { &WIDE_HEADER } else { &HEADER };
    render::items(hooks, output, header, |hooks| hooks.iter().flat_map(|hook| rows(hook, wide)).collect())
}

fn rows(hook: &HookPrograms, wide: bool) -> impl Iterator<Item = Vec<String>> + '_ {
    hook.programs.iter().map(move |program| row(hook, program, wide))
}

fn row(hook: &HookPrograms, program: &HookProgram, wide: bool) -> Vec<String> {
    // Our programs miss the frontends that others take.
    let dials = hook.dials.as_ref().filter(|_| program.runs == Runs::Ours);
    let mut row = vec![
        hook.hook.to_string(),
        program.runs.to_string(),
        program.id.to_string(),
        or_dash(program.name.as_ref()),
        or_dash(dials.map(|dials| format!("{} of {}", dials.taken, dials.dialled))),
        program.cgroup.display().to_string(),
    ];
    if wide {
        let examples = dials
            .filter(|dials| dials.taken > 0)
            .map(|dials| dials.examples.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        row.push(or_dash(program.tag.as_ref()));
        row.push(or_dash(examples));
    }
    row
}
