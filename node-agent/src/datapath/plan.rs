//! Desired frontends in, ordered writes out.
//!
//! A plan is safe at every prefix, also for a program in the middle of a lookup: backends come first, then
//! slots, then the service entries that lead to them, then deletions. What a plan no longer needs ([`Freed`])
//! may be used again only after a grace period: until then an old entry still leads to it.

use hashbrown::HashMap;
use mesh_abi::{BackendEntry, FLAG_CANARY, FLAG_PLAIN_OK, ServiceEntry, ServiceKey, SlotEntry, Stamp};
use mesh_model::desired::{DesiredService, Frontend};
use mesh_model::name::ServiceName;

use super::actual::{Actual, CANARY, Held, protocol_number, service_key};
use super::extents::Extent;
use super::members::{Target, backend_key, fits};

/// Writes in the order of the fields, each list in any order.
#[derive(Debug, Default)]
pub struct Plan {
    pub backends: Vec<(u32, BackendEntry)>,
    pub slots: Vec<(u32, SlotEntry)>,
    pub services: Vec<(ServiceKey, ServiceEntry)>,
    pub deleted: Vec<ServiceKey>,
    /// Counters that begin again at zero, before the services that use them.
    pub fresh_counters: Vec<u32>,
    /// To be released after a grace period.
    pub freed: Freed,
    /// Frontends that keep what they have because there is no room for what is desired.
    pub refused: Vec<(Frontend, Shortage)>,
}

/// Which map has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    #[error("map SERVICES has no room for another frontend: raise --max-services")]
    Services,
    #[error("map SLOTS has no room for the group's backends: raise --max-slots")]
    Slots,
    #[error("map BACKENDS has no room for another backend: raise --max-backends")]
    Backends,
}

/// What waits for its grace period.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Freed {
    pub(super) backends: Vec<u32>,
    pub(super) extents: Vec<Extent>,
    services: Vec<u32>,
    pub(super) counters: Vec<u32>,
}

impl Freed {
    /// Backend ids that nobody uses.
    pub fn of_backends(backends: Vec<u32>) -> Self {
        Self { backends, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn append(&mut self, mut other: Self) {
        self.backends.append(&mut other.backends);
        self.extents.append(&mut other.extents);
        self.services.append(&mut other.services);
        self.counters.append(&mut other.counters);
    }
}

impl Plan {
    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes() == 0
    }

    /// Number of map elements to write or delete.
    pub fn writes(&self) -> usize {
        self.backends.len() + self.slots.len() + self.services.len() + self.deleted.len()
    }
}

impl Actual {
    /// Plans the way to the desired state of the given frontends; `None` deletes one. Changes the mirror as if
    /// the plan were carried out.
    pub fn plan(&mut self, changes: &[(Frontend, Option<DesiredService>)]) -> Plan {
        let mut plan = Plan::default();
        self.plan_into(changes, &mut plan);
        plan
    }

    /// The same, behind what is planned already.
    pub fn plan_into(&mut self, changes: &[(Frontend, Option<DesiredService>)], plan: &mut Plan) {
        // Deletions first: what they free is not free before a grace period, but their frontends are.
        for (frontend, _) in changes.iter().filter(|(_, desired)| desired.is_none()) {
            self.plan_deletion(frontend, plan);
        }
        for (frontend, desired) in changes {
            let Some(desired) = desired else { continue };
            if let Err(shortage) = self.plan_service(frontend, desired, plan) {
                plan.refused.push((*frontend, shortage));
            }
        }
    }

    /// Plans the canary's entry, which never changes.
    pub fn plan_canary(&mut self) -> Plan {
        let mut plan = Plan::default();
        if self.services.get(&CANARY).is_some_and(|held| !held.damaged) {
            return plan;
        }
        let (mut stamp, groups) = match self.services.remove(&CANARY) {
            Some(held) => (held.stamp, held.groups),
            None => (Stamp { id: self.service_ids.take().unwrap_or(u32::MAX), generation: 0 }, Vec::new()),
        };
        stamp.generation = stamp.generation.wrapping_add(1);
        groups.into_iter().for_each(|group| self.drop_group(group, &mut plan));
        let held = Held {
            stamp,
            flags: FLAG_CANARY,
            service: None,
            port_name: None,
            groups: Vec::new(),
            damaged: false,
        };
        plan.services.push((service_key(&CANARY), held.entry(&CANARY)));
        self.services.insert(CANARY, held);
        plan
    }

    /// A grace period has passed since the plans that freed these. Gives the backend entries to clear.
    pub fn release(&mut self, freed: Freed) -> Vec<(u32, BackendEntry)> {
        for extent in freed.extents {
            self.extents.release(extent);
        }
        for id in freed.services {
            self.service_ids.release(id);
        }
        for id in freed.counters {
            self.counters.release(id);
        }
        freed.backends.into_iter().filter_map(|id| Some((id, self.backends.release(id)?))).collect()
    }

