//! What the agents of a cluster's nodes say, through their sockets.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Provider, Site};
use crate::lab::events;
use crate::lab::http::{self, Door};
use crate::lab::workload::Change;
use crate::wait;

/// Where an agent listens, below its node's root.
const SOCKET: &str = "run/clustermesh/default/agent.sock";
/// The story's watch and the agent's are told by different connections, and the story's has a kubectl in between: the
/// agent may be that much ahead. Nothing else is written that shortly before a change of the story's.
const AHEAD: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(60);

/// The doors of the agents of all nodes of a cluster, by node.
pub(super) fn doors(provider: &dyn Provider, site: &Site) -> Result<Vec<(String, Door)>> {
    let nodes = site.context.kubectl(&["get", "nodes", "-o", "name"])?;
    let names = nodes.lines().filter_map(|line| line.strip_prefix("node/"));
    let door = |node: &str| -> Result<(String, Door)> {
        Ok((node.to_owned(), Door::Unix(provider.node_root(&site.name, node)?.join(SOCKET))))
    };
    names.map(door).collect()
}

/// Waits until all of them have this many active backends of each cluster.
pub(super) fn wait_backends(doors: &[(String, Door)], service: &str, wanted: &[(&str, usize)]) -> Result<()> {
    for (node, door) in doors {
        wait::until(&format!("{node} to know the backends of {service}"), PATIENCE, || {
            let answer: Value = serde_json::from_str(&http::fetch(door, "/v1/backends")?)?;
            let items = answer["items"].as_array().context("the agent's backends are no list")?;
            let active = |cluster: &str| {
                let of = items.iter().filter(|item| item["service"] == service && item["cluster"] == cluster);
                of.filter(|item| item["state"] == "active").count()
            };
            for (cluster, count) in wanted {
                ensure!(active(cluster) == *count, "{} active ones of {cluster}", active(cluster));
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// From a change as the story saw it to the first map write of the last of these nodes; zero if all were ahead.
pub(super) fn control_time(doors: Vec<(String, Door)>, change: &Change) -> Result<Duration> {
    let ahead = u64::try_from(AHEAD.as_micros()).unwrap_or_default();
    let since = Change { renamed_unix_us: change.renamed_unix_us - ahead, ..change.clone() };
    let last = events::last_first_write(doors, &since, Instant::now() + PATIENCE)?;
    Ok(Duration::from_micros(last.saturating_sub(change.renamed_unix_us)))
}
