//! The peer clusters: which there are (`folder`) and what each of them says (`peer`).
//!
//! Publishes one value, [`PeerSet`]; never touches the datapath.

pub(crate) mod credentials;
pub mod folder;
pub mod metrics;
mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdSet;
use mesh_admin::api::{Peer, PeerCut, PeerState, RangesOrigin};
use mesh_model::address_policy::AddressPolicy;
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::view::{Cut, PeerSnapshot};
use mesh_peers::PeerFile;

use crate::admin::answers::PeerRows;

/// All peers at one moment.
#[derive(Clone, Debug, Default)]
pub struct PeerSet {
    /// Ids that peer files claim; none while the folder has not been read completely.
    pub claimed: Option<BTreeSet<ClusterId>>,
    pub peers: BTreeMap<ClusterName, PeerStatus>,
    /// Files that name no peer, and why.
    pub misnamed: Vec<(String, String)>,
    /// Why the folder could not be read completely, and since when.
    pub problem: Option<String>,
}

/// One peer at one moment.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The last good content of its file.
    pub file: Option<Arc<PeerFile>>,
    /// Why its file is refused as it is now.
    pub file_error: Option<String>,
    /// Since when the last good content has stood in for a file that is refused; seconds since the epoch.
    pub kept_since: Option<u64>,
    /// The id that a refused file claims.
    pub refused_id: Option<ClusterId>,
    /// Which addresses its backends may have, by the file and this cluster's own ranges.
    pub policy: Option<AddressPolicy>,
    pub link: Link,
    pub snapshot: Arc<PeerSnapshot>,
}

/// The connection to a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub phase: Phase,
    pub endpoint: Option<String>,
    /// Everything is known up to this etcd revision.
    pub revision: Option<i64>,
    /// Why the connection was lost.
    pub reason: Option<String>,
    /// Since when changes of the peer may be missed, although all was known before: seconds since the epoch.
    pub stale_since: Option<u64>,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Connecting,
    Listing,
    /// Listed and followed, but the peer's exporter has not finished its own first export.
    Waiting,
    Following,
    Lost,
}

impl PeerStatus {
    /// The state of the peer, and its cause where that is not obvious.
    pub fn state(&self) -> (PeerState, Option<String>) {
        if self.file.is_none() {
            return (PeerState::Refused, self.file_error.clone());
        }
        if let Some(rejection) = &self.snapshot.refused {
            return (PeerState::Refused, Some(rejection.to_string()));
        }
        let state = match self.link.phase {
            Phase::Connecting => PeerState::Connecting,
            Phase::Listing | Phase::Waiting => PeerState::Listing,
            Phase::Following => PeerState::Synced,
            Phase::Lost => PeerState::Disconnected,
        };
        let waiting = (self.link.phase == Phase::Waiting).then(|| self.waits_for().to_owned());
        // Neither hides the other.
        let reasons: Vec<String> =
            self.link.reason.clone().or(waiting).into_iter().chain(self.file_error.clone()).collect();
        (state, (!reasons.is_empty()).then(|| reasons.join("; ")))
    }

    /// The reason why a peer that is followed does not count as known.
    fn waits_for(&self) -> &'static str {
        let nothing_asked = self.snapshot.tracked.as_ref().is_some_and(OrdSet::is_empty);
        if nothing_asked {
            "its clustermesh-apiserver has not finished its first export, or this cluster's own source its first list"
        } else {
            "its clustermesh-apiserver has not finished its first export"
        }
    }

    /// Takes what a task knows of the peer. A task that has just begun, because the file was edited, knows nothing:
    /// until the peer is synced, what an earlier one learnt of the same cluster stays.
    pub(crate) fn learn(&mut self, snapshot: Arc<PeerSnapshot>) {
        let known = &self.snapshot;
        self.snapshot = if snapshot.synced || !known.synced {
            snapshot
        } else {
            Arc::new(PeerSnapshot {
                cluster: snapshot.cluster.clone().or_else(|| known.cluster.clone()),
                synced: true,
                services: known.services.clone(),
                endpoints: known.endpoints,
                faults: known.faults.clone(),
                tracked: known.tracked.clone(),
                cuts: known.cuts.clone(),
                ..(*snapshot).clone()
            })
        };
    }

    /// The peer in the words of the admin API.
    pub fn row(&self, name: &ClusterName) -> Peer {
        let (state, reason) = self.state();
        let file = self.file.as_ref();
        let declared = |file: &Arc<PeerFile>| {
            let declared = matches!(file.ranges, mesh_model::address_policy::PeerRanges::Declared(_));
            if declared { RangesOrigin::Declared } else { RangesOrigin::Agreed }
        };
        let endpoints = file.map(|file| file.endpoints.iter().map(ToString::to_string).collect());
        Peer {
            name: name.to_string(),
            id: file.map(|file| file.id).or(self.refused_id),
            state,
            reason,
            kept_since_unix_us: self.kept_since.map(|seconds| seconds.saturating_mul(1_000_000)),
            endpoints: endpoints.unwrap_or_default(),
            stale_since_unix_us: self.link.stale_since.map(|seconds| seconds.saturating_mul(1_000_000)),
            endpoint: self.link.endpoint.clone(),
            revision: self.link.revision,
            incarnation: self.snapshot.incarnation().map(ToOwned::to_owned),
            ranges: file.map(declared),
            services: self.snapshot.services.len(),
            backends: self.snapshot.endpoints,
            rejected: self.snapshot.rejected_total(),
            rejections: self.snapshot.recent_rejections.iter().map(ToString::to_string).collect(),
            memory_bytes: self.snapshot.bytes,
            cuts: self.snapshot.cuts.iter().map(cut).collect(),
        }
    }
}

fn cut(cut: &Cut) -> PeerCut {
    PeerCut {
        quota: cut.excess.as_str().into(),
        allowed: cut.allowed,
        from: cut.from.clone(),
        reason: cut.to_string(),
    }
}

impl PeerSet {
    /// Peers that count although the folder or their file can't be read as it is now, and since when; one line each.
    pub fn kept(&self) -> Vec<String> {
        let kept = self.peers.values().filter(|peer| peer.kept_since.is_some());
        self.problem.iter().cloned().chain(kept.filter_map(|peer| peer.file_error.clone())).collect()
    }

    /// Names by id.
    pub(crate) fn names(&self) -> impl Iterator<Item = (ClusterId, ClusterName)> + '_ {
        self.peers.iter().filter_map(|(name, peer)| Some((peer.file.as_ref()?.id, name.clone())))
    }

    /// The peers in the words of the admin API; files that name no peer among them.
    pub fn rows(&self) -> Vec<Peer> {
        let misnamed = self.misnamed.iter().map(|(file, reason)| Peer {
            name: file.clone(),
            id: None,
            state: PeerState::Refused,
            reason: Some(reason.clone()),
            kept_since_unix_us: None,
            stale_since_unix_us: None,
            endpoints: Vec::new(),
            endpoint: None,
            revision: None,
            incarnation: None,
            ranges: None,
            services: 0,
            backends: 0,
            rejected: 0,
            rejections: Vec::new(),
            memory_bytes: 0,
            cuts: Vec::new(),
        });
        self.peers.iter().map(|(name, peer)| peer.row(name)).chain(misnamed).collect()
    }
}

impl PeerRows for tokio::sync::watch::Receiver<Arc<PeerSet>> {
    fn rows(&self) -> Vec<Peer> {
        self.borrow().rows()
    }
}
