//! `clustermesh status`: ask every cluster and every one of their nodes, judge, show.

mod judge;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use mesh_admin::cluster::{Cluster as Described, PeerEntry};
use tokio::time::Instant;

use crate::args::{AgentArgs, Output, StatusArgs};
use crate::cluster::{self, CallError, Cluster, Request, call, list};
use crate::progress::Progress;
use crate::render::{self, left, or_dash};
use crate::wait::peer_rows;
use judge::{Answers, ClusterStatus, Node, PeerStatus};

const HEADER: [&str; 9] =
    ["CLUSTER", "PEER", "NODES", "CONNECTED", "SYNCED", "FRESH", "SERVICES", "BACKENDS", "CERTIFICATES"];
const WIDE_HEADER: [&str; 12] = [
    "CLUSTER",
    "PEER",
    "NODES",
    "CONNECTED",
    "SYNCED",
    "FRESH",
    "SERVICES",
    "BACKENDS",
    "CERTIFICATES",
    "ID",
    "VERSION",
    "PLACE",
];
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) fn run(agent: &AgentArgs, args: &StatusArgs, output: Output) -> Result<()> {
    mesh_runtime::process::block_on(async {
        let clusters = cluster::reached(&args.clusters, agent).await?;
        let statuses = settled(&clusters, args).await;
        let problems: usize = statuses.iter().map(|status| status.problems.len()).sum();
        show(statuses, output)?;
        match problems {
            0 => Ok(()),
            1 => bail!("one thing is wrong"),
            _ => bail!("{problems} things are wrong"),
        }
    })?
}

/// How all are; with `--wait` once all is well, or the time is over.
async fn settled<C: Cluster>(clusters: &[C], args: &StatusArgs) -> Vec<ClusterStatus> {
    let (deadline, progress) = (Instant::now() + args.timeout, Progress::new());
    loop {
        let statuses = futures::future::join_all(clusters.iter().map(status)).await;
        let wrong: Vec<_> = statuses.iter().flat_map(|status| status.problems.first()).collect();
        if !args.wait || wrong.is_empty() || Instant::now() >= deadline {
            return statuses;
        }
        let told: Vec<_> = wrong.iter().map(|problem| problem.problem.as_str()).collect();
        progress.say(&told.join("; "));
        tokio::time::sleep(PAUSE).await;
    }
}

async fn status<C: Cluster>(cluster: &C) -> ClusterStatus {
    let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let answers = answers(cluster).await.map_err(|error| mesh_failure::chain(&error));
    judge::judge(cluster.place(), answers, now_unix_s)
}

async fn answers<C: Cluster>(cluster: &C) -> Result<Answers, CallError> {
    let described: Described = call(cluster, &Request::get("/v1/cluster")).await?;
    let entries: Vec<PeerEntry> = list(cluster, &Request::get("/v1/peers")).await?;
    let nodes = cluster.ask_agents(&Request::get("/v1/peers")).await;
    let nodes = nodes.map_err(|error| format!("{error:#}")).map(|nodes| {
        let node = |it| Node { peers: peer_rows(&it).map_err(|error| format!("{error:#}")), name: it.agent };
        nodes.into_iter().map(node).collect()
    });
    Ok(Answers { described, entries, nodes })
}

fn show(statuses: Vec<ClusterStatus>, output: Output) -> Result<()> {
    let wide = output == Output::Wide;
    let problems: String = statuses.iter().flat_map(|status| status.problems.iter()).map(problem).collect();
    let header: &[&str] = if wide { &WIDE_HEADER } else { &HEADER };
    render::items(statuses, output, header, |statuses| {
        statuses.iter().flat_map(|status| rows(status, wide)).collect()
    })?;
    match output {
        Output::Table | Output::Wide if !problems.is_empty() => render::print(&format!("\n{problems}")),
        _ => Ok(()),
    }
}

fn problem(problem: &judge::Problem) -> String {
    format!("WRONG: {}\n    {}\n", problem.problem, problem.remedy)
}

fn rows(status: &ClusterStatus, wide: bool) -> Vec<Vec<String>> {
    let peers: Vec<Option<&PeerStatus>> = match status.peers.is_empty() {
        true => vec![None],
        false => status.peers.iter().map(Some).collect(),
    };
    peers.into_iter().map(|peer| row(status, peer, wide)).collect()
}

fn row(status: &ClusterStatus, peer: Option<&PeerStatus>, wide: bool) -> Vec<String> {
    let count = |of: fn(&PeerStatus) -> usize| or_dash(peer.filter(|_| status.nodes > 0).map(of));
    let mut row = vec![
        status.name.clone().unwrap_or_else(|| status.place.clone()),
        or_dash(peer.map(|peer| &peer.name)),
        or_dash(Some(status.nodes).filter(|nodes| *nodes > 0)),
        count(|peer| peer.connected),
        count(|peer| peer.synced),
        or_dash(peer.filter(|peer| peer.connected > 0 || peer.stale_s > 0).map(fresh)),
        count(|peer| peer.services),
        count(|peer| peer.backends),
        or_dash(status.certificates_left_s.map(left)),
    ];
    if wide {
        row.push(or_dash(status.id));
        row.push(or_dash(status.version.as_ref()));
        row.push(status.place.clone());
    }
    row
}

/// Until when the node that is furthest behind knows everything.
fn fresh(peer: &PeerStatus) -> String {
    match peer.stale_s {
        0 => "now".into(),
        seconds => format!("{seconds} s ago"),
    }
}
