//! Which clusters' backends serve a frontend, in which tier and with which weight.

use std::collections::BTreeMap;

use crate::annotation::Affinity;
use crate::desired::{BackendState, DesiredBackend, DesiredGroup, MAX_GROUPS};
use crate::hash::{fnv1a, mix};
use crate::name::{ClusterId, ServiceName};

/// What one cluster offers to a frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    backends: Vec<DesiredBackend>,
    /// `None`: the number of backends used.
    weight: Option<u32>,
}

impl Candidate {
    pub fn new(backends: Vec<DesiredBackend>, weight: Option<u32>) -> Self {
        Self { backends, weight }
    }

    pub(crate) fn extend(&mut self, backends: impl Iterator<Item = DesiredBackend>) {
        self.backends.extend(backends);
    }

    pub(crate) fn has_active(&self) -> bool {
        self.backends.iter().any(|backend| backend.state == BackendState::Active)
    }

    /// The group of those backends that are in `state`, each once, or `None` if there are none.
    fn into_group(self, cluster: ClusterId, tier: u8, state: BackendState) -> Option<DesiredGroup> {
        let mut backends = self.backends;
        // Active sorts before terminating, so the better state of one backend is the one that stays.
        backends.sort_unstable();
        backends.dedup_by_key(|backend| (backend.address, backend.port));
        backends.retain(|backend| backend.state == state);
        if backends.is_empty() {
            return None;
        }
        let weight = self.weight.unwrap_or_else(|| u32::try_from(backends.len()).unwrap_or(u32::MAX));
        Some(DesiredGroup { cluster, tier, weight, backends })
    }
}

/// The groups of a frontend, and whose found no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Sorted by tier, then cluster.
    pub groups: Vec<DesiredGroup>,
    /// Sorted.
    pub left_out: Vec<ClusterId>,
}

/// The tier of a cluster: 0 is preferred.
pub fn tier(affinity: Affinity, own: ClusterId, cluster: ClusterId) -> u8 {
    match affinity {
        Affinity::None => 0,
        Affinity::Local => u8::from(cluster != own),
        Affinity::Remote => u8::from(cluster == own),
    }
}

/// Whose backends a frontend takes, and in which order.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    pub affinity: Affinity,
    pub own: ClusterId,
    pub service: &'a ServiceName,
}

impl Choice<'_> {
    /// Groups the active backends; only when no cluster has one, those that serve and terminate. Of more than
    /// [`MAX_GROUPS`] groups the own cluster's stays, then those of the lowest tier, and among these the first by a hash
    /// of service and cluster: the same on every node, whatever the number of backends, and for each service others.
    pub fn select(self, candidates: BTreeMap<ClusterId, Candidate>) -> Selected {
        let state = if candidates.values().any(Candidate::has_active) {
            BackendState::Active
        } else {
            BackendState::Terminating
        };
        let groups = candidates.into_iter().filter_map(|(cluster, candidate)| {
            candidate.into_group(cluster, tier(self.affinity, self.own, cluster), state)
        });
        let mut groups: Vec<DesiredGroup> = groups.collect();
        let mut left_out = Vec::new();
        if groups.len() > MAX_GROUPS {
            groups.sort_by_cached_key(|group| self.place(group));
            left_out.extend(groups.drain(MAX_GROUPS..).map(|group| group.cluster));
            left_out.sort_unstable();
        }
        groups.sort_by_key(|group| (group.tier, group.cluster));
        Selected { groups, left_out }
    }

    fn place(self, group: &DesiredGroup) -> (bool, u8, u64, ClusterId) {
        (group.cluster != self.own, group.tier, hash(self.service, group.cluster), group.cluster)
    }
}

/// Over the name and the id. Never changes: all nodes have to agree, also while some of them are upgraded.
fn hash(service: &ServiceName, cluster: ClusterId) -> u64 {
    let name = fnv1a(service.as_str().bytes());
    mix(name.wrapping_add(u64::from(cluster.value()).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}
