//! The agents' events: when a change first reached a node's maps.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Lab;
use super::http::{self, Door};
use super::node::Node;
use super::workload::Change;
use crate::agent_api::AgentApi;

/// An event of the stream; kinds that are of no interest here have none of the fields.
#[derive(Debug, Deserialize)]
struct Event {
    kind: String,
    #[serde(default)]
    at_unix_us: u64,
    #[serde(default)]
    services: Vec<String>,
}

impl Event {
    fn follows(&self, change: &Change) -> bool {
        self.kind == "maps_written"
            && self.at_unix_us >= change.renamed_unix_us
            && self.services.contains(&change.service)
    }
}

impl Lab {
    /// How long a change took from its manifest's rename to the first map write of the last node of every *other*
    /// cluster. Waits for nodes that have not written yet.
    pub(crate) fn control_time(&self, change: &Change, patience: Duration) -> Result<Duration> {
        let peers = self.clusters.iter().filter(|cluster| cluster.name() != change.cluster);
        let nodes = peers.flat_map(|cluster| cluster.nodes());
        let agents: Vec<_> = nodes.map(Node::api).collect();
        let last = last_first_write(&agents, change, Instant::now() + patience)?;
        Ok(Duration::from_micros(last - change.renamed_unix_us))
    }
}

/// When the last of these agents wrote a change into its maps for the first time. Waits for those that have not yet.
pub(crate) fn last_first_write(agents: &[AgentApi], change: &Change, deadline: Instant) -> Result<u64> {
    let mut waiting = BTreeMap::new();
    for agent in agents {
        waiting.insert(&agent.node, first_write(agent.door(), change.clone())?);
    }
    let mut last = change.renamed_unix_us;
    for (node, answer) in waiting {
        let left = deadline.saturating_duration_since(Instant::now());
        let written = answer.recv_timeout(left);
        let written =
            written.with_context(|| format!("{node} did not write the change of {}", change.service));
        last = last.max(written??);
    }
    Ok(last)
}

/// Follows an agent's events, the past ones since the change included, until one is the change's.
fn first_write(door: Door, change: Change) -> Result<mpsc::Receiver<Result<u64>>> {
    let (answer, wait) = mpsc::sync_channel(1);
    let follow = move || {
        let path = format!("/v1/events?since_unix_us={}", change.renamed_unix_us);
        let mut found = None;
        let followed = http::follow(&door, &path, |line| {
            let event = serde_json::from_str::<Event>(line).ok().filter(|event| event.follows(&change));
            found = event.map(|event| event.at_unix_us);
            found.is_none()
        });
        // Nobody waits any more when the patience is over.
        let _ = answer.send(match (found, followed) {
            (Some(at), _) => Ok(at),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(anyhow::anyhow!("the stream of events ended")),
        });
    };
    match thread::Builder::new().name("events".into()).spawn(follow) {
        Ok(_) => Ok(wait),
        Err(error) => bail!("starting a thread: {error}"),
    }
}
