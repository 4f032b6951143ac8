//! Which services have to be planned because what the sources say is another. Pure.

use std::collections::BTreeSet;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, ServiceName};

use super::inputs::PeerInputs;
use super::merger::Merger;

impl Merger {
    pub(super) fn mark_changed<V: PartialEq>(
        &mut self,
        before: &OrdMap<ServiceName, V>,
        after: &OrdMap<ServiceName, V>,
    ) {
        for item in before.diff(after) {
            let (DiffItem::Add(name, _)
            | DiffItem::Remove(name, _)
            | DiffItem::Update { new: (name, _), .. }) = item;
            let here = self.local.as_ref().is_none_or(|local| local.services.contains_key(name));
            if here || self.claims.knows(name) {
                self.dirty.insert(name.clone());
            }
        }
    }

    /// Marks the services of which is known by now whether a peer has them: nothing of theirs is carried any more.
    pub(super) fn mark_read(&mut self, peers: &PeerInputs) {
        for (cluster, tracked) in &peers.tracked {
            let before = self.peers.tracked.get(cluster).cloned().unwrap_or_default();
            for item in before.diff(tracked) {
                if let imbl::ordset::DiffItem::Add(name) = item
                    && self.claims.knows(name)
                {
                    self.dirty.insert(name.clone());
                    self.replanned.insert(name.clone());
                }
            }
        }
    }

    /// Marks the services that carry backends which a changed address policy no longer allows.
    pub(super) fn mark_disallowed(&mut self, peers: &PeerInputs) {
        let changed = |cluster: &ClusterId| self.peers.policies.get(cluster) != peers.policies.get(cluster);
        let carried = |cluster: &ClusterId| peers.carries(self.own, *cluster);
        let clusters: BTreeSet<ClusterId> =
            peers.policies.keys().filter(|cluster| changed(cluster) && carried(cluster)).copied().collect();
        if clusters.is_empty() {
            return;
        }
        let is_bad = |frontend: &Frontend| {
            let groups = self.actual.carried(frontend, |cluster| clusters.contains(&cluster));
            groups.iter().any(|group| {
                group.backends.iter().any(|backend| !peers.allows(group.cluster, backend.address))
            })
        };
        let bad = self.actual.frontends().filter(|(frontend, _)| is_bad(frontend));
        let owners: Vec<_> = bad.filter_map(|(frontend, _)| self.claims.owner(frontend).cloned()).collect();
        self.dirty.extend(owners);
    }

    /// Marks the services that carry groups of clusters that are carried no longer: they are synced, or no
    /// peer file claims them.
    pub(super) fn mark_forgotten(&mut self, peers: &PeerInputs) {
        let before = &self.peers;
        if before.claimed == peers.claimed && before.synced.keys().eq(peers.synced.keys()) {
            return;
        }
        let forgotten =
            |cluster: ClusterId| self.peers.carries(self.own, cluster) && !peers.carries(self.own, cluster);
        let frontends = self.actual.frontends();
        let stale = frontends.filter(|(_, held)| held.groups.iter().any(|group| forgotten(group.cluster)));
        let owners = stale.filter_map(|(frontend, _)| self.claims.owner(frontend).cloned());
        let owners: Vec<_> = owners.collect();
        self.dirty.extend(owners);
    }
}
