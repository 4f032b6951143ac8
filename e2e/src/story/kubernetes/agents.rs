//! Answers of the agents of a cluster's nodes, through their sockets.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::agent_api::AgentApi;
use crate::kube::provider::{Provider, Site};
use crate::lab::events;
use crate::lab::workload::Change;
use crate::wait;

/// The story's watch and the agent's are told by different connections, and the story's has a kubectl in between: the
/// agent may be that much ahead. Nothing else is written that shortly before a change of the story's.
const AHEAD: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(60);

/// The agents of all nodes of a cluster.
pub(super) fn of(provider: &dyn Provider, site: &Site) -> Result<Vec<AgentApi>> {
    let nodes = site.context.kubectl(&["get", "nodes", "-o", "name"])?;
    let names = nodes.lines().filter_map(|line| line.strip_prefix("node/"));
    names.map(|node| Ok(AgentApi::below(node.to_owned(), &provider.node_root(&site.name, node)?))).collect()
}

/// Waits until all of them have this many active backends of each cluster.
pub(super) fn wait_backends(agents: &[AgentApi], service: &str, wanted: &[(&str, usize)]) -> Result<()> {
    agents.iter().try_for_each(|agent| {
        let what = format!("{} to know the backends of {service}", agent.node);
        wait::until(&what, PATIENCE, || agent.ensure_active(service, wanted))
    })
}

/// From a change as the story saw it to the first map write of the last of these nodes; zero if all were ahead.
pub(super) fn control_time(agents: &[AgentApi], change: &Change) -> Result<Duration> {
    let ahead = u64::try_from(AHEAD.as_micros()).unwrap_or_default();
    let since = Change { renamed_unix_us: change.renamed_unix_us - ahead, ..change.clone() };
    let last = events::last_first_write(agents, &since, Instant::now() + PATIENCE)?;
    Ok(Duration::from_micros(last.saturating_sub(change.renamed_unix_us)))
}
