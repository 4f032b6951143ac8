//! One look at the cluster's certificates: makes what is missing or due. Every look starts from what is stored, so each may be
//! the first.

use std::time::Duration;

use mesh_model::name::ClusterName;
use mesh_trust::{AuthorityError, BundleError, Cause, Issued, Upkeep, Wanted};
use rustls::pki_types::UnixTime;
use tokio::sync::{Mutex, MutexGuard};

use super::Holder;
use super::authorities::{Authorities, certificate};
use super::metrics::CertificateMetrics;
use super::store::{Entry, Held, Store, StoreError, Written};

/// The longest time between two looks: somebody may remove what is stored.
pub(super) const LOOK: Duration = Duration::from_secs(60);

/// Why certificates are not as they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("making the cluster's certificate authority")]
    Make(#[source] AuthorityError),
    #[error(
        "the certificate authority in {place} can't be used: put back its tls.crt and tls.key, or remove {place} for a new \
         one, which every peer has to be told of"
    )]
    Authority { place: String, source: AuthorityError },
    #[error("the certificate authority can't be trusted")]
    Root(#[from] BundleError),
    #[error("making the certificate of the {}", .holder.as_str())]
    Issue { holder: Holder, source: AuthorityError },
    #[error(
        "the certificate of the {} is somebody else's and can't be used ({cause}): renew it there, or remove {place}",
        .holder.as_str()
    )]
    Foreign { holder: Holder, place: String, cause: String },
    #[error("the certificate authority was removed while it was looked at")]
    Removed,
}

/// What a look needs.
pub(crate) struct Look {
    pub(super) cluster: ClusterName,
    pub(super) store: Store,
    pub(super) wanted: Vec<Wanted>,
    metrics: CertificateMetrics,
    /// Held from reading to writing, by looks and by what an operator asks for.
    turn: Mutex<()>,
}

/// The cluster's authorities as they are stored.
pub(super) struct Stored {
    pub(super) held: Held,
    /// None where the key is somebody else's secret.
    pub(super) authorities: Option<Authorities>,
}

impl Look {
    /// Of what is wanted, what the store has a place for is kept.
    pub(crate) fn new(
        (cluster, store): (ClusterName, Store),
        wanted: impl IntoIterator<Item = Wanted>,
        metrics: CertificateMetrics,
    ) -> Self {
        let holders = store.holders();
        let is_kept = |wanted: &Wanted| holders.contains(&Holder::Process(wanted.role));
        let wanted = wanted.into_iter().filter(is_kept).collect();
        Self { cluster, store, wanted, metrics, turn: Mutex::default() }
    }

    /// Whether every replica may make what no longer counts.
    pub(super) fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    pub(super) fn failed(&self) {
        self.metrics.failed();
    }

    /// For whoever reads and then writes.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Makes what is missing or due; says when the first of them is due.
    pub(super) async fn pass(&self, now: UnixTime, leads: bool) -> Result<UnixTime, KeepError> {
        let _turn = self.turn().await;
        let stored = self.authorities(now).await?;
        match self.keep_all(&stored, (now, leads)).await {
            // Somebody has put certificates of another authority there, and that authority, while both were looked at.
            Err(KeepError::Foreign { .. }) if self.is_outdated(&stored).await? => Ok(now),
            kept => kept,
        }
    }

    async fn is_outdated(&self, stored: &Stored) -> Result<bool, KeepError> {
        let held = self.store.read(Holder::Authority).await?;
        Ok(held.is_none_or(|held| held.entry.files() != stored.held.entry.files()))
    }

