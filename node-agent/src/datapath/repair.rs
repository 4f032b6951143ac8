//! What the maps hold, held against the mirror, and what makes them equal again. Pure.
//!
//! Nothing is planned anew: the mirror says what was written, and it is written once more. Slots, ids and extents stay
//! what they are, so at every moment of a repair an entry leads to its own slots.

use mesh_abi::{BackendEntry, STATE_FREE, ServiceEntry, ServiceKey, SlotEntry};
use mesh_model::desired::Frontend;

use super::actual::{Actual, frontend_of, service_key};
use super::plan::Plan;

/// Slots of one frontend that were read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotRange {
    pub first: u32,
    pub count: u32,
}

impl Actual {
    /// All frontends, the canary's among them, in no order.
    pub(crate) fn all_frontends(&self) -> Vec<Frontend> {
        self.services.keys().copied().collect()
    }

    /// Up to `limit` of the slots that the frontend's groups use, from the `from`th on. Empty at their end, and where
    /// nobody knows what they should hold, because a write failed.
    pub(crate) fn slots_of(&self, frontend: &Frontend, from: u32, limit: u32) -> Option<SlotRange> {
        let held = self.services.get(frontend).filter(|held| !held.damaged)?;
        let mut passed = 0;
        for group in &held.groups {
            let len = u32::try_from(group.members.len()).ok()?;
            if from < passed + len {
                let offset = from - passed;
                return Some(SlotRange {
                    first: group.extent.first + offset,
                    count: limit.min(len - offset),
                });
            }
            passed += len;
        }
        None
    }

    /// Plans what makes the frontend's entry as it should be. False where it is.
    pub(crate) fn repair_entry(
        &mut self,
        frontend: &Frontend,
        found: Option<&ServiceEntry>,
        plan: &mut Plan,
    ) -> bool {
        let Some(held) = self.services.get_mut(frontend).filter(|held| !held.damaged) else { return false };
        if found == Some(&held.entry(frontend)) {
            return false;
        }
        held.stamp.generation = held.stamp.generation.wrapping_add(1);
        let entry = held.entry(frontend);
        plan.begin(frontend).service = entry.head.id;
        plan.write_service(frontend, entry);
        true
    }

    /// Plans what makes these slots of the frontend as they should be. Gives how many are not.
    pub(crate) fn repair_slots(
        &self,
        frontend: &Frontend,
        first: u32,
        found: &[SlotEntry],
        plan: &mut Plan,
    ) -> usize {
        let Some(held) = self.services.get(frontend).filter(|held| !held.damaged) else { return 0 };
        let is_inside = |extent: super::extents::Extent| {
            (extent.first..extent.first + extent.capacity()).contains(&first)
        };
        let Some(group) = held.groups.iter().find(|group| is_inside(group.extent)) else { return 0 };
        let offset = usize::try_from(first - group.extent.first).unwrap_or(usize::MAX);
        let wanted = group.members.iter().skip(offset).map(|member| member.id());
        let wanted = wanted.map(|backend| SlotEntry { backend, service: held.stamp.id });
        let wrong = (first..).zip(wanted).zip(found).filter(|((_, wanted), found)| wanted != *found);
        let wrong: Vec<(u32, SlotEntry)> = wrong.map(|(wanted, _)| wanted).collect();
        if !wrong.is_empty() {
            plan.begin(frontend).service = held.stamp.id;
            plan.slots.extend_from_slice(&wrong);
        }
        wrong.len()
    }

    /// Plans what makes backends as they should be. Gives how many are not.
    pub(crate) fn repair_backends(&mut self, first: u32, found: &[BackendEntry], plan: &mut Plan) -> usize {
        let before = plan.backends.len();
        for (id, found) in (first..).zip(found) {
            plan.backends.extend(self.backends.differs(id, found).map(|entry| (id, entry)));
        }
        plan.backends.len() - before
    }

    /// Plans the deletion of keys that the mirror doesn't know. Gives how many there are.
    pub(crate) fn repair_keys(&self, found: &[ServiceKey], plan: &mut Plan) -> usize {
        let is_known = |key: &ServiceKey| {
            frontend_of(key).is_some_and(|frontend| {
                self.services.contains_key(&frontend) && service_key(&frontend) == *key
            })
        };
        let before = plan.deleted.len();
        plan.deleted.extend(found.iter().filter(|key| !is_known(key)));
        plan.deleted.len() - before
    }
}

impl super::backends::Backends {
    /// The entry that should stand under the id, where another one does.
    fn differs(&mut self, id: u32, found: &BackendEntry) -> Option<BackendEntry> {
        if id == 0 || id >= self.end() || self.is_free(id) {
            let epoch = if id == 0 || id >= self.end() { 0 } else { self.epoch(id) };
            return (found.state != STATE_FREE).then(|| BackendEntry { epoch, ..BackendEntry::default() });
        }
        // Where a write failed, what should stand there is known only while somebody uses the backend.
        self.write(id).or_else(|| self.entry(id).filter(|entry| entry != found))
    }
}
