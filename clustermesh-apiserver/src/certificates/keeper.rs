//! Looks at the cluster's certificates and makes what is missing or due, for as long as this process leads.
//!
//! Every look starts from what is stored, so each may be the first. A failure changes nothing of what is held, and is tried
//! again soon.

use std::time::Duration;

use mesh_failure::Backoff;
use mesh_model::name::ClusterName;
use mesh_runtime::Condition;
use mesh_trust::{Authority, AuthorityError, BundleError, Cause, Certificate, Issued, Role, Upkeep, Wanted};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::Holder;
use super::folder::{Folder, FolderError, Written};
use super::metrics::CertificateMetrics;

/// The longest time between two looks: somebody may remove what is stored.
const LOOK: Duration = Duration::from_secs(60);

/// Why certificates are not as they should be.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("making the cluster's certificate authority")]
    Make(#[source] AuthorityError),
    #[error(
        "the certificate authority in the folder ca can't be used: put back its tls.crt and tls.key, or remove the folder \
         ca for a new one, which every peer has to be told of"
    )]
    Authority(#[source] AuthorityError),
    #[error("the certificate authority in the folder ca can't be trusted")]
    Root(#[from] BundleError),
    #[error("making the certificate of the {}", .holder.as_str())]
    Issue { holder: Holder, source: AuthorityError },
    #[error(
        "the certificate of the {} is somebody else's and can't be used ({cause}): renew it there, or remove its folder",
        .holder.as_str()
    )]
    Foreign { holder: Holder, cause: String },
    #[error("the look at the certificates was cut short")]
    Ended,
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
#[derive(Clone)]
struct Look {
    cluster: ClusterName,
    folder: Folder,
    wanted: [Wanted; 2],
    metrics: CertificateMetrics,
}

impl Keeper {
    /// `names` stand in the server's certificate beside its identity, for clients that verify host names; `lifetime` is that
    /// of agents' and the server's certificates.
    pub(crate) fn new(
        (cluster, folder): (ClusterName, Folder),
        names: impl IntoIterator<Item = String>,
        lifetime: Duration,
        (condition, leading): (Condition, watch::Receiver<bool>),
        metrics: CertificateMetrics,
    ) -> Self {
        let wanted = [
            Wanted { role: Role::Apiserver, names: names.into_iter().collect(), length: lifetime },
            Wanted { role: Role::Agent, names: [].into(), length: lifetime },
        ];
        Self { look: Look { cluster, folder, wanted, metrics }, condition, leading, reported: None }
    }

    /// Keeps them until the token is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let wait = if *self.leading.borrow_and_update() {
                self.look(&mut backoff).await
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
    async fn look(&mut self, backoff: &mut Backoff) -> Duration {
        let look = self.look.clone();
        let now = UnixTime::now();
        match spawn_blocking(move || look.pass(now)).await.unwrap_or(Err(KeepError::Ended)) {
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
    fn pass(&self, now: UnixTime) -> Result<UnixTime, KeepError> {
        let Some(authority) = self.authority(now)? else {
            // Somebody else makes all of them.
            for holder in Holder::ALL {
                self.note_expiry(holder, self.folder.read(holder)?.as_ref());
            }
            return Ok(self.due_at_the_latest(now));
        };
        let due = self.wanted.iter().map(|wanted| self.keep(&authority, wanted, now));
        // A fault of one leaves no other behind.
        let due: Vec<_> = due.collect();
        due.into_iter().try_fold(self.due_at_the_latest(now), |first, due| {
            due.map(|due| if due.as_secs() < first.as_secs() { due } else { first })
        })
    }

    fn due_at_the_latest(&self, now: UnixTime) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + LOOK)
    }

    /// The cluster's authority; made where there is none. Of several that try at once, the one that is stored counts. None
    /// where its key is somebody else's secret.
    fn authority(&self, now: UnixTime) -> Result<Option<Authority>, KeepError> {
        let holder = Holder::Authority;
        if self.folder.read(holder)?.is_none() {
            let made = Authority::new(&self.cluster, now).map_err(KeepError::Make)?;
            let pair =
                Issued { certificate_pem: made.certificate_pem().into(), key_pem: made.key_pem().into() };
            if self.folder.create(holder, &pair, made.certificate_pem())? {
                self.metrics.issued(holder);
                let fingerprint =
                    Certificate::read(made.certificate()).map(|read| read.fingerprint.to_string());
                tracing::info!(cluster = %self.cluster, fingerprint = fingerprint.unwrap_or_default(), "the cluster has a certificate authority now");
            }
        }
        let Some(stored) = self.folder.read(holder)? else { return Err(KeepError::Ended) };
        if stored.key_pem.is_empty() {
            return Ok(None);
        }
        let authority = Authority::from_pem(&self.cluster, &stored.certificate_pem, &stored.key_pem)
            .map_err(KeepError::Authority)?;
        self.note_expiry(holder, Some(&stored));
        Ok(Some(authority))
    }

