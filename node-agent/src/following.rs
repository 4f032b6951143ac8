//! Everything that the agent follows: its own cluster's source, the peers, and what earlier agents knew of both.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_kv::Credentials;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_peers::folder::Remembered;
use mesh_runtime::clock::{rfc3339, unix_seconds};
use mesh_runtime::{Readiness, Supervisor, SupervisorError};
use mesh_secrets::{Mirror, MirrorState};
use mesh_source::ranges::{Known, RangesTask};
use mesh_source::{Identity, ProblemAges, Source, Status};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

use crate::admin::events::Events;
use crate::config::{RunArgs, source_options};
use crate::memory::Memory;
use crate::merge::names::Names;
use crate::merge::names_file;
use crate::merge::task::Inputs;
use crate::peers::PeerSet;
use crate::peers::credentials::CredentialsTask;
use crate::peers::folder::{FolderConfig, PeerFolder};

/// Sources of what is to be balanced; nothing runs yet.
pub(crate) struct Following {
    pub(crate) source: Source,
    pub(crate) peers: watch::Receiver<Arc<PeerSet>>,
    memory: Memory,
    /// Whether what is known can't be written: of the source, and of the peers.
    memory_failed: [Gauge; 2],
    ranges: RangesTask,
    folder: PeerFolder,
    /// None where the peer files are somebody else's.
    mirror: Option<Mirror>,
    /// None where no certificate is shown to peers.
    credentials: Option<CredentialsTask>,
}

impl Following {
    /// `supervisor`: of the peers' tasks.
    pub(crate) fn new(
        args: &RunArgs,
        identity: &Identity,
        supervisor: Supervisor,
        events: Events,
        (source, peers): (mesh_source::SourceMetrics, crate::peers::metrics::Metrics),
    ) -> Self {
        let memory = Memory::of(args, identity);
        let memory_failed = [source.memory_failed.clone(), peers.memory_failed.clone()];
        let source = Source::new(&args.source, source_options(args), source);
        let (ranges, known) = RangesTask::new(&args.identity, identity, source.ranges());
        let config = folder_config(args, identity, (known, memory.load_peers()), source.snapshots());
        let task = |credentials: &Credentials| CredentialsTask::new(credentials.clone(), peers.clone());
        let credentials = config.identity.as_ref().map(task);
        let (folder, peers) = PeerFolder::new(config, supervisor, events, peers);
        Self { source, peers, memory, memory_failed, ranges, folder, mirror: None, credentials }
    }

    /// Has the folder of peer files be the mirror of a Secret.
    pub(crate) fn mirroring(self, mirror: Option<Mirror>) -> Self {
        Self { mirror, ..self }
    }

    /// Begins with what an earlier agent's source said.
    pub(crate) fn reminded(self, maps_are_empty: bool) -> Self {
        let source = self.memory.remind(self.source, maps_are_empty);
        let mut ranges = self.ranges;
        ranges.remind();
        Self { source, ranges, ..self }
    }

    pub(crate) fn inputs(&self) -> Inputs {
        let (local, confirmed) = (self.source.snapshots(), self.source.confirmed());
        Inputs { local, confirmed, peers: self.peers.clone() }
    }

    /// `file`: an earlier agent's.
    pub(crate) fn names(&self, identity: &Identity, file: &Path) -> Names {
        let own = (identity.id, identity.name.clone());
        let earlier = Arc::new(names_file::load(file, &own));
        Names { own, local: self.source.snapshots(), peers: self.peers.clone(), earlier }
    }

    /// Starts all tasks. Readiness also lists the objects that stay as they were because they can't be read.
    pub(crate) fn spawn(self, supervisor: &mut Supervisor, readiness: &Readiness) {
        let token = supervisor.token();
        let mut ages = ProblemAges::default();
        let of_source = move |status: &Arc<Status>| {
            ages.lines(status, SystemTime::now(), |time| rfc3339(unix_seconds(time)))
        };
        let remarks = readiness.clone().remark_on("source", self.source.status(), of_source, token.clone());
        supervisor.spawn("source remarks", remarks);
        let of_peers = |set: &Arc<PeerSet>| set.kept();
        let remarks = readiness.clone().remark_on("peers", self.peers.clone(), of_peers, token.clone());
        supervisor.spawn("peers remarks", remarks);
        if let Some(mirror) = &self.mirror {
            let lines = |state: &MirrorState| state.problems.clone();
            let remarks = readiness.clone().remark_on("peers-secret", mirror.state(), lines, token.clone());
            supervisor.spawn("peers-secret remarks", remarks);
        }
        if let Some(credentials) = &self.credentials {
            let lines = |failure: &Option<String>| failure.iter().cloned().collect();
            let remarks = readiness.clone().remark_on("certificate", credentials.failure(), lines, token);
            supervisor.spawn("certificate remarks", remarks);
        }
        self.spawn_followers(supervisor);
    }

    fn spawn_followers(self, supervisor: &mut Supervisor) {
        let Self {
            source,
            memory,
            memory_failed: [source_failed, peers_failed],
            ranges,
            folder,
            mirror,
            credentials,
            ..
        } = self;
        let token = supervisor.token();
        credentials.into_iter().for_each(|task| supervisor.spawn("certificate", task.run(token.clone())));
        supervisor.spawn("memory", memory.source.keep(source.known(), source_failed, token.clone()));
        supervisor.spawn("peers memory", memory.peers.keep(folder.known(), peers_failed, token.clone()));
        supervisor.spawn("source", source.run(token.clone()));
        supervisor.spawn("ranges", ranges.run(token.clone()));
        let mirrored = mirror.as_ref().map(Mirror::state);
        mirror
            .into_iter()
            .for_each(|mirror| supervisor.spawn("peers-secret mirror", mirror.run(token.clone())));
        supervisor.spawn("peers", follow(folder, mirrored));
    }
}

async fn follow(
    folder: PeerFolder,
    mirrored: Option<watch::Receiver<MirrorState>>,
) -> Result<(), SupervisorError> {
    if let Some(mirrored) = mirrored {
        MirrorState::settled(mirrored).await;
    }
    folder.run().await
}

pub(crate) fn folder_config(
    args: &RunArgs,
    identity: &Identity,
    (own_ranges, remembered): (Known, Remembered),
    local: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
) -> FolderConfig {
    FolderConfig {
        folder: args.peers_folder(),
        own_name: identity.name.clone(),
        own_id: identity.id,
        own_ranges,
        identity: args.peers.tls_dir.as_deref().map(Credentials::in_folder),
        remembered,
        local: Some(local),
        quotas: args.quotas.clone(),
        capacity: args.datapath.capacity(),
    }
}

#[cfg(test)]
#[path = "following_tests.rs"]
mod tests;
