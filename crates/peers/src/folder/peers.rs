//! What follows from a folder of peer files for the peers known, over any number of readings, and over restarts.
//!
//! Owns the rule that ignorance removes nobody: a folder that is missing, unreadable or another one than before
//! and empty, a Secret mount without `..data`, a file that broke or was emptied, whether this process has seen it
//! good or one before it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mesh_model::name::{ClusterId, ClusterName};
use serde::{Deserialize, Serialize};

use super::{FolderIdentity, FolderProblem, FolderReading};
use crate::content::SETTLE;
use crate::file::{PeerFile, PeerFileError, Problem};

/// Editors and copies remove a file before they write it again.
pub(super) const REMOVAL_GRACE: Duration = Duration::from_secs(1);
/// How long a writer may have a file open until that is told.
pub(super) const HELD: Duration = Duration::from_secs(10);

/// A moment, as it is measured and as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub instant: Instant,
    /// Since the epoch.
    pub unix_seconds: u64,
}

impl Now {
    pub fn read() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), unix_seconds: since.as_secs() }
    }
}

/// A peer that a file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The last good content of its file, if there ever was one.
    pub file: Option<Arc<PeerFile>>,
    /// Why its file is refused as it is now.
    pub error: Option<PeerFileError>,
    /// Since when the last good content has stood in for a file that is refused; seconds since the epoch.
    pub kept_since: Option<u64>,
}

/// What was known of a folder, for the next process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    peers: BTreeMap<ClusterName, RememberedPeer>,
    identity: Option<FolderIdentity>,
    is_secret: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RememberedPeer {
    /// Of the form of a peer file.
    file: serde_json::Value,
    kept_since: Option<u64>,
}

impl Remembered {
    /// Of the form of the above; another one is not read.
    pub const VERSION: u32 = 1;

    pub fn len(&self) -> usize {
        self.peers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}

/// All peers, over any number of readings.
#[derive(Debug, Default)]
pub struct Peers {
    peers: BTreeMap<ClusterName, Peer>,
    /// What a process before this one knew, until the folder has said something of it.
    remembered: BTreeMap<ClusterName, Peer>,
    missing_since: BTreeMap<ClusterName, Instant>,
    /// Peers whose files somebody has open for writing, and since when.
    open_since: BTreeMap<ClusterName, Instant>,
    identity: Option<FolderIdentity>,
    is_secret: bool,
    /// Whether the folder has ever been read completely.
    complete: bool,
    misnamed: Vec<PeerFileError>,
    problem: Option<FolderProblem>,
    /// What keeps the folder as a whole from being understood, and since when; seconds since the epoch.
    incomplete: Option<(String, u64)>,
}

/// What a reading changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeersChange {
    /// Peers whose content or error is another than before, new ones among them.
    pub changed: Vec<ClusterName>,
    /// Peers whose files are gone from a folder that was read completely.
    pub removed: Vec<ClusterName>,
    /// Whether [`Peers::incomplete`] says something else than before.
    pub is_otherwise_incomplete: bool,
    /// Files have vanished that count as removed once they stay away, or are being written: read again after this time.
    pub read_again_after: Option<Duration>,
}

impl PeersChange {
    fn read_again(&mut self, after: Duration) {
        self.read_again_after = Some(self.read_again_after.map_or(after, |other| other.min(after)));
    }
}

impl Peers {
    /// Begins with what a process before this one knew: it stands in for files that can't be read. A file that was
    /// removed since is not followed. `own_name` and `own_id` are this cluster's, which no peer has.
    pub fn remembering(before: &Remembered, own_name: &ClusterName, own_id: ClusterId) -> Self {
        let mut ids = BTreeSet::from([own_id]);
        let parsed = before.peers.iter().filter_map(|(name, RememberedPeer { file, kept_since })| {
            let file = PeerFile::parse(name, &format!("{name}.yaml"), &file.to_string()).ok()?;
            let is_peer = name != own_name && ids.insert(file.id);
            let peer = Peer { file: Some(Arc::new(file)), error: None, kept_since: *kept_since };
            is_peer.then(|| (name.clone(), peer))
        });
        Self {
            remembered: parsed.collect(),
            identity: before.identity,
            is_secret: before.is_secret,
            ..Self::default()
        }
    }

    /// What the next process shall begin with.
    pub fn known(&self) -> Remembered {
        let peers = self.remembered.iter().chain(&self.peers).filter_map(|(name, peer)| {
            let file = serde_json::to_value(peer.file.as_deref()?).ok()?;
            Some((name.clone(), RememberedPeer { file, kept_since: peer.kept_since }))
        });
        Remembered { peers: peers.collect(), identity: self.identity, is_secret: self.is_secret }
    }

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

    /// What keeps the folder as a whole from being understood, and since when, in seconds since the epoch.
    pub fn incomplete(&self) -> Option<(&str, u64)> {
        self.incomplete.as_ref().map(|(reason, since)| (reason.as_str(), *since))
    }

    /// The ids of all peers that files name, or none while that isn't known for sure: then nobody may be drained. What a
    /// refused file says of its id does not count alone: it may have had another one while it was good.
    pub fn claimed_ids(&self) -> Option<BTreeSet<ClusterId>> {
        let unread = self.open_since.keys().any(|name| !self.peers.contains_key(name));
        if !self.complete || !self.misnamed.is_empty() || unread {
            return None;
        }
        let mut ids = BTreeSet::new();
        for peer in self.peers.values().chain(self.remembered.values()) {
            let refused = peer.error.as_ref().and_then(|error| error.id);
            ids.insert(peer.file.as_ref()?.id);
            ids.extend(refused);
        }
        Some(ids)
    }