    /// The services that own the given frontends in the mirror.
    pub fn owner(&self, frontend: &Frontend) -> Option<&ServiceName> {
        self.services.get(frontend)?.service.as_ref()
    }

    fn plan_deletion(&mut self, frontend: &Frontend, plan: &mut Plan) {
        let Some(held) = self.services.remove(frontend) else { return };
        self.namings += 1;
        plan.deleted.push(service_key(frontend));
        plan.freed.services.push(held.stamp.id);
        for group in held.groups {
            self.drop_group(group, plan);
        }
    }

    fn plan_service(
        &mut self,
        frontend: &Frontend,
        desired: &DesiredService,
        plan: &mut Plan,
    ) -> Result<(), Shortage> {
        let extents = self.make_room(frontend, desired)?;
        let held = self.services.remove(frontend);
        let named = |held: &Held| {
            held.service.as_ref() == Some(&desired.service) && held.port_name == desired.port_name
        };
        self.namings += u64::from(!held.as_ref().is_some_and(named));
        let before = held.as_ref().filter(|held| !held.damaged).map(|held| held.entry(frontend));
        let (stamp, mut old_groups) = match held {
            Some(held) => (held.stamp, held.groups),
            None => (Stamp { id: self.service_ids.take().unwrap_or(u32::MAX), generation: 0 }, Vec::new()),
        };
        let mut groups = Vec::with_capacity(desired.groups.len());
        for (group, extent) in desired.groups.iter().zip(extents) {
            let old = old_groups.iter().position(|old| old.cluster == group.cluster);
            let old = old.map(|index| old_groups.swap_remove(index));
            let target = Target { service: stamp.id, protocol: protocol_number(frontend.protocol), group };
            groups.push(self.plan_group(&target, old, extent, plan));
        }
        for group in old_groups {
            self.drop_group(group, plan);
        }
        let mut held = Held {
            stamp,
            flags: if desired.plain_ok { FLAG_PLAIN_OK } else { 0 },
            service: Some(desired.service.clone()),
            port_name: desired.port_name.clone(),
            groups,
            damaged: false,
        };
        if before != Some(held.entry(frontend)) {
            held.stamp.generation = held.stamp.generation.wrapping_add(1);
            plan.services.push((service_key(frontend), held.entry(frontend)));
        }
        self.services.insert(*frontend, held);
        Ok(())
    }

    /// Takes the extents that the desired groups need anew (`None` where the old one serves), or says which
    /// map is too small and takes nothing.
    fn make_room(
        &mut self,
        frontend: &Frontend,
        desired: &DesiredService,
    ) -> Result<Vec<Option<Extent>>, Shortage> {
        let held = self.services.get(frontend);
        let limit = usize::try_from(self.capacity.services).unwrap_or(usize::MAX);
        if held.is_none() && self.services.len() >= limit {
            return Err(Shortage::Services);
        }
        // Counting what is new exactly would cost a lookup for each backend twice; that is only paid when it
        // gets tight.
        let wanted: usize = desired.groups.iter().map(|group| group.backends.len()).sum();
        if wanted > self.backends.room() && self.new_backends(frontend, desired) > self.backends.room() {
            return Err(Shortage::Backends);
        }
        // The slots of a damaged entry are not what the mirror says, so none of them serves.
        let sound = held.filter(|held| !held.damaged);
        let current: HashMap<_, _> =
            sound.iter().flat_map(|held| &held.groups).map(|group| (group.cluster, group.extent)).collect();
        let mut taken: Vec<Option<Extent>> = Vec::with_capacity(desired.groups.len());
        for group in &desired.groups {
            let count = u32::try_from(group.backends.len()).unwrap_or(u32::MAX);
            if current.get(&group.cluster).is_some_and(|extent| fits(*extent, count)) {
                taken.push(None);
                continue;
            }
            let Some(extent) = self.extents.allocate(count) else {
                taken.into_iter().flatten().for_each(|extent| self.extents.release(extent));
                return Err(Shortage::Slots);
            };
            taken.push(Some(extent));
        }
        Ok(taken)
    }

    fn new_backends(&self, frontend: &Frontend, desired: &DesiredService) -> usize {
        let protocol = protocol_number(frontend.protocol);
        let keys = desired.groups.iter().flat_map(|group| {
            group.backends.iter().map(move |backend| backend_key(group.cluster, backend, protocol))
        });
        keys.filter(|key| self.backends.find(key).is_none()).count()
    }
}