    /// Makes the certificate anew where it has to be; says when it is due.
    fn keep(&self, authority: &Authority, wanted: &Wanted, now: UnixTime) -> Result<UnixTime, KeepError> {
        let holder = Holder::Process(wanted.role);
        let held = self.folder.read(holder)?;
        let cause = match wanted.upkeep(authority, held.as_ref(), now)? {
            Upkeep::Keep { renewal } => {
                self.note_expiry(holder, held.as_ref());
                return Ok(renewal);
            }
            Upkeep::Renew(cause) => cause,
        };
        if held.is_some() && !self.folder.is_own(holder) {
            return self.judge_foreign(holder, &cause);
        }
        let issued = wanted.issue(authority, now).map_err(|source| KeepError::Issue { holder, source })?;
        if self.folder.replace(holder, &issued, authority.certificate_pem())? == Written::Foreign {
            return self.judge_foreign(holder, &cause);
        }
        self.metrics.issued(holder);
        self.note_expiry(holder, Some(&issued));
        tracing::info!(role = holder.as_str(), %cause, "a certificate was made anew");
        match wanted.upkeep(authority, Some(&issued), now)? {
            Upkeep::Keep { renewal } => Ok(renewal),
            Upkeep::Renew(_) => Ok(now),
        }
    }

    /// Whoever made the certificate renews it; until then it has to serve.
    fn judge_foreign(&self, holder: Holder, cause: &Cause) -> Result<UnixTime, KeepError> {
        match cause {
            Cause::Due | Cause::Names { .. } => Ok(self.due_at_the_latest(UnixTime::now())),
            cause => Err(KeepError::Foreign { holder, cause: cause.to_string() }),
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

#[cfg(test)]
mod tests {
    use std::fs;

    use mesh_runtime::{Readiness, Registry};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(after: Duration) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000) + after)
    }

    fn look(scratch: &tempfile::TempDir) -> Look {
        let mut registry = Registry::new("test", "0");
        let metrics = CertificateMetrics::register(registry.root());
        let cluster = ClusterName::new("hoth").unwrap();
        let readiness = Readiness::default();
        let (leading, condition) =
            (watch::Sender::new(true).subscribe(), readiness.condition("certificates", "-"));
        let folder = Folder::new(scratch.path().into());
        let names = ["mesh.example".to_owned()];
        Keeper::new((cluster, folder), names, 6 * DAY, (condition, leading), metrics).look
    }

    fn held(look: &Look) -> Vec<String> {
        let pem = |holder| look.folder.read(holder).unwrap().unwrap().certificate_pem;
        Holder::ALL.into_iter().map(pem).collect()
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_due_is_renewed_by_the_same_authority() {
        let scratch = tempfile::tempdir().unwrap();
        let look = look(&scratch);
        look.pass(at(Duration::ZERO)).unwrap();
        let first = held(&look);
        look.pass(at(DAY)).unwrap();
        assert_eq!(held(&look), first, "nothing is due");
        look.pass(at(3 * DAY)).unwrap();
        let second = held(&look);
        assert_eq!(second[0], first[0], "the authority stays");
        assert!(second[1] != first[1] && second[2] != first[2]);
        fs::remove_file(scratch.path().join("agent")).unwrap();
        look.pass(at(3 * DAY)).unwrap();
        assert_eq!(held(&look)[1], second[1], "only what is missing is made");
    }

    #[test]
    fn a_companys_certificates_stay_as_they_are() {
        let scratch = tempfile::tempdir().unwrap();
        let look = look(&scratch);
        let theirs = Authority::new(&look.cluster, at(Duration::ZERO)).unwrap();
        let pairs = [
            ("ca", theirs.certificate_pem().to_owned(), String::new()),
            ("agent", "theirs".into(), "theirs".into()),
        ];
        for (folder, certificate, key) in &pairs {
            let folder = scratch.path().join(folder);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("tls.crt"), certificate).unwrap();
            fs::write(folder.join("tls.key"), key).unwrap();
        }
        look.pass(at(Duration::ZERO)).unwrap();
        assert_eq!(
            look.folder.read(Holder::Process(Role::Agent)).unwrap().unwrap().certificate_pem,
            "theirs"
        );
        assert!(
            look.folder.read(Holder::Process(Role::Apiserver)).unwrap().is_none(),
            "nobody can make it here"
        );
        // With their key it could be made here, but for what is theirs.
        fs::write(scratch.path().join("ca/tls.key"), theirs.key_pem()).unwrap();
        let said = mesh_failure::chain(&look.pass(at(Duration::ZERO)).unwrap_err());
        assert!(said.contains("the agent is somebody else's"), "{said}");
        assert!(look.folder.read(Holder::Process(Role::Apiserver)).unwrap().is_some(), "the others are kept");
    }

    #[test]
    fn a_broken_authority_is_told_and_nothing_is_made_in_its_place() {
        let scratch = tempfile::tempdir().unwrap();
        let look = look(&scratch);
        look.pass(at(Duration::ZERO)).unwrap();
        let before = held(&look);
        fs::write(scratch.path().join("ca/tls.key"), "broken").unwrap();
        let said = mesh_failure::chain(&look.pass(at(3 * DAY)).unwrap_err());
        assert!(said.contains("put back its tls.crt and tls.key"), "{said}");
        assert_eq!(held(&look), before);
    }
}