    /// Takes a reading made at `now`.
    pub fn update(&mut self, mut reading: FolderReading, now: Now) -> PeersChange {
        let mut change = PeersChange::default();
        self.judge(&mut reading);
        let mut adopted = self.adopt(&reading);
        self.refuse_kept_ids(&mut reading);
        if reading.is_complete() {
            self.complete = true;
            self.open_since.retain(|name, _| reading.peers.contains_key(name));
            self.remove_missing(&reading, now.instant, &mut change);
        }
        for (name, outcome) in reading.peers {
            self.missing_since.remove(&name);
            let is_awaited = self.is_awaited(&name, &outcome, now.instant);
            if is_awaited {
                change.read_again(SETTLE);
            }
            let differs = !is_awaited && self.take(&name, outcome, now);
            if differs | adopted.remove(&name) {
                change.changed.push(name);
            }
        }
        change.changed.extend(adopted);
        self.misnamed = reading.misnamed;
        self.problem = reading.problem;
        change.is_otherwise_incomplete = self.note_incomplete(now.unix_seconds);
        change
    }

    /// Whether the reason is another one than before.
    fn note_incomplete(&mut self, now: u64) -> bool {
        let misnamed = self.misnamed.iter().map(ToString::to_string);
        let reasons: Vec<String> = self.problem.iter().map(ToString::to_string).chain(misnamed).collect();
        let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        let is_other = reason.as_deref() != self.incomplete().map(|(reason, _)| reason);
        if is_other {
            self.incomplete = reason.map(|reason| (reason, now));
        }
        is_other
    }

    /// Finds ignorance that only shows in comparison with earlier readings.
    fn judge(&mut self, reading: &mut FolderReading) {
        if !reading.is_complete() {
            return;
        }
        let is_empty = reading.peers.is_empty() && reading.misnamed.is_empty();
        let folder = || reading.folder.clone();
        if is_empty && self.is_secret && !reading.is_secret {
            reading.problem = Some(FolderProblem::NotMounted { folder: folder() });
        } else if is_empty
            && !reading.is_secret
            && self.identity.is_some_and(|it| Some(it) != reading.identity)
        {
            // An unmounted volume leaves its mount point behind; someone may be about to fill a new folder. Of a Secret
            // it is known that it has no keys.
            reading.problem = Some(FolderProblem::Replaced { folder: folder() });
        } else {
            self.identity = reading.identity;
            self.is_secret = reading.is_secret;
        }
    }

    /// What a process before this one knew stands in for files that can't be read, and for all of a folder that can't. Whether
    /// a file is refused may only show in comparison with others. Returns whose it was.
    fn adopt(&mut self, reading: &FolderReading) -> BTreeSet<ClusterName> {
        let is_missing = |name: &ClusterName| reading.is_complete() && !reading.peers.contains_key(name);
        let (missing, adopted) =
            std::mem::take(&mut self.remembered).into_iter().partition(|(name, _)| is_missing(name));
        self.remembered = missing;
        let names = BTreeMap::keys(&adopted).cloned().collect();
        self.peers.extend(adopted);
        names
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
        let known = self.peers.iter().chain(&self.remembered);
        let missing = known.filter(|(name, _)| !reading.peers.contains_key(*name));
        let missing: Vec<(ClusterName, Option<ClusterId>)> =
            missing.map(|(name, peer)| (name.clone(), peer.file.as_ref().map(|file| file.id))).collect();
        for (name, id) in missing {
            let since = *self.missing_since.entry(name.clone()).or_insert(now);
            let left = REMOVAL_GRACE.saturating_sub(now.saturating_duration_since(since));
            // A renamed peer goes at once: two peers never have one id.
            let renamed = id.is_some_and(|id| reading.peers.values().flatten().any(|file| file.id == id));
            if left.is_zero() || renamed {
                self.peers.remove(&name);
                self.remembered.remove(&name);
                self.missing_since.remove(&name);
                change.removed.push(name);
            } else {
                change.read_again(left);
            }
        }
    }

    /// Whether a file's writer may be done soon; what is known of the peer stays as it is meanwhile.
    fn is_awaited(
        &mut self,
        name: &ClusterName,
        outcome: &Result<PeerFile, PeerFileError>,
        now: Instant,
    ) -> bool {
        if !matches!(outcome, Err(PeerFileError { problem: Problem::BeingWritten, .. })) {
            self.open_since.remove(name);
            return false;
        }
        let since = *self.open_since.entry(name.clone()).or_insert(now);
        now.saturating_duration_since(since) < HELD
    }

    /// Whether something is different now.
    fn take(&mut self, name: &ClusterName, outcome: Result<PeerFile, PeerFileError>, now: Now) -> bool {
        let before = self.peers.get(name);
        let last_good = before.and_then(|peer| peer.file.clone());
        let peer = match outcome {
            Ok(file) => {
                // Equal content keeps its Arc.
                let same = last_good.filter(|last| **last == file);
                Peer { file: Some(same.unwrap_or_else(|| Arc::new(file))), error: None, kept_since: None }
            }
            Err(error) => {
                let since = before.and_then(|peer| peer.kept_since).unwrap_or(now.unix_seconds);
                let kept_since = last_good.is_some().then_some(since);
                Peer { file: last_good, error: Some(error), kept_since }
            }
        };
        let differs = before != Some(&peer);
        self.peers.insert(name.clone(), peer);
        differs
    }
}
