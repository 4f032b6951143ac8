//! `clustermesh bpf`: what the maps hold that a node's kernel has. Elsewhere it says where to ask.

#[cfg(target_os = "linux")]
mod pinned;

#[cfg(target_os = "linux")]
pub(crate) use pinned::run;

#[cfg(not(target_os = "linux"))]
pub(crate) fn run(
    agent: &crate::args::AgentArgs,
    verb: &crate::args::BpfVerb,
    _output: crate::args::Output,
) -> anyhow::Result<()> {
    let crate::args::BpfVerb::Dump = verb;
    anyhow::bail!("{}", elsewhere(agent, std::env::consts::OS))
}

/// Why there are no maps here, and how to read those of a node.
#[cfg(any(test, not(target_os = "linux")))]
fn elsewhere(agent: &crate::args::AgentArgs, system: &str) -> String {
    let folder = agent.bpffs.join("clustermesh").join(&agent.instance);
    format!(
        "the maps are in a node's Linux kernel, pinned below {}, and this is {system}: run it on the node, e.g. in the \
         agent's pod there (kubectl -n clustermesh get pods -o wide): kubectl -n clustermesh exec POD -- /clustermesh \
         bpf dump",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn where_there_are_no_maps_it_says_where_they_are_and_how_to_read_them() {
        let cli = Cli::try_parse_from(["clustermesh", "bpf", "dump", "--instance", "lab"]).unwrap();
        let said = elsewhere(&cli.agent, "macos");
        for part in ["/sys/fs/bpf/clustermesh/lab", "this is macos", "exec POD -- /clustermesh bpf dump"] {
            assert!(said.contains(part), "{said:?} does not say {part:?}");
        }
    }
}
