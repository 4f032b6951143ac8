//! Desired frontends in, ordered writes out.
//!
//! A plan is safe at every prefix, also for a program in the middle of a lookup: backends come first, then
//! slots, then the service entries that lead to them, then deletions. What a plan no longer needs ([`Retired`])
//! may be used again only once it has been written and a grace period has passed: until then an old entry still leads
//! to it.

use mesh_abi::{
    BackendEntry, FLAG_CANARY, FLAG_PLAIN_OK, ServiceEntry, ServiceKey, SlotEntry, Stamp, TableKey,
};
use mesh_model::desired::{DesiredService, Frontend};
use mesh_model::name::{ClusterId, ServiceName};

use super::actual::{Actual, CANARY, MirrorEntry, MirrorGroup, protocol_number, service_key};
use super::extents::Extent;
use super::members::Target;
use super::parts::{Deleted, Owed, Part, Parts};
use super::shares::{Before, Fitted};

/// Writes in the order of the fields, each list in any order.
#[derive(Debug, Default)]
pub struct Plan {
    pub backends: Vec<(u32, BackendEntry)>,
    pub slots: Vec<(u32, SlotEntry)>,
    pub services: Vec<(ServiceKey, ServiceEntry)>,
    pub deleted: Vec<ServiceKey>,
    /// Counters that begin again at zero, before the services that use them.
    pub fresh_counters: Vec<u32>,
    /// Frontends that are not as desired, because there is no room for all of it.
    pub refused: Vec<(Frontend, Shortage)>,
    pub(super) parts: Parts,
}

/// Which map has no room, for all or for one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    #[error("map SERVICES has no room for another frontend: raise --max-services")]
    Services,
    #[error("map SLOTS has no room for the group's backends: raise --max-slots")]
    Slots,
    #[error("map BACKENDS has no room for another backend: raise --max-backends")]
    Backends,
    #[error("cluster {0} has no room left in its share of map SLOTS: raise --max-slots, or --max-peer-slots")]
    SlotShare(ClusterId),
    #[error(
        "cluster {0} has no room left in its share of map BACKENDS: raise --max-backends, or --max-peer-backends"
    )]
    BackendShare(ClusterId),
}

/// Elements that are retired: they wait for a grace period.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Retired {
    pub(super) backends: Vec<u32>,
    pub(super) extents: Vec<Extent>,
    pub(super) services: Vec<u32>,
    pub(super) counters: Vec<u32>,
    /// Services whose groups lie in no table any more.
    pub(super) tables: Vec<u32>,
}

/// What is to be cleared in the maps once nobody reads it any more.
#[derive(Debug, Default)]
pub struct Cleared {
    pub backends: Vec<(u32, BackendEntry)>,
    pub tables: Vec<TableKey>,
}

impl Retired {
    /// Backend ids that nobody uses.
    #[cfg(test)]
    pub(crate) fn of_backends(backends: Vec<u32>) -> Self {
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
        self.tables.append(&mut other.tables);
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

    /// Keeps the first writes and forgets whose they are. Gives how many are left out.
    pub(crate) fn truncate(&mut self, limit: usize) -> usize {
        let before = self.writes() + self.refused.len();
        let mut left = limit;
        let mut keep = |len: usize| {
            let kept = len.min(left);
            left -= kept;
            kept
        };
        self.backends.truncate(keep(self.backends.len()));
        self.slots.truncate(keep(self.slots.len()));
        self.services.truncate(keep(self.services.len()));
        self.deleted.truncate(keep(self.deleted.len()));
        self.refused.truncate(keep(self.refused.len()));
        self.backends.shrink_to_fit();
        self.slots.shrink_to_fit();
        self.services.shrink_to_fit();
        self.fresh_counters = Vec::new();
        self.parts = Parts::default();
        before - self.writes() - self.refused.len()
    }

    /// The frontends that the plan is about.
    pub(crate) fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.parts.iter().map(|part| &part.frontend)
    }

    /// What is planned from here on is this frontend's.
    pub(super) fn begin(&mut self, frontend: &Frontend) -> &mut Part {
        self.parts.begin(frontend, self.backends.len())
    }

    /// The part of the frontend that is being planned.
    pub(super) fn part(&mut self) -> &mut Part {
        self.parts.current()
    }

