//! Who the clusters say they are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use mesh_admin::cluster::Cluster as Described;
use mesh_membership::plan::Member;
use tokio::time::Instant;

use crate::args::Endpoint;
use crate::cluster::{Cluster, Request, call, list};
use crate::progress::Progress;

/// A clustermesh-apiserver that has just been installed becomes the leader first, and then makes certificates.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(500);

/// Asks all of them; for a while, as long as one is still making its certificates.
pub(super) async fn settled<C: Cluster>(
    clusters: &[C],
    endpoints: &[Endpoint],
    progress: &Progress,
) -> Result<Vec<Member>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = describe(clusters, endpoints).await?;
        let unfinished = members.iter().find(|member| member.cluster.trust.is_none());
        match unfinished {
            Some(member) if Instant::now() < deadline => {
                progress.say(&format!("waiting for the certificates of {}", member.name()));
                tokio::time::sleep(PAUSE).await;
            }
            _ => return Ok(members),
        }
    }
}

/// Asks all of them at the same time.
async fn describe<C: Cluster>(clusters: &[C], endpoints: &[Endpoint]) -> Result<Vec<Member>> {
    futures::future::try_join_all(clusters.iter().map(|cluster| member(cluster, endpoints))).await
}

/// Asks one; `endpoints` are what the user knows better.
pub(crate) async fn member(cluster: &impl Cluster, endpoints: &[Endpoint]) -> Result<Member> {
    let asked_ms = now_ms();
    let mut described: Described = call(cluster, &Request::get("/v1/cluster")).await?;
    let answered_ms = now_ms();
    let named = endpoints.iter().filter(|endpoint| endpoint.cluster == described.name);
    let named: Vec<String> = named.map(|endpoint| endpoint.url.clone()).collect();
    if !named.is_empty() {
        described.endpoints = named;
    } else if described.endpoints.is_empty() {
        let seen = cluster.exposed().await;
        described.endpoints = seen.with_context(|| format!("finding where {} is reached", described.name))?;
    }
    let peers = list(cluster, &Request::get("/v1/peers")).await?;
    let clock_ahead_ms = described.time_unix_ms.cast_signed() - (asked_ms + answered_ms) / 2;
    Ok(Member { cluster: described, peers, clock_ahead_ms, asked_unix_s: asked_ms.unsigned_abs() / 1000 })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
