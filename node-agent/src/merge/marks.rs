//! Takes the sources' state of now, and marks the services that have to be planned because it changed. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::snapshot::ClusterSnapshot;

use super::inputs::{PeerInputs, PeerServices};
use super::merger::Merger;

impl Merger {
    /// Takes the sources' state of now.
    pub(crate) fn observe(&mut self, local: Option<&Arc<ClusterSnapshot>>, peers: &PeerInputs) {
        let Some(local) = local else { return };
        match self.local.take() {
            Some(before) if Arc::ptr_eq(&before, local) => {}
            Some(before) => {
                self.mark_changed(&before.services, &local.services);
                if before.unread != local.unread {
                    self.dirty.extend(local.services.keys().cloned());
                    self.sweep = true;
                }
            }
            None => self.dirty.extend(local.services.keys().cloned()),
        }
        self.local = Some(local.clone());
        self.mark_forgotten(peers);
        self.mark_disallowed(peers);
        self.bound(peers);
        self.mark_read(peers);
        let before = std::mem::replace(&mut self.peers, peers.clone());
        let ids: BTreeSet<_> = before.synced.keys().chain(peers.synced.keys()).collect();
        let nothing = PeerServices::new();
        for id in ids {
            let side = |inputs: &PeerInputs| inputs.synced.get(id).unwrap_or(&nothing).clone();
            self.mark_changed(&side(&before), &side(peers));
        }
    }

    /// The number of peers is that of their files, the same on every node. While the folder can't be read it stays.
    fn bound(&mut self, peers: &PeerInputs) {
        if let Some(claimed) = &peers.claimed {
            let share = self.quotas.while_rewriting(self.actual.capacity(), claimed.len());
            self.actual.bound_peers(self.own, share);
        }
    }

    fn mark_changed<V: PartialEq>(
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
    fn mark_read(&mut self, peers: &PeerInputs) {
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
    fn mark_disallowed(&mut self, peers: &PeerInputs) {
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
    fn mark_forgotten(&mut self, peers: &PeerInputs) {
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
