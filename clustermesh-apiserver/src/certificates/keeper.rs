//! Looks at the cluster's certificates and makes what is missing or due.
//!
//! The leader does. Where all replicas see the same certificates, each of them makes what keeps the cluster from having a
//! leader at all: what is missing or no longer counts, among them etcd's own; of several that try at once one succeeds. Every
//! look starts from what is stored, so each may be the first. A failure changes nothing of what is held, and is tried again soon.

use std::time::Duration;

use mesh_failure::Backoff;
use mesh_model::name::ClusterName;
use mesh_runtime::Condition;
use mesh_trust::{Authority, AuthorityError, BundleError, Cause, Certificate, Issued, Upkeep, Wanted};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Holder;
use super::metrics::CertificateMetrics;
use super::store::{Held, Store, StoreError, Written};
use super::trust;

/// The longest time between two looks: somebody may remove what is stored.
const LOOK: Duration = Duration::from_secs(60);

/// Why certificates are not as they should be.
#[derive(Debug, thiserror::Error)]
enum KeepError {
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

/// Makes and renews a cluster's certificates.
pub(crate) struct Keeper {
    look: Look,
    condition: Condition,
    leading: watch::Receiver<bool>,
    /// The failure that was logged last, until a look succeeds again.
    reported: Option<String>,
}

/// What one look needs.
struct Look {
    cluster: ClusterName,
    store: Store,
    wanted: Vec<Wanted>,
    metrics: CertificateMetrics,
}

/// The cluster's authority, and what its processes trust.
struct Stored {
    authority: Authority,
    trust: String,
}

impl Keeper {
    /// Of what is wanted, what the store has a place for is kept.
    pub(crate) fn new(
        (cluster, store): (ClusterName, Store),
        wanted: impl IntoIterator<Item = Wanted>,
        (condition, leading): (Condition, watch::Receiver<bool>),
        metrics: CertificateMetrics,
    ) -> Self {
        let holders = store.holders();
        let is_kept = |wanted: &Wanted| holders.contains(&Holder::Process(wanted.role));
        let wanted = wanted.into_iter().filter(is_kept).collect();
        Self { look: Look { cluster, store, wanted, metrics }, condition, leading, reported: None }
    }

    /// Keeps them until the token is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let leads = *self.leading.borrow_and_update();
            let wait = if leads || self.look.store.is_shared() {
                tokio::select! {
                    () = token.cancelled() => return,
                    wait = self.look(leads, &mut backoff) => wait,
                }
            } else {
                // Whoever leads does it.
                self.condition.ready();
                LOOK
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                Ok(()) = self.leading.changed() => {}
            }
        }
    }

    /// Looks once; says when to look again.
    async fn look(&mut self, leads: bool, backoff: &mut Backoff) -> Duration {
        let now = UnixTime::now();
        match self.look.pass(now, leads).await {
            Ok(next) => {
                backoff.reset();
                self.condition.ready();
                self.reported = None;
                Duration::from_secs(next.as_secs().saturating_sub(now.as_secs()).max(1)).min(LOOK)
            }
            Err(error) => {
                let reason = mesh_failure::chain(&error);
                self.look.metrics.failed();
                self.condition.not_ready(reason.clone());
                if self.reported.as_ref() != Some(&reason) {
                    tracing::error!(
                        error = reason,
                        "the cluster's certificates can't be kept; what is held stays"
                    );
                    self.reported = Some(reason);
                }
                backoff.next_delay().min(LOOK)
            }
        }
    }
}

