//! The inputs of a merge at one time: the own cluster's snapshot, and the peers'. Never decides anything from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use mesh_model::address::Address;
use mesh_model::address_policy::AddressPolicy;
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::view::PeerService;

use crate::peers::PeerSet;

pub(super) type PeerServices = OrdMap<ServiceName, Arc<PeerService>>;

/// The peers' part.
#[derive(Clone, Debug, Default)]
pub struct PeerInputs {
    /// Ids that a peer file claims, whatever became of the peer; none while the folder has not been read
    /// completely, and then any cluster may be a peer.
    pub claimed: Option<BTreeSet<ClusterId>>,
    /// The peers of which everything is known.
    pub synced: BTreeMap<ClusterId, PeerServices>,
    /// Each peer's address policy, by its file. It judges also the backends that the maps hold of a peer that is not
    /// synced.
    pub policies: BTreeMap<ClusterId, AddressPolicy>,
    /// The services of which `synced` says whether the peer has them; all where a peer is not among these. Of the peer's
    /// others the backends in the maps stay.
    pub tracked: BTreeMap<ClusterId, OrdSet<ServiceName>>,
}

impl PeerInputs {
    /// The part of the peers that a merge needs.
    pub fn of(set: &PeerSet) -> Self {
        let synced = || {
            let synced = set.peers.values().filter(|peer| peer.snapshot.synced);
            synced.filter_map(|peer| Some((peer.file.as_ref()?.id, &peer.snapshot)))
        };
        let policies = set.peers.values();
        let policies = policies.filter_map(|peer| Some((peer.file.as_ref()?.id, peer.policy.clone()?)));
        Self {
            claimed: set.claimed.clone(),
            synced: synced().map(|(id, snapshot)| (id, snapshot.services.clone())).collect(),
            policies: policies.collect(),
            tracked: synced().filter_map(|(id, snapshot)| Some((id, snapshot.tracked.clone()?))).collect(),
        }
    }

    /// Whether everything is known of every peer that there is.
    pub(crate) fn are_all_synced(&self) -> bool {
        let is_synced = |id: &ClusterId| self.synced.contains_key(id);
        self.claimed.as_ref().is_some_and(|claimed| claimed.iter().all(is_synced))
    }

    /// Whether what the maps hold of a cluster stays until the cluster is synced.
    pub(super) fn carries(&self, own: ClusterId, cluster: ClusterId) -> bool {
        let may_be_a_peer = self.claimed.as_ref().is_none_or(|claimed| claimed.contains(&cluster));
        cluster != own && may_be_a_peer && !self.synced.contains_key(&cluster)
    }

    /// Whether nothing is known yet of a peer's service, although the peer is synced.
    pub(super) fn is_unread(&self, cluster: ClusterId, service: &ServiceName) -> bool {
        self.tracked.get(&cluster).is_some_and(|tracked| !tracked.contains(service))
    }

    /// Whether a backend that the maps hold of a cluster that is not synced may stay.
    pub(super) fn allows(&self, cluster: ClusterId, address: Address) -> bool {
        match self.policies.get(&cluster) {
            Some(policy) => policy.check_carried(address.into()).is_ok(),
            None => true,
        }
    }
}

/// All inputs at one time.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) local: Arc<ClusterSnapshot>,
    pub(super) peers: PeerInputs,
}

impl Observed {
    /// The service at the peers that have it.
    pub(super) fn offers(&self, name: &ServiceName) -> Vec<(ClusterId, Arc<PeerService>)> {
        let peers = self.peers.synced.iter();
        peers.filter_map(|(id, services)| Some((*id, services.get(name)?.clone()))).collect()
    }

    /// Whether both know the same clusters, by the same policies.
    pub(super) fn has_the_clusters_of(&self, other: &Self) -> bool {
        self.peers.claimed == other.peers.claimed
            && self.peers.synced.keys().eq(other.peers.synced.keys())
            && self.peers.policies == other.peers.policies
    }
}
