//! Where certificates are kept: in a folder, or in Kubernetes Secrets. Both alike for whoever keeps them.

use std::time::Duration;

use mesh_secrets::{Secret, SecretsError};
use mesh_trust::Issued;
use tokio::task::spawn_blocking;

use super::Holder;
use super::folder::{Folder, FolderError};
use super::secrets::SecretStore;

/// Why a certificate can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error("looking into the folder was cut short")]
    Ended,
}

/// What is stored of one holder.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) pair: Issued,
    /// Whom its holder trusts within the cluster, as PEM.
    pub(super) trust: String,
    /// Of an authority: the other one, while one takes the other's place.
    pub(super) beside: Option<Beside>,
}

impl Entry {
    pub(super) fn new(pair: Issued, trust: impl Into<String>) -> Self {
        Self { pair, trust: trust.into(), beside: None }
    }

    /// Its files by their names, which are a Secret's keys.
    pub(super) fn files(&self) -> Vec<(&'static str, &[u8])> {
        let mut files = vec![
            (TRUST, self.trust.as_bytes()),
            (PAIR[0], self.pair.certificate_pem.as_bytes()),
            (PAIR[1], self.pair.key_pem.as_bytes()),
        ];
        if let Some(Beside { place, pair }) = &self.beside {
            let [certificate, key] = place.files();
            files.extend([(certificate, pair.certificate_pem.as_bytes()), (key, pair.key_pem.as_bytes())]);
        }
        files
    }

    /// What files of these names say; none where neither certificate nor key is there.
    pub(super) fn read<E>(
        mut file: impl FnMut(&'static str) -> Result<Option<String>, E>,
    ) -> Result<Option<Self>, E> {
        let mut pair = |[certificate, key]: [&'static str; 2]| match (file(certificate)?, file(key)?) {
            (None, None) => Ok(None),
            // Half of a pair is no certificate, and its holder learns why.
            (certificate, key) => Ok(Some(Issued {
                certificate_pem: certificate.unwrap_or_default(),
                key_pem: key.unwrap_or_default(),
            })),
        };
        let Some(own) = pair(PAIR)? else { return Ok(None) };
        let mut beside = None;
        for place in Place::ALL {
            beside = beside.or(pair(place.files())?.map(|pair| Beside { place, pair }));
        }
        let trust = file(TRUST)?.unwrap_or_default();
        Ok(Some(Self { pair: own, trust, beside }))
    }
}

const TRUST: &str = "ca.crt";
const PAIR: [&str; 2] = ["tls.crt", "tls.key"];

/// An authority beside the one that issues.
#[derive(Clone)]
pub(super) struct Beside {
    pub(super) place: Place,
    pub(super) pair: Issued,
}

/// Which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It will issue.
    Next,
    /// It has issued.
    Previous,
}

impl Place {
    const ALL: [Self; 2] = [Self::Next, Self::Previous];

    fn files(self) -> [&'static str; 2] {
        match self {
            Self::Next => ["next.crt", "next.key"],
            Self::Previous => ["previous.crt", "previous.key"],
        }
    }
}

/// A certificate as it is stored.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) entry: Entry,
    /// Whether it was written by one of this cluster's apiservers: what somebody else has put there stays.
    pub(super) is_own: bool,
    /// As it was read; none in a folder, into which nobody else writes.
    pub(super) secret: Option<Box<Secret>>,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Yes,
    /// Somebody else has put something there, which stays.
    Foreign,
    /// It was changed since it was read.
    Raced,
}

/// The certificates of a cluster's processes.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Folder(Folder),
    Secrets(SecretStore),
}

impl Store {
    /// Those that are kept here, the authority first.
    pub(super) fn holders(&self) -> Vec<Holder> {
        match self {
            Self::Folder(_) => Holder::IN_A_FOLDER.to_vec(),
            Self::Secrets(secrets) => secrets.holders(),
        }
    }

    /// Whether all replicas of the apiserver see the same certificates, so that each of them may make what is missing.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Secrets(_))
    }

    /// How long it takes until whoever reads them has read a change: agents look twice a second, a kubelet renews mounts of
    /// Secrets every minute, and keeps what it has read of them for up to another one.
    pub(super) fn spread(&self) -> Duration {
        match self {
            Self::Folder(_) => Duration::from_secs(2),
            Self::Secrets(_) => Duration::from_secs(150),
        }
    }

    /// The word for where a certificate is, for messages.
    pub(super) fn place(&self, holder: Holder) -> String {
        match self {
            Self::Folder(_) => format!("the folder {}", holder.as_str()),
            Self::Secrets(secrets) => secrets.place(holder),
        }
    }

    pub(super) async fn read(&self, holder: Holder) -> Result<Option<Held>, StoreError> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                Ok(blocking(move || folder.read(holder)).await?)
            }
            Self::Secrets(secrets) => Ok(secrets.read(holder).await?),
        }
    }

    /// Puts an entry where there is nothing yet; false where there is something. Of several that try at once one succeeds.
    pub(super) async fn create(&self, holder: Holder, entry: &Entry) -> Result<bool, StoreError> {
        match self {
            Self::Folder(folder) => {
                let (folder, entry) = (folder.clone(), entry.clone());
                blocking(move || folder.create(holder, &entry)).await
            }
            Self::Secrets(secrets) => Ok(secrets.create(holder, entry).await?),
        }
    }

    /// Puts an entry in the place of one that was read, or where there was none.
    pub(super) async fn put(
        &self,
        (holder, before): (Holder, Option<&Held>),
        entry: &Entry,
    ) -> Result<Written, StoreError> {
        if before.is_some_and(|before| !before.is_own) {
            return Ok(Written::Foreign);
        }
        let written = match self {
            Self::Folder(folder) => {
                let (folder, entry) = (folder.clone(), entry.clone());
                return blocking(move || folder.replace(holder, &entry)).await;
            }
            Self::Secrets(secrets) => match before.and_then(|before| before.secret.as_ref()) {
                Some(secret) => secrets.replace((holder, secret), entry).await?,
                None => secrets.create(holder, entry).await?,
            },
        };
        Ok(if written { Written::Yes } else { Written::Raced })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FolderError> + Send + 'static,
) -> Result<T, StoreError> {
    Ok(spawn_blocking(work).await.map_err(|_| StoreError::Ended)??)
}
