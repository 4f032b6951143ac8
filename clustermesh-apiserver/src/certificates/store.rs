//! Where certificates are kept: in a folder, or in Kubernetes Secrets. Both alike for whoever keeps them.

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

/// A certificate as it is stored.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) pair: Issued,
    /// Whom its holder trusts within the cluster, as PEM.
    pub(super) trust: String,
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

    /// Puts a pair where there is nothing yet; false where there is something. Of several that try at once one succeeds.
    pub(super) async fn create(
        &self,
        holder: Holder,
        pair: &Issued,
        trust: &str,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Folder(folder) => {
                let (folder, pair, trust) = (folder.clone(), pair.clone(), trust.to_owned());
                blocking(move || folder.create(holder, &pair, &trust)).await
            }
            Self::Secrets(secrets) => Ok(secrets.create(holder, pair, trust).await?),
        }
    }

    /// Puts a pair in the place of one that was read, or where there was none.
    pub(super) async fn put(
        &self,
        (holder, before): (Holder, Option<&Held>),
        pair: &Issued,
        trust: &str,
    ) -> Result<Written, StoreError> {
        if before.is_some_and(|before| !before.is_own) {
            return Ok(Written::Foreign);
        }
        let written = match self {
            Self::Folder(folder) => {
                let (folder, pair, trust) = (folder.clone(), pair.clone(), trust.to_owned());
                return blocking(move || folder.replace(holder, &pair, &trust)).await;
            }
            Self::Secrets(secrets) => match before.and_then(|before| before.secret.as_ref()) {
                Some(secret) => secrets.replace((holder, secret), pair, trust).await?,
                None => secrets.create(holder, pair, trust).await?,
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
