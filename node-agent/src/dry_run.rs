//! `--dry-run`: what would be written, against the maps as they are; nothing is touched.

use std::sync::Arc;
use std::time::Duration;

use mesh_runtime::{Supervisor, SupervisorError};
use mesh_source::ranges::RangesTask;
use mesh_source::{IdentityError, Source};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::admin::events::Events;
use crate::config::{RunArgs, source_options};
use crate::datapath::actual::Actual;
use crate::datapath::maps::{MapError, Maps};
use crate::datapath::restore::restore;
use crate::datapath::text;
use crate::following::folder_config;
use crate::memory::Memory;
use crate::merge::merger::{Merger, PeerInputs};
use crate::metrics::Metrics;
use crate::peers::PeerSet;
use crate::peers::folder::PeerFolder;

/// How long sources and peers may take to say everything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("source {source_name} said nothing within {} s; is --source right?", PATIENCE.as_secs())]
    Silent { source_name: String },
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

/// The lines of the plan. Peers that could not be reached in time are named in the log; what the maps hold of
/// them stays.
pub async fn plan(args: &RunArgs) -> Result<Vec<String>, DryRunError> {
    let identity = args.identity()?;
    let actual = actual(args)?;
    let mut supervisor = Supervisor::new("dry-run", Default::default());
    let (_, metrics) = Metrics::register();
    let memory = Memory::of(args, &identity);
    let source = memory.remind(Source::new(&args.source, source_options(args), metrics.source), false);
    let (ranges_task, ranges) = RangesTask::new(&args.identity, &identity, source.ranges());
    let (mut local, token) = (source.snapshots(), supervisor.token());
    let config = folder_config(args, &identity, (ranges, memory.load_peers()), source.snapshots());
    let (folder, peers) =
        PeerFolder::new(config, supervisor.child("peers"), Events::default(), metrics.peers);
    supervisor.spawn("source", source.run(token.clone()));
    supervisor.spawn("ranges", ranges_task.run(token));
    supervisor.spawn("peers", folder.run());

    let heard = timeout(PATIENCE, local.wait_for(Option::is_some)).await;
    let known = heard.ok().and_then(Result::ok).and_then(|local| local.clone());
    let snapshot = known.ok_or_else(|| DryRunError::Silent { source_name: args.source.to_string() })?;
    let peers = all_peers(peers).await;
    let merger = Merger::new(identity.id, args.source.is_kubernetes(), actual);
    let merger = merger.with_quotas(args.quotas.clone());
    let lines = lines(merger, &snapshot, &peers);
    supervisor.stop(PATIENCE).await?;
    Ok(lines)
}

/// The content of the maps; nothing where there are none yet.
fn actual(args: &RunArgs) -> Result<Actual, MapError> {
    let maps = match Maps::open_pinned(&args.pins.bpffs, &args.pins.instance) {
        Ok(maps) => maps,
        Err(MapError::Open { .. }) => return Ok(Actual::new(args.datapath.capacity())),
        Err(error) => return Err(error),
    };
    Ok(restore(&maps.services.contents()?, maps.services.capacity()).actual)
}

async fn all_peers(mut peers: watch::Receiver<Arc<PeerSet>>) -> Arc<PeerSet> {
    let known =
        |set: &Arc<PeerSet>| set.claimed.is_some() && set.peers.values().all(|peer| peer.snapshot.synced);
    let heard = timeout(PATIENCE, peers.wait_for(known)).await;
    if heard.is_err() {
        tracing::warn!("some peers said nothing; what the maps hold of them stays");
    }
    drop(heard);
    peers.borrow().clone()
}

fn lines(
    mut merger: Merger,
    local: &Arc<mesh_model::snapshot::ClusterSnapshot>,
    peers: &PeerSet,
) -> Vec<String> {
    merger.observe(Some(local), &PeerInputs::of(peers));
    let mut lines = Vec::new();
    while let Some(mut planned) = merger.next_plan() {
        lines.extend(text::lines(&planned.plan, usize::MAX));
        merger.actual_mut().written(&mut planned.plan);
    }
    lines
}