    async fn keep_all(&self, stored: &Stored, (now, leads): (UnixTime, bool)) -> Result<UnixTime, KeepError> {
        let mut first = due_at_the_latest(now);
        let Some(authorities) = &stored.authorities else {
            // Somebody else makes all of them.
            for holder in self.store.holders() {
                let held = self.store.read(holder).await?;
                self.note_expiry(holder, held.as_ref().map(|held| &held.entry.pair));
            }
            return Ok(first);
        };
        // A fault of one leaves no other behind.
        let mut failed = None;
        for wanted in &self.wanted {
            match self.keep(authorities, wanted, (now, leads)).await {
                Ok(due) if due.as_secs() < first.as_secs() => first = due,
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(first), Err)
    }

    /// The cluster's authorities; made where there are none. Of several that try at once, the one that is stored counts.
    pub(super) async fn authorities(&self, now: UnixTime) -> Result<Stored, KeepError> {
        let holder = Holder::Authority;
        let held = match self.store.read(holder).await? {
            Some(held) => held,
            None => {
                self.make_authority(now).await?;
                self.store.read(holder).await?.ok_or(KeepError::Removed)?
            }
        };
        self.note_expiry(holder, Some(&held.entry.pair));
        if held.entry.pair.key_pem.is_empty() {
            return Ok(Stored { held, authorities: None });
        }
        let authorities = Authorities::of(&self.cluster, &held.entry)
            .map_err(|source| KeepError::Authority { place: self.store.place(holder), source })?;
        self.metrics
            .authorities(1 + usize::from(authorities.other().is_some()), authorities.revoked().count());
        Ok(Stored { held, authorities: Some(authorities) })
    }

    async fn make_authority(&self, now: UnixTime) -> Result<(), KeepError> {
        let entry = Authorities::first(&self.cluster, now).map_err(KeepError::Make)?.entry();
        if self.store.create(Holder::Authority, &entry).await? {
            self.metrics.issued(Holder::Authority);
            let fingerprint =
                certificate(&entry.pair.certificate_pem).map(|read| read.fingerprint.to_string());
            tracing::info!(cluster = %self.cluster, fingerprint = fingerprint.unwrap_or_default(), "the cluster has a certificate authority now");
        }
        Ok(())
    }

    /// Makes the certificate anew where it has to be; says when it is due.
    async fn keep(
        &self,
        authorities: &Authorities,
        wanted: &Wanted,
        (now, leads): (UnixTime, bool),
    ) -> Result<UnixTime, KeepError> {
        let holder = Holder::Process(wanted.role);
        let held = self.store.read(holder).await?;
        let pair = held.as_ref().map(|held| &held.entry.pair);
        let cause = match wanted.upkeep((&authorities.issuing, &authorities.list()), pair, now)? {
            Upkeep::Keep { renewal } => {
                self.note_expiry(holder, pair);
                return self.keep_trust(authorities, (holder, held.as_ref()), (now, renewal), leads).await;
            }
            Upkeep::Renew(cause) => cause,
        };
        match held {
            Some(held) if !held.is_own => self.judge_foreign(holder, &cause, now),
            // A replica of another version may want other names.
            _ if !leads && matches!(cause, Cause::Due | Cause::Names { .. }) => Ok(due_at_the_latest(now)),
            held => match self.make(authorities, wanted, held.as_ref(), now).await? {
                Written::Yes => {
                    tracing::info!(role = holder.as_str(), %cause, "a certificate was made anew");
                    self.renewal(authorities, wanted, now).await
                }
                Written::Foreign => self.judge_foreign(holder, &cause, now),
                // Whoever was first has made one, or somebody has put theirs there.
                Written::Raced => Ok(now),
            },
        }
    }

    /// When what was just made is due.
    async fn renewal(
        &self,
        authorities: &Authorities,
        wanted: &Wanted,
        now: UnixTime,
    ) -> Result<UnixTime, KeepError> {
        let held = self.store.read(Holder::Process(wanted.role)).await?.map(|held| held.entry.pair);
        match wanted.upkeep((&authorities.issuing, &authorities.list()), held.as_ref(), now)? {
            Upkeep::Keep { renewal } => Ok(renewal),
            Upkeep::Renew(_) => Ok(now),
        }
    }

    /// Makes a certificate in the place of the one that is held, whatever that is good for.
    pub(super) async fn make(
        &self,
        authorities: &Authorities,
        wanted: &Wanted,
        held: Option<&Held>,
        now: UnixTime,
    ) -> Result<Written, KeepError> {
        let holder = Holder::Process(wanted.role);
        let issued =
            wanted.issue(&authorities.issuing, now).map_err(|source| KeepError::Issue { holder, source })?;
        let entry = Entry::new(issued, authorities.trust_of(holder));
        let written = self.store.put((holder, held), &entry).await?;
        if written == Written::Yes {
            self.metrics.issued(holder);
            self.note_expiry(holder, Some(&entry.pair));
        }
        Ok(written)
    }

    /// A certificate serves; what its holder trusts beside it follows the authority's.
    async fn keep_trust(
        &self,
        authorities: &Authorities,
        (holder, held): (Holder, Option<&Held>),
        (now, renewal): (UnixTime, UnixTime),
        leads: bool,
    ) -> Result<UnixTime, KeepError> {
        let trust = authorities.trust_of(holder);
        let Some(held) = held.filter(|held| leads && held.is_own && held.entry.trust != trust) else {
            return Ok(renewal);
        };
        let entry = Entry::new(held.entry.pair.clone(), trust);
        if self.store.put((holder, Some(held)), &entry).await? == Written::Raced {
            return Ok(now);
        }
        tracing::info!(role = holder.as_str(), "what a process trusts was changed");
        Ok(renewal)
    }

    /// Whoever made the certificate renews it; until then it has to serve.
    fn judge_foreign(&self, holder: Holder, cause: &Cause, now: UnixTime) -> Result<UnixTime, KeepError> {
        let place = self.store.place(holder);
        match cause {
            Cause::Due | Cause::Names { .. } => Ok(due_at_the_latest(now)),
            cause => Err(KeepError::Foreign { holder, place, cause: cause.to_string() }),
        }
    }

    fn note_expiry(&self, holder: Holder, held: Option<&Issued>) {
        if let Some(read) = held.and_then(|held| certificate(&held.certificate_pem)) {
            self.metrics.expires(holder, read.not_after.as_secs());
        }
    }
}

fn due_at_the_latest(now: UnixTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + LOOK)
}

#[cfg(test)]
#[path = "look_tests.rs"]
pub(super) mod tests;