impl Look {
    /// Makes what is missing or due; says when the first of them is due.
    async fn pass(&self, now: UnixTime, leads: bool) -> Result<UnixTime, KeepError> {
        let mut first = due_at_the_latest(now);
        let Some(stored) = self.authority(now).await? else {
            // Somebody else makes all of them.
            for holder in self.store.holders() {
                self.note_expiry(holder, self.store.read(holder).await?.map(|held| held.pair).as_ref());
            }
            return Ok(first);
        };
        // A fault of one leaves no other behind.
        let mut failed = None;
        for wanted in &self.wanted {
            match self.keep(&stored, wanted, (now, leads)).await {
                Ok(due) if due.as_secs() < first.as_secs() => first = due,
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(first), Err)
    }

    /// The cluster's authority; made where there is none. Of several that try at once, the one that is stored counts. None
    /// where its key is somebody else's secret.
    async fn authority(&self, now: UnixTime) -> Result<Option<Stored>, KeepError> {
        let holder = Holder::Authority;
        let held = match self.store.read(holder).await? {
            Some(held) => held,
            None => {
                self.make_authority(now).await?;
                self.store.read(holder).await?.ok_or(KeepError::Removed)?
            }
        };
        self.note_expiry(holder, Some(&held.pair));
        if held.pair.key_pem.is_empty() {
            return Ok(None);
        }
        let authority = Authority::from_pem(&self.cluster, &held.pair.certificate_pem, &held.pair.key_pem)
            .map_err(|source| KeepError::Authority { place: self.store.place(holder), source })?;
        let trust = trust::joined(authority.certificate_pem(), &held.trust);
        Ok(Some(Stored { authority, trust }))
    }

    async fn make_authority(&self, now: UnixTime) -> Result<(), KeepError> {
        let made = Authority::new(&self.cluster, now).map_err(KeepError::Make)?;
        let pair = Issued { certificate_pem: made.certificate_pem().into(), key_pem: made.key_pem().into() };
        if self.store.create(Holder::Authority, &pair, made.certificate_pem()).await? {
            self.metrics.issued(Holder::Authority);
            let fingerprint = Certificate::read(made.certificate()).map(|read| read.fingerprint.to_string());
            tracing::info!(cluster = %self.cluster, fingerprint = fingerprint.unwrap_or_default(), "the cluster has a certificate authority now");
        }
        Ok(())
    }

    /// Makes the certificate anew where it has to be; says when it is due.
    async fn keep(
        &self,
        stored: &Stored,
        wanted: &Wanted,
        (now, leads): (UnixTime, bool),
    ) -> Result<UnixTime, KeepError> {
        let holder = Holder::Process(wanted.role);
        let held = self.store.read(holder).await?;
        let pair = held.as_ref().map(|held| &held.pair);
        let cause = match wanted.upkeep(&stored.authority, pair, now)? {
            Upkeep::Keep { renewal } => {
                self.note_expiry(holder, pair);
                return self.keep_trust(stored, (holder, held.as_ref()), (now, renewal), leads).await;
            }
            Upkeep::Renew(cause) => cause,
        };
        match held {
            Some(held) if !held.is_own => self.judge_foreign(holder, &cause, now),
            // A replica of another version may want other names.
            _ if !leads && matches!(cause, Cause::Due | Cause::Names { .. }) => Ok(due_at_the_latest(now)),
            held => self.make(stored, wanted, (held.as_ref(), &cause), now).await,
        }
    }

    async fn make(
        &self,
        Stored { authority, trust }: &Stored,
        wanted: &Wanted,
        (held, cause): (Option<&Held>, &Cause),
        now: UnixTime,
    ) -> Result<UnixTime, KeepError> {
        let holder = Holder::Process(wanted.role);
        let issued = wanted.issue(authority, now).map_err(|source| KeepError::Issue { holder, source })?;
        match self.store.put((holder, held), &issued, trust).await? {
            Written::Yes => {}
            Written::Foreign => return self.judge_foreign(holder, cause, now),
            // Whoever was first has made one, or somebody has put theirs there.
            Written::Raced => return Ok(now),
        }
        self.metrics.issued(holder);
        self.note_expiry(holder, Some(&issued));
        tracing::info!(role = holder.as_str(), %cause, "a certificate was made anew");
        match wanted.upkeep(authority, Some(&issued), now)? {
            Upkeep::Keep { renewal } => Ok(renewal),
            Upkeep::Renew(_) => Ok(now),
        }
    }

    /// A certificate serves; what its holder trusts beside it follows the authority's.
    async fn keep_trust(
        &self,
        stored: &Stored,
        (holder, held): (Holder, Option<&Held>),
        (now, renewal): (UnixTime, UnixTime),
        leads: bool,
    ) -> Result<UnixTime, KeepError> {
        let Some(held) = held.filter(|held| leads && held.is_own && held.trust != stored.trust) else {
            return Ok(renewal);
        };
        let written = self.store.put((holder, Some(held)), &held.pair, &stored.trust).await?;
        if written == Written::Raced {
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
        let Some(held) = held else { return };
        let der = CertificateDer::from_pem_slice(held.certificate_pem.as_bytes());
        if let Ok(read) = der.map_err(drop).and_then(|der| Certificate::read(&der).map_err(drop)) {
            self.metrics.expires(holder, read.not_after.as_secs());
        }
    }
}

fn due_at_the_latest(now: UnixTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + LOOK)
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
