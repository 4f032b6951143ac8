//! Where peer files are kept: a folder.

use std::path::{Path, PathBuf};

use mesh_admin::cluster::{PeerDocument, PeerEntry};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_peers::folder::{self, FolderProblem};
use mesh_peers::write::{self, WriteError};
use mesh_peers::{PeerFile, PeerFileError};

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
}

/// Where peer files are.
#[derive(Clone, Debug)]
pub(crate) enum PeerStore {
    Folder(PathBuf),
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
}

/// A peer file as it is shown.
pub(crate) fn document(file: &PeerFile) -> PeerDocument {
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
        }
    }

    /// All peer files. `own` are this cluster's name and id, which no file may claim.
    pub(crate) fn read(&self, (name, id): (&ClusterName, ClusterId)) -> Result<Stored, StoreError> {
        let Self::Folder(folder) = self;
        let reading = folder::read(folder, name, id);
        if let Some(problem) = reading.problem {
            return Err(StoreError::Incomplete(problem));
        }
        let mut stored = Stored { refused: reading.misnamed, ..Stored::default() };
        for outcome in reading.peers.into_values() {
            match outcome {
                Ok(file) => stored.files.push(file),
                Err(error) => stored.refused.push(error),
            }
        }
        Ok(stored)
    }

    /// Puts a file there, or in the place of the one that is.
    pub(crate) fn put(&self, file: &PeerFile) -> Result<(), StoreError> {
        let Self::Folder(folder) = self;
        writable(folder)?;
        write::write(folder, file)?;
        Ok(())
    }

    /// Removes the file of a peer; false where there is none.
    pub(crate) fn remove(&self, name: &ClusterName) -> Result<bool, StoreError> {
        let Self::Folder(folder) = self;
        writable(folder)?;
        Ok(write::remove(folder, name)?)
    }
}

fn writable(folder: &Path) -> Result<(), StoreError> {
    match folder.join("..data").symlink_metadata() {
        Ok(_) => Err(StoreError::Mounted(folder.into())),
        Err(_) => Ok(()),
    }
}
