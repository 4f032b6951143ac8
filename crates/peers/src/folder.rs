//! The folder of peer files: what it says at one moment. What follows from that is told by [`Peers`].
//!
//! Never watches the folder: see [`crate::FolderWatch`].

mod peers;

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mesh_model::name::{ClusterId, ClusterName};
use serde::{Deserialize, Serialize};

use crate::content::{contents, text};
use crate::file::{PeerFile, PeerFileError, Problem};

pub use peers::{Now, Peer, Peers, PeersChange, Remembered};

/// Why a folder could not be read completely.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FolderProblem {
    #[error("peers folder {folder} can't be read ({reason}); make it a folder that this process may read")]
    Unreadable { folder: String, reason: String },
    #[error(
        "peers folder {folder} is a Secret mount without ..data; wait for the kubelet, or mount it again"
    )]
    NotMounted { folder: String },
    #[error(
        "peers folder {folder} was replaced by an empty one; mount it again, or if all peers left, restart without the \
         file `peers` below --state-dir"
    )]
    Replaced { folder: String },
}

/// Which folder it was, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FolderIdentity {
    device: u64,
    inode: u64,
}

/// What a folder says at one moment.
#[derive(Clone, Debug)]
pub struct FolderReading {
    /// None where the folder was read completely.
    pub problem: Option<FolderProblem>,
    pub peers: BTreeMap<ClusterName, Result<PeerFile, PeerFileError>>,
    /// Files whose stem is no cluster name.
    pub misnamed: Vec<PeerFileError>,
    folder: String,
    identity: Option<FolderIdentity>,
    /// Whether it is laid out like a Secret mount.
    is_secret: bool,
}

impl FolderReading {
    pub(crate) fn is_complete(&self) -> bool {
        self.problem.is_none()
    }
}

/// Reads a folder of peer files. `own_name` and `own_id` are this cluster's, which no file may claim.
pub fn read(folder: &Path, own_name: &ClusterName, own_id: ClusterId) -> FolderReading {
    let mut reading = FolderReading::of(folder.display().to_string());
    let files = match list(folder, &mut reading) {
        Ok(files) => files,
        Err(error) => {
            let reason = error.to_string();
            reading.problem = Some(FolderProblem::Unreadable { folder: reading.folder.clone(), reason });
            return reading;
        }
    };
    // The kubelet swaps ..data; without it the files are dangling links, or not there yet.
    if reading.is_secret && !folder.join("..data").is_dir() {
        reading.problem = Some(FolderProblem::NotMounted { folder: reading.folder.clone() });
        return reading;
    }
    for file in files {
        reading.take(&file, contents(&folder.join(&file)), own_name);
    }
    reading.refuse_ids(own_id);
    reading
}

/// Reads peer files that are the keys of something else than a folder, by the rules of one.
pub fn read_keys<'a>(
    keys: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    own_name: &ClusterName,
    own_id: ClusterId,
) -> FolderReading {
    let mut reading = FolderReading::of(String::new());
    let mut files: Vec<_> = keys.into_iter().filter(|(key, _)| is_peer_file(key)).collect();
    files.sort_unstable();
    for (key, content) in files {
        reading.take(key, text(content.to_vec()), own_name);
    }
    reading.refuse_ids(own_id);
    reading
}

/// The names of all files that may be peer files, sorted; also finds out what kind of folder it is.
fn list(folder: &Path, reading: &mut FolderReading) -> std::io::Result<Vec<String>> {
    let metadata: Metadata = fs::metadata(folder)?;
    reading.identity = Some(FolderIdentity { device: metadata.dev(), inode: metadata.ino() });
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // What is no text can't be a cluster's name either.
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let links_to_data = fs::read_link(&path).is_ok_and(|target| target.starts_with("..data"));
        reading.is_secret |= name.starts_with("..") || links_to_data;
        if is_peer_file(name) {
            files.push(name.to_owned());
        }
    }
    files.sort();
    Ok(files)
}

/// Editors' swap, backup and lock files begin with a dot or `#`, or end otherwise.
fn is_peer_file(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    !name.starts_with(['.', '#']) && matches!(extension, Some("yaml" | "yml" | "json"))
}

impl FolderReading {
    fn of(folder: String) -> Self {
        let (peers, misnamed) = (BTreeMap::new(), Vec::new());
        Self { problem: None, peers, misnamed, folder, identity: None, is_secret: false }
    }

    fn take(&mut self, file: &str, content: Result<String, Problem>, own_name: &ClusterName) {
        let refused = |problem| PeerFileError { file: file.into(), id: None, problem };
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        let name = match ClusterName::new(stem) {
            Ok(name) => name,
            Err(error) => {
                self.misnamed.push(refused(Problem::Name { reason: error.to_string() }));
                return;
            }
        };
        let parsed = content.map_err(refused).and_then(|text| PeerFile::parse(&name, file, &text));
        let id = claimed_id(&parsed);
        let mut outcome = match parsed {
            Ok(_) if name == *own_name => Err(PeerFileError { id, ..refused(Problem::OwnName) }),
            other => other,
        };
        if self.peers.contains_key(&name) {
            let other = format!("another file with the stem {stem}");
            outcome = Err(PeerFileError { id, ..refused(Problem::SameName { other }) });
        }
        self.peers.insert(name, outcome);
    }

    /// Refuses files with this cluster's own id, and all files that share one.
    fn refuse_ids(&mut self, own_id: ClusterId) {
        let mut claims: BTreeMap<ClusterId, Vec<ClusterName>> = BTreeMap::new();
        for (name, outcome) in &self.peers {
            if let Some(id) = claimed_id(outcome) {
                claims.entry(id).or_default().push(name.clone());
            }
        }
        for (id, names) in claims {
            for name in &names {
                let other = names.iter().find(|other| *other != name);
                let problem = match other {
                    _ if id == own_id => Problem::OwnId { id },
                    Some(other) => Problem::SameId { id, other: format!("the file of peer {other}") },
                    None => continue,
                };
                self.refuse(name, id, problem);
            }
        }
    }

    /// Refuses a file that is good in itself.
    fn refuse(&mut self, name: &ClusterName, id: ClusterId, problem: Problem) {
        let file = format!("{name}.yaml");
        if let Some(outcome @ Ok(_)) = self.peers.get_mut(name) {
            *outcome = Err(PeerFileError { file, id: Some(id), problem });
        }
    }
}

fn claimed_id(outcome: &Result<PeerFile, PeerFileError>) -> Option<ClusterId> {
    match outcome {
        Ok(file) => Some(file.id),
        Err(error) => error.id,
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
