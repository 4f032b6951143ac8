//! Which clusters' backends serve a frontend, in which tier and with which weight.

use std::collections::BTreeMap;

use crate::annotation::Affinity;
use crate::desired::{BackendState, DesiredBackend, DesiredGroup, MAX_GROUPS};
use crate::name::ClusterId;

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

    pub fn has_active(&self) -> bool {
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

/// The groups of a frontend, and how many found no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Sorted by tier, then cluster.
    pub groups: Vec<DesiredGroup>,
    pub left_out: usize,
}

/// The tier of a cluster: 0 is preferred.
pub fn tier(affinity: Affinity, own: ClusterId, cluster: ClusterId) -> u8 {
    match affinity {
        Affinity::None => 0,
        Affinity::Local => u8::from(cluster != own),
        Affinity::Remote => u8::from(cluster == own),
    }
}

/// Groups the active backends; only when no cluster has one, those that serve and terminate. Of more than
/// [`MAX_GROUPS`] groups those of the lowest tier stay, then the largest, then the lowest cluster ids.
pub fn select(affinity: Affinity, own: ClusterId, candidates: BTreeMap<ClusterId, Candidate>) -> Selected {
    let state = if candidates.values().any(Candidate::has_active) {
        BackendState::Active
    } else {
        BackendState::Terminating
    };
    let groups = candidates.into_iter().filter_map(|(cluster, candidate)| {
        candidate.into_group(cluster, tier(affinity, own, cluster), state)
    });
    let mut groups: Vec<DesiredGroup> = groups.collect();
    groups.sort_by_key(|group| (group.tier, std::cmp::Reverse(group.weight), group.cluster));
    let left_out = groups.len().saturating_sub(MAX_GROUPS);
    groups.truncate(MAX_GROUPS);
    groups.sort_by_key(|group| (group.tier, group.cluster));
    Selected { groups, left_out }
}
