//! The invites of this cluster, as etcd holds them: changed by compare-and-swap, so that any replica may.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_kv::{CallError, DialError, Dialer, Entry, Session};
use mesh_membership::Candidate;
use mesh_membership::invite::{self, Claim, ClaimError, InviteId, InviteRecord, RecordError, Verdict};
use mesh_model::name::ClusterName;
use mesh_runtime::clock::unix_seconds;

use crate::membership::{Peering, Refusal};

/// Records stay so long after an invite has expired, so that somebody can read what became of it.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Invites of one cluster at a time.
const MAX_INVITES: usize = 256;

/// Changes of others that come between a read and a write before this gives up.
const MAX_ATTEMPTS: usize = 20;

/// Why nothing could be done with an invite.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InviteError {
    #[error("etcd, which keeps the invites, can't be reached")]
    Dial(#[from] DialError),
    #[error("etcd, which keeps the invites, did not do what it was asked")]
    Call(#[from] CallError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("there is no invite {id}: it was revoked, has expired long ago, or never was")]
    Unknown { id: InviteId },
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("whoever shows the invite may not become a peer")]
    Collision(#[source] Refusal),
    #[error("the invite is being changed all the time")]
    Contended,
    #[error("there are {MAX_INVITES} invites already")]
    Full,
}

/// Whether a claim was the first of its joiner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    Now,
    Before,
}

/// The invites.
#[derive(Clone)]
pub(crate) struct Invites {
    dialer: Arc<Dialer>,
    cluster: ClusterName,
}

impl Invites {
    pub(crate) fn new(dialer: Arc<Dialer>, cluster: ClusterName) -> Self {
        Self { dialer, cluster }
    }

    /// Keeps a new one.
    pub(crate) async fn create(
        &self,
        id: InviteId,
        record: &InviteRecord,
        lifetime: Duration,
    ) -> Result<(), InviteError> {
        if self.list().await?.len() >= MAX_INVITES {
            return Err(InviteError::Full);
        }
        let entry = (&*invite::key(&self.cluster, id), record.encode());
        let session = Session::open(&self.dialer).await?;
        match session.create_expiring("writing an invite", entry, lifetime + KEPT).await? {
            true => Ok(()),
            // Of 2^64 ids, one that is there.
            false => Err(InviteError::Contended),
        }
    }

    /// All that can be read; whatever else stands there is logged.
    pub(crate) async fn list(&self) -> Result<Vec<(InviteId, InviteRecord)>, InviteError> {
        let session = Session::open(&self.dialer).await?;
        let prefix = invite::prefix(&self.cluster);
        let (mut pages, mut found) = (session.list("listing invites", &prefix), Vec::new());
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                let id = entry.key.strip_prefix(&prefix).and_then(|id| id.parse::<InviteId>().ok());
                match id.map(|id| (id, InviteRecord::decode(id, &entry.value))) {
                    Some((id, Ok(record))) => found.push((id, record)),
                    Some((_, Err(error))) => {
                        tracing::warn!(
                            key = entry.key,
                            error = mesh_failure::chain(&error),
                            "an invite can't be read"
                        );
                    }
                    None => tracing::warn!(key = entry.key, "a key among the invites is none"),
                }
            }
        }
        Ok(found)
    }

    /// Removes one. False where there is none.
    pub(crate) async fn revoke(&self, id: InviteId) -> Result<bool, InviteError> {
        let session = Session::open(&self.dialer).await?;
        for _ in 0..MAX_ATTEMPTS {
            let Some(entry) = self.read(&session, id).await? else { return Ok(false) };
            if session.remove("revoking an invite", &entry).await? {
                return Ok(true);
            }
        }
        Err(InviteError::Contended)
    }

    /// Removes those of a cluster: who is a peer no more shall not come back by an invite that it has taken.
    pub(crate) async fn revoke_of(&self, name: &ClusterName) -> Result<(), InviteError> {
        let all = self.list().await?;
        for (id, _) in all.into_iter().filter(|(_, record)| record.name == *name) {
            self.revoke(id).await?;
        }
        Ok(())
    }

    /// Gives the invite to a joiner, if it may become a peer as such a candidate. Of several at once one gets it. Wrong secrets are counted.
    pub(crate) async fn claim(
        &self,
        id: InviteId,
        claim: &Claim<'_>,
        (peering, candidate): (&Peering, &Candidate),
    ) -> Result<Claimed, InviteError> {
        let session = Session::open(&self.dialer).await?;
        for _ in 0..MAX_ATTEMPTS {
            let entry = self.read(&session, id).await?.ok_or(InviteError::Unknown { id })?;
            let record = InviteRecord::decode(id, &entry.value)?;
            match record.judge(claim, unix_seconds(SystemTime::now())) {
                Ok(verdict) => {
                    peering.check(candidate).await.map_err(InviteError::Collision)?;
                    let Verdict::Take(taken) = verdict else { return Ok(Claimed::Before) };
                    if session.replace("taking an invite", &entry, taken.encode()).await? {
                        return Ok(Claimed::Now);
                    }
                }
                Err(ClaimError::WrongSecret { counted }) => {
                    if session.replace("counting a wrong secret", &entry, counted.encode()).await? {
                        return Err(ClaimError::WrongSecret { counted }.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(InviteError::Contended)
    }

    async fn read(&self, session: &Session, id: InviteId) -> Result<Option<Entry>, CallError> {
        Ok(session.read("reading an invite", &invite::key(&self.cluster, id)).await?.1)
    }
}