    /// Writes an entry. A plan holds one for each frontend, the last: a second one would be written into the version that
    /// the first has made the one that counts, under its readers.
    pub(super) fn write_service(&mut self, frontend: &Frontend, entry: ServiceEntry) {
        let write = (service_key(frontend), entry);
        match self.part().entry {
            Some(place) => self.services[place] = write,
            None => {
                self.part().entry = Some(self.services.len());
                self.services.push(write);
            }
        }
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
    pub(crate) fn plan_into(&mut self, changes: &[(Frontend, Option<DesiredService>)], plan: &mut Plan) {
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
    pub(crate) fn plan_canary(&mut self) -> Plan {
        let mut plan = Plan::default();
        if self.services.get(&CANARY).is_some_and(|held| !held.damaged) {
            return plan;
        }
        plan.begin(&CANARY);
        let (mut stamp, groups, owed) = match self.services.remove(&CANARY) {
            Some(held) => (held.stamp, held.groups, held.owed),
            None => (self.new_stamp(), Vec::new(), None),
        };
        stamp.generation = stamp.generation.wrapping_add(1);
        groups.into_iter().for_each(|group| self.drop_group(group, &mut plan));
        self.settle_owed(owed, &mut plan);
        let held = MirrorEntry {
            stamp,
            flags: FLAG_CANARY,
            service: None,
            port_name: None,
            groups: Vec::new(),
            damaged: false,
            owed: None,
        };
        self.settle_tables(&held, &mut plan);
        plan.write_service(&CANARY, held.entry(&CANARY));
        self.services.insert(CANARY, held);
        plan
    }

    /// A grace period has passed since the plans that retired these. Gives what is to be cleared.
    pub fn release(&mut self, retired: Retired) -> Cleared {
        for extent in retired.extents {
            self.extents.release(extent);
        }
        for id in retired.services {
            self.service_ids.release(id);
        }
        for id in retired.counters {
            self.counters.release(id);
        }
        // A service may have got so many groups again meanwhile.
        let unused = retired.tables.into_iter().filter(|service| !self.tables.contains(service));
        let tables = unused.flat_map(TableKey::all_of).collect();
        let backends = retired.backends.into_iter();
        let backends = backends.filter_map(|id| Some((id, self.backends.release(id)?))).collect();
        Cleared { backends, tables }
    }

    /// The services that own the given frontends in the mirror.
    pub(crate) fn owner(&self, frontend: &Frontend) -> Option<&ServiceName> {
        self.services.get(frontend)?.service.as_ref()
    }

    fn plan_deletion(&mut self, frontend: &Frontend, plan: &mut Plan) {
        let Some(held) = self.services.remove(frontend) else { return };
        plan.deleted.push(service_key(frontend));
        let MirrorEntry { stamp, flags, service, port_name, groups, owed, .. } = held;
        let part = plan.begin(frontend);
        part.deleted = Some(Deleted { stamp, flags, service, port_name });
        part.retired.services.push(stamp.id);
        part.retired.tables.extend(self.tables.take(&stamp.id));
        for group in groups {
            self.drop_group(group, plan);
        }
        self.settle_owed(owed, plan);
    }

    fn plan_service(
        &mut self,
        frontend: &Frontend,
        desired: &DesiredService,
        plan: &mut Plan,
    ) -> Result<(), Shortage> {
        let limit = usize::try_from(self.capacity.services).unwrap_or(usize::MAX);
        if self.services.len() >= limit && !self.services.contains_key(frontend) {
            return Err(Shortage::Services);
        }
        plan.begin(frontend);
        let held = self.services.remove(frontend);
        let before = held.as_ref().filter(|held| !held.damaged).map(|held| held.entry(frontend));
        // The slots of a damaged entry are not what the mirror says, so none of them serves as it is.
        let is_sound = held.as_ref().is_none_or(|held| !held.damaged);
        let (stamp, old_groups, owed) = match held {
            Some(held) => (held.stamp, held.groups, held.owed),
            None => (self.new_stamp(), Vec::new(), None),
        };
        plan.part().service = stamp.id;
        let groups = self.plan_groups(frontend, desired, (old_groups, is_sound), plan);
        self.settle_owed(owed, plan);
        let mut held = MirrorEntry {
            stamp,
            flags: if desired.plain_ok { FLAG_PLAIN_OK } else { 0 },
            service: Some(desired.service.clone()),
            port_name: desired.port_name.clone(),
            groups,
            damaged: false,
            owed: None,
        };
        self.settle_tables(&held, plan);
        if before != Some(held.entry(frontend)) {
            held.stamp.generation = held.stamp.generation.wrapping_add(1);
            plan.write_service(frontend, held.entry(frontend));
        }
        self.services.insert(*frontend, held);
        Ok(())
    }

    /// Plans each group as far as there is room for it, the own cluster's first.
    fn plan_groups(
        &mut self,
        frontend: &Frontend,
        desired: &DesiredService,
        (mut old_groups, is_sound): (Vec<MirrorGroup>, bool),
        plan: &mut Plan,
    ) -> Vec<MirrorGroup> {
        let (service, protocol) = (plan.part().service, protocol_number(frontend.protocol));
        let (own, others): (Vec<_>, Vec<_>) =
            desired.groups.iter().partition(|group| self.is_own(group.cluster));
        let mut groups = Vec::with_capacity(desired.groups.len());
        for group in own.into_iter().chain(others) {
            let place = old_groups.iter().position(|old| old.cluster == group.cluster);
            let before = place.map(|place| Before { group: &old_groups[place], is_sound });
            match self.fit(group, protocol, before) {
                Ok(Fitted { group, extent, shortage }) => {
                    plan.refused.extend(shortage.map(|shortage| (*frontend, shortage)));
                    let old = place.map(|place| old_groups.swap_remove(place));
                    let target = Target { service, protocol, group: &group };
                    groups.push(self.plan_group(&target, old, extent, plan));
                }
                Err(shortage) => plan.refused.push((*frontend, shortage)),
            }
        }
        for group in old_groups {
            self.drop_group(group, plan);
        }
        groups.sort_unstable_by_key(|group| (group.tier, group.cluster));
        groups
    }

    fn new_stamp(&mut self) -> Stamp {
        Stamp { id: self.service_ids.take().unwrap_or(u32::MAX), generation: 0 }
    }

    /// Notes whether the frontend's groups lie in tables from now on.
    fn settle_tables(&mut self, held: &MirrorEntry, plan: &mut Plan) {
        if held.is_wide() {
            self.tables.insert(held.stamp.id);
        } else {
            plan.part().retired.tables.extend(self.tables.take(&held.stamp.id));
        }
    }

    /// The frontend no longer needs what the maps may still lead to, once the plan is written.
    fn settle_owed(&mut self, owed: Option<Box<Owed>>, plan: &mut Plan) {
        let Some(owed) = owed else { return };
        let Owed { mut extents, mut counters, members } = *owed;
        let retired = &mut plan.part().retired;
        retired.extents.append(&mut extents);
        retired.counters.append(&mut counters);
        members.into_iter().for_each(|member| self.leave(member, plan));
    }
}
