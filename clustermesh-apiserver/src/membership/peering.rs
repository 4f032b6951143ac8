//! Who becomes a peer: checked against this cluster and every other peer, then written to the store. One change at a time.

use axum::http::StatusCode;
use mesh_admin::cluster::{PeerDocument, PeerEntry};
use mesh_membership::{Admission, Candidate};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_peers::PeerFile;
use mesh_source::ranges::Known;
use tokio::sync::Mutex;

use super::refusal::Refusal;
use super::store::{PeerStore, StoreError, Stored};
use crate::certificates::Peers;

/// The peers of this cluster.
pub(crate) struct Peering {
    pub(crate) name: ClusterName,
    pub(crate) id: ClusterId,
    pub(crate) ranges: Known,
    pub(crate) store: Option<PeerStore>,
    /// Held from the check to the write, so that two that collide don't both pass.
    turn: Mutex<()>,
}

impl Peering {
    pub(crate) fn new((name, id): (ClusterName, ClusterId), ranges: Known, store: Option<PeerStore>) -> Self {
        Self { name, id, ranges, store, turn: Mutex::default() }
    }

    pub(crate) async fn entries(&self) -> Result<Vec<PeerEntry>, Refusal> {
        Ok(self.read().await?.entries())
    }

    /// All peers by their files, those included whose files are refused.
    pub(crate) async fn known(&self) -> Result<Peers, Refusal> {
        Ok(self.read().await?.peers())
    }

    /// Refuses a candidate that may not become a peer, with everything that stands against it.
    pub(crate) async fn check(&self, candidate: &Candidate) -> Result<(), Refusal> {
        let stored = self.read().await?;
        self.judge(candidate, &stored)
    }

    /// Makes a cluster a peer. False where it is one already, exactly so.
    pub(crate) async fn put(&self, file: PeerFile) -> Result<bool, Refusal> {
        let _turn = self.turn.lock().await;
        let stored = self.read().await?;
        self.judge(&candidate(&file), &stored)?;
        if stored.files.contains(&file) {
            return Ok(false);
        }
        let name = file.name.clone();
        self.store()?.put(file).await.map_err(refused)?;
        tracing::info!(peer = %name, "a cluster was made a peer");
        Ok(true)
    }

    /// Makes a cluster a peer no more. False where it is none.
    pub(crate) async fn remove(&self, name: &ClusterName) -> Result<bool, Refusal> {
        let _turn = self.turn.lock().await;
        let changed = self.store()?.remove(name).await.map_err(refused)?;
        if changed {
            tracing::info!(peer = %name, "a cluster is a peer no more");
        }
        Ok(changed)
    }

    async fn read(&self) -> Result<Stored, Refusal> {
        self.store()?.read(&self.name, self.id).await.map_err(refused)
    }

    fn judge(&self, candidate: &Candidate, stored: &Stored) -> Result<(), Refusal> {
        let ranges = self.ranges.borrow().as_deref().cloned().ok_or_else(|| {
            Refusal::unavailable(
                "this cluster does not know its own address ranges yet",
                "try again; if it stays so, /readyz of this process says why",
            )
        })?;
        let peers = stored.files.iter().map(self::candidate).collect();
        let admission = Admission { name: self.name.clone(), id: self.id, ranges, peers };
        match admission.problems(candidate) {
            problems if problems.is_empty() => Ok(()),
            problems => Err(Refusal::of_problems(StatusCode::CONFLICT, problems)),
        }
    }

    fn store(&self) -> Result<&PeerStore, Refusal> {
        self.store.as_ref().ok_or_else(|| {
            Refusal::unavailable(
                "this process was told of no place for peer files",
                "start clustermesh-apiserver with --peers-dir or --peers-secret",
            )
        })
    }
}

fn refused(error: StoreError) -> Refusal {
    let status = match error {
        StoreError::Mounted(_) | StoreError::Foreign { .. } => StatusCode::CONFLICT,
        StoreError::Incomplete(_)
        | StoreError::Missing { .. }
        | StoreError::Write(_)
        | StoreError::Secret(_)
        | StoreError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    let remedy = "see that the peers' folder or Secret is there, and that this process may read and write it";
    Refusal::new(status, mesh_failure::chain(&error), remedy)
}

fn candidate(file: &PeerFile) -> Candidate {
    Candidate { name: file.name.clone(), id: file.id, ranges: file.ranges.clone() }
}

/// Validates a peer file that somebody has sent, as YAML or JSON.
pub(crate) fn parse(name: &ClusterName, text: &str) -> Result<PeerFile, Refusal> {
    PeerFile::parse(name, &format!("{name}.yaml"), text).map_err(|error| {
        Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            mesh_failure::chain(&error),
            "docs/peer-files.md has every field",
        )
    })
}

/// The same of one that was sent within something else.
pub(crate) fn parse_document(name: &ClusterName, document: &PeerDocument) -> Result<PeerFile, Refusal> {
    parse(name, &serde_json::to_string(document).expect("a peer file is plain data"))
}
