//! The folder of peer files: what it says now, and what follows from that for the peers known.
//!
//! Owns the rule that ignorance removes nobody: a folder that is missing, unreadable or another one than before
//! and empty, a Secret mount without `..data`, a file that broke or was emptied. Never watches the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_model::name::{ClusterId, ClusterName};

use crate::peer_file::{MAX_FILE_BYTES, PeerFile, PeerFileError, Problem};

/// Editors and copies remove a file before they write it again.
const REMOVAL_GRACE: Duration = Duration::from_secs(1);

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
        "peers folder {folder} was replaced by an empty one; mount it again, or restart if all peers left"
    )]
    Replaced { folder: String },
}

/// Which folder it was, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub fn is_complete(&self) -> bool {
        self.problem.is_none()
    }
}

/// Reads a folder of peer files. `own_name` and `own_id` are this cluster's, which no file may claim.
pub fn read(folder: &Path, own_name: &ClusterName, own_id: ClusterId) -> FolderReading {
    let mut reading = FolderReading {
        problem: None,
        peers: BTreeMap::new(),
        misnamed: Vec::new(),
        folder: folder.display().to_string(),
        identity: None,
        is_secret: false,
    };
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
        reading.take(folder, &file, own_name);
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

fn contents(path: &Path) -> Result<String, Problem> {
    let unreadable = |reason: String| Problem::Unreadable { reason };
    let metadata = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    // Opening a pipe would wait for its writer.
    if !metadata.is_file() {
        return Err(unreadable("it is no plain file".into()));
    }
    let file = fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES { Err(Problem::TooBig) } else { Ok(text) }
}

impl FolderReading {
    fn take(&mut self, folder: &Path, file: &str, own_name: &ClusterName) {
        let refused = |problem| PeerFileError { file: file.into(), id: None, problem };
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        let name = match ClusterName::new(stem) {
            Ok(name) => name,
            Err(error) => {
                self.misnamed.push(refused(Problem::Name { reason: error.to_string() }));
                return;
            }
        };
        let parsed = contents(&folder.join(file))
            .map_err(refused)
            .and_then(|text| PeerFile::parse(&name, file, &text));
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

/// A peer that a file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The last good content of its file, if there ever was one.
    pub file: Option<Arc<PeerFile>>,
    /// Why its file is refused as it is now.
    pub error: Option<PeerFileError>,
}

/// All peers, over any number of readings.
#[derive(Debug, Default)]
pub struct Peers {
    peers: BTreeMap<ClusterName, Peer>,
    missing_since: BTreeMap<ClusterName, Instant>,
    identity: Option<FolderIdentity>,
    is_secret: bool,
    /// Whether the folder has ever been read completely.
    complete: bool,
    misnamed: Vec<PeerFileError>,
    problem: Option<FolderProblem>,
}

/// What a reading changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeersChange {
    /// Peers whose content or error is another than before, new ones among them.
    pub changed: Vec<ClusterName>,
    /// Peers whose files are gone from a folder that was read completely.
    pub removed: Vec<ClusterName>,
    /// Files have vanished that count as removed once they stay away: read again after this time.
    pub read_again_after: Option<Duration>,
}

impl Peers {
    pub fn peers(&self) -> &BTreeMap<ClusterName, Peer> {
        &self.peers
    }

    /// Why the last reading was incomplete.
    pub fn problem(&self) -> Option<&FolderProblem> {
        self.problem.as_ref()
    }

    /// Files whose stem is no cluster name.
    pub fn misnamed(&self) -> &[PeerFileError] {
        &self.misnamed
    }

    /// The ids of all peers that files name, or none while that isn't known for sure: then nobody may be drained.
    pub fn claimed_ids(&self) -> Option<BTreeSet<ClusterId>> {
        if !self.complete || !self.misnamed.is_empty() {
            return None;
        }
        let mut ids = BTreeSet::new();
        for peer in self.peers.values() {
            let refused = peer.error.as_ref().and_then(|error| error.id);
            let good = peer.file.as_ref().map(|file| file.id);
            if good.is_none() && refused.is_none() {
                return None;
            }
            ids.extend(good.into_iter().chain(refused));
        }
        Some(ids)
    }

    /// Takes a reading made at `now`.
    pub fn update(&mut self, mut reading: FolderReading, now: Instant) -> PeersChange {
        self.judge(&mut reading);
        self.refuse_kept_ids(&mut reading);
        let mut change = PeersChange::default();
        if reading.is_complete() {
            self.complete = true;
            self.remove_missing(&reading, now, &mut change);
        }
        for (name, outcome) in reading.peers {
            self.missing_since.remove(&name);
            if self.take(&name, outcome) {
                change.changed.push(name);
            }
        }
        self.misnamed = reading.misnamed;
        self.problem = reading.problem;
        change
    }

    /// Finds ignorance that only shows in comparison with earlier readings.
    fn judge(&mut self, reading: &mut FolderReading) {
        if !reading.is_complete() {
            return;
        }
        let is_empty = reading.peers.is_empty() && reading.misnamed.is_empty();
        if self.is_secret && !reading.is_secret {
            reading.problem = Some(FolderProblem::NotMounted { folder: reading.folder.clone() });
        } else if is_empty && self.identity.is_some() && self.identity != reading.identity {
            // An unmounted volume leaves its mount point behind; someone may be about to fill a new folder.
            reading.problem = Some(FolderProblem::Replaced { folder: reading.folder.clone() });
        } else {
            self.identity = reading.identity;
            self.is_secret = reading.is_secret;
        }
    }

    /// A peer that keeps its last good content keeps its id as well: no other file can have it meanwhile.
    fn refuse_kept_ids(&self, reading: &mut FolderReading) {
        loop {
            let kept = |name: &ClusterName| !matches!(reading.peers.get(name), Some(Ok(_)));
            let held = |(name, peer): (&ClusterName, &Peer)| {
                // A file that is gone from a complete folder holds nothing any more: a peer may be renamed.
                let gone = reading.is_complete() && !reading.peers.contains_key(name);
                let file = peer.file.as_ref().filter(|_| kept(name) && !gone)?;
                Some((file.id, name.clone()))
            };
            let held: BTreeMap<ClusterId, ClusterName> = self.peers.iter().filter_map(held).collect();
            let clash = reading.peers.values().flatten().find_map(|file| {
                let other = held.get(&file.id).filter(|other| **other != file.name)?;
                Some((file.name.clone(), file.id, other.clone()))
            });
            // Each turn refuses one more file.
            let Some((name, id, other)) = clash else { return };
            reading.refuse(
                &name,
                id,
                Problem::SameId { id, other: format!("peer {other}, whose file is refused") },
            );
        }
    }

    fn remove_missing(&mut self, reading: &FolderReading, now: Instant, change: &mut PeersChange) {
        let missing: Vec<ClusterName> =
            self.peers.keys().filter(|name| !reading.peers.contains_key(*name)).cloned().collect();
        for name in missing {
            let since = *self.missing_since.entry(name.clone()).or_insert(now);
            let left = REMOVAL_GRACE.saturating_sub(now.saturating_duration_since(since));
            // A renamed peer goes at once: two peers never have one id.
            let id = self.peers.get(&name).and_then(|peer| peer.file.as_ref()).map(|file| file.id);
            let renamed = id.is_some_and(|id| reading.peers.values().flatten().any(|file| file.id == id));
            if left.is_zero() || renamed {
                self.peers.remove(&name);
                self.missing_since.remove(&name);
                change.removed.push(name);
            } else {
                let soonest = change.read_again_after.map_or(left, |other| other.min(left));
                change.read_again_after = Some(soonest);
            }
        }
    }

    /// Whether something is different now.
    fn take(&mut self, name: &ClusterName, outcome: Result<PeerFile, PeerFileError>) -> bool {
        let before = self.peers.get(name);
        let last_good = before.and_then(|peer| peer.file.clone());
        let peer = match outcome {
            // Equal content keeps its Arc.
            Ok(file) => match last_good.filter(|last| **last == file) {
                Some(last) => Peer { file: Some(last), error: None },
                None => Peer { file: Some(Arc::new(file)), error: None },
            },
            Err(error) => Peer { file: last_good, error: Some(error) },
        };
        let differs = before != Some(&peer);
        self.peers.insert(name.clone(), peer);
        differs
    }
}

#[cfg(test)]
#[path = "peer_folder_tests.rs"]
mod tests;
