//! Waits until every node knows, or has forgotten, a peer.

use std::time::Duration;

use anyhow::{Result, bail};
use mesh_admin::api::{List, Peer, PeerState};
use mesh_model::name::ClusterName;
use tokio::time::Instant;

use crate::cluster::{AgentAnswer, Cluster, Request};
use crate::progress::Progress;

/// Between two questions to the same agents.
const PAUSE: Duration = Duration::from_millis(250);
/// Nodes that are told one by one where they are not as wanted.
const TOLD: usize = 5;

/// What nodes shall say of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Synced,
    Gone,
}

/// A cluster whose nodes are asked for peers.
pub(crate) struct Known<'a, C> {
    pub cluster: &'a C,
    pub name: ClusterName,
    pub peers: Vec<ClusterName>,
}

/// What is not as wanted in a cluster.
struct Missing {
    asked: usize,
    nodes: Vec<String>,
}

/// Waits for all of them.
pub(crate) async fn until<C: Cluster>(
    wanted: Wanted,
    clusters: &[Known<'_, C>],
    timeout: Duration,
    progress: &Progress,
) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let missing = clusters.iter().map(|known| missing(wanted, known));
        let missing = futures::future::join_all(missing).await;
        let told: Vec<String> =
            clusters.iter().zip(&missing).map(|(known, missing)| summary(wanted, known, missing)).collect();
        progress.say(&told.join("; "));
        if missing.iter().all(|missing| missing.nodes.is_empty()) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("not within {} s: {}", timeout.as_secs(), nodes(&missing));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn missing<C: Cluster>(wanted: Wanted, known: &Known<'_, C>) -> Missing {
    match known.cluster.ask_agents(&Request::get("/v1/peers")).await {
        Ok(answers) => {
            let nodes = answers.iter().filter_map(|answer| unlike(wanted, answer, &known.peers));
            Missing { nodes: nodes.collect(), asked: answers.len() }
        }
        Err(error) => Missing { asked: 0, nodes: vec![format!("{}: {error:#}", known.name)] },
    }
}

/// What of an agent's answer is not as wanted.
fn unlike(wanted: Wanted, answer: &AgentAnswer, peers: &[ClusterName]) -> Option<String> {
    let rows = match peer_rows(answer) {
        Ok(rows) => rows,
        Err(error) => return Some(format!("{}: {error:#}", answer.agent)),
    };
    let told = peers.iter().filter_map(|name| {
        let row = rows.iter().find(|row| row.name == name.as_str());
        match (wanted, row) {
            (Wanted::Synced, None) => Some(format!("{name} is not known yet")),
            (Wanted::Synced, Some(row)) if row.state == PeerState::Synced => None,
            (Wanted::Synced, Some(row)) => {
                let reason = row.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
                Some(format!("{name} is {}{reason}", row.state))
            }
            (Wanted::Gone, None) => None,
            (Wanted::Gone, Some(_)) => Some(format!("{name} is still known")),
        }
    });
    let told: Vec<_> = told.collect();
    (!told.is_empty()).then(|| format!("{}: {}", answer.agent, told.join(", ")))
}

/// What an agent knows of its peers.
pub(crate) fn peer_rows(answer: &AgentAnswer) -> Result<Vec<Peer>> {
    let answer = answer.answer.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    if answer.status != 200 {
        bail!("its agent answers with status {}: {}", answer.status, answer.body);
    }
    Ok(serde_json::from_value::<List<Peer>>(answer.body.clone())?.items)
}

fn summary<C>(wanted: Wanted, known: &Known<'_, C>, missing: &Missing) -> String {
    let what = match wanted {
        Wanted::Synced => "know",
        Wanted::Gone => "have forgotten",
    };
    let peers: Vec<_> = known.peers.iter().map(ClusterName::as_str).collect();
    let done = missing.asked.saturating_sub(missing.nodes.len());
    match (missing.asked, missing.nodes.is_empty()) {
        (0, true) => format!("{}: no agent's socket was named, so no node was asked", known.name),
        (asked, _) => format!("{}: {done} of {asked} nodes {what} {}", known.name, peers.join(", ")),
    }
}

fn nodes(missing: &[Missing]) -> String {
    let all: Vec<&String> = missing.iter().flat_map(|missing| &missing.nodes).collect();
    let mut told: Vec<String> = all.iter().take(TOLD).map(|node| (*node).clone()).collect();
    if all.len() > TOLD {
        told.push(format!("{} more", all.len() - TOLD));
    }
    told.join("; ")
}
