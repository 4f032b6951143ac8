//! Where peer files are kept: a folder, or a Secret of the own namespace. One format in both.

mod secret;

use std::path::{Path, PathBuf};

use mesh_admin::cluster::{PeerDocument, PeerEntry};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_peers::folder::{self, FolderProblem, FolderReading};
use mesh_peers::write::{self, WriteError};
use mesh_peers::{PeerFile, PeerFileError};
use mesh_secrets::SecretsError;
use tokio::task::spawn_blocking;

pub(crate) use secret::PeerSecret;

use crate::certificates::Peers;

/// Why peer files can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the peer files can't be read completely, so nobody knows whom another one would collide with")]
    Incomplete(#[source] FolderProblem),
    #[error(
        "peers folder {} is a mounted Secret, which nobody can write through: name the Secret with --peers-secret",
        .0.display()
    )]
    Mounted(PathBuf),
    #[error("the peer file can't be written")]
    Write(#[from] WriteError),
    #[error("the peer files can't be read or written")]
    Secret(#[from] SecretsError),
    #[error(
        "{key} in the Secret {secret} is somebody else's ({whose}): change it there, or remove it there first"
    )]
    Foreign { secret: String, key: String, whose: String },
    #[error(
        "the Secret {secret} is not there, so nobody knows which peers it had: create it, without keys if there are none"
    )]
    Missing { secret: String },
    #[error("the process is stopping")]
    Stopping,
}

/// Where peer files are.
#[derive(Clone, Debug)]
pub(crate) enum PeerStore {
    Folder(PathBuf),
    Secret(PeerSecret),
}

/// What the store holds at one moment.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) files: Vec<PeerFile>,
    refused: Vec<PeerFileError>,
}

impl Stored {
    pub(crate) fn entries(&self) -> Vec<PeerEntry> {
        let files = self.files.iter().map(|file| PeerEntry {
            name: file.name.to_string(),
            file: Some(document(file)),
            reason: None,
        });
        let refused = self.refused.iter().map(|error| PeerEntry {
            name: error.file.rsplit_once('.').map_or(error.file.as_str(), |(stem, _)| stem).into(),
            file: None,
            reason: Some(mesh_failure::chain(error)),
        });
        let mut entries: Vec<PeerEntry> = files.chain(refused).collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        entries
    }

    pub(crate) fn peers(self) -> Peers {
        let named = |entry: PeerEntry| Some((ClusterName::new(&entry.name).ok()?, entry.reason?));
        let refused = self.entries().into_iter().filter_map(named).collect();
        Peers { files: self.files, refused }
    }
}

/// A peer file as it is shown.
fn document(file: &PeerFile) -> PeerDocument {
    PeerDocument {
        id: file.id,
        endpoints: file.endpoints.iter().map(ToString::to_string).collect(),
        ranges: file.ranges.clone(),
        trust: file.trust.as_deref().map(Into::into),
    }
}

impl PeerStore {
    /// As [`mesh_admin::cluster::Cluster::peers_store`] says it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Folder(folder) => format!("folder {}", folder.display()),
            Self::Secret(secret) => format!("secret {}", secret.name),
        }
    }

    /// All peer files. `name` and `id` are this cluster's, which no file may claim.
    pub(crate) async fn read(&self, name: &ClusterName, id: ClusterId) -> Result<Stored, StoreError> {
        match self {
            Self::Folder(folder) => {
                let (folder, name) = (folder.clone(), name.clone());
                blocking(move || read(&folder, &name, id)).await
            }
            Self::Secret(secret) => secret.read(name, id).await,
        }
    }

    /// Puts a file there, or in the place of the one that is.
    pub(crate) async fn put(&self, file: PeerFile) -> Result<(), StoreError> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || {
                    writable(&folder)?;
                    write::write(&folder, &file)?;
                    Ok(())
                })
                .await
            }
            Self::Secret(secret) => secret.put(&file).await,
        }
    }

    /// Removes the file of a peer; false where there is none.
    pub(crate) async fn remove(&self, name: &ClusterName) -> Result<bool, StoreError> {
        match self {
            Self::Folder(folder) => {
                let (folder, name) = (folder.clone(), name.clone());
                blocking(move || {
                    writable(&folder)?;
                    Ok(write::remove(&folder, &name)?)
                })
                .await
            }
            Self::Secret(secret) => secret.remove(name).await,
        }
    }
}

/// Does what may wait for a disk.
async fn blocking<T: Send + 'static>(
    action: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(action).await.unwrap_or(Err(StoreError::Stopping))
}

impl From<FolderReading> for Stored {
    fn from(reading: FolderReading) -> Self {
        let mut stored = Self { refused: reading.misnamed, ..Self::default() };
        for outcome in reading.peers.into_values() {
            match outcome {
                Ok(file) => stored.files.push(file),
                Err(error) => stored.refused.push(error),
            }
        }
        stored
    }
}

fn read(folder: &Path, name: &ClusterName, id: ClusterId) -> Result<Stored, StoreError> {
    let reading = folder::read(folder, name, id);
    match &reading.problem {
        Some(problem) => Err(StoreError::Incomplete(problem.clone())),
        None => Ok(reading.into()),
    }
}

fn writable(folder: &Path) -> Result<(), StoreError> {
    match folder.join("..data").symlink_metadata() {
        Ok(_) => Err(StoreError::Mounted(folder.into())),
        Err(_) => Ok(()),
    }
}
