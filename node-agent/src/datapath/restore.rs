//! Rebuilds the mirror from what the maps hold, after a restart.
//!
//! The maps are trusted only as far as they agree with themselves: an entry that leads to a slot of another
//! service or to a free backend is taken as damaged, loses that member and is written again.

use std::collections::{HashMap, HashSet};

use mesh_abi::{
    BackendEntry, FLAG_CANARY, Group, STATE_FREE, STATE_TERMINATING, ServiceEntry, ServiceKey, SlotEntry,
};
use mesh_model::desired::BackendState;
use mesh_model::name::ClusterId;

use super::actual::{Actual, CANARY, Capacity, Member, MirrorEntry, MirrorGroup, frontend_of};
use super::backends::Backends;
use super::extents::{Extent, Extents};
use super::ids::Ids;
use super::plan::Retired;

/// The maps' content, read once.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub services: Vec<(ServiceKey, ServiceEntry)>,
    /// All slots, by index; those beyond its end are unused.
    pub slots: Vec<SlotEntry>,
    /// Those that are not free.
    pub backends: Vec<(u32, BackendEntry)>,
    /// Services of which there are tables.
    pub tables: Vec<u32>,
}

/// The mirror, and what a crash left over.
#[derive(Debug)]
pub struct Restored {
    pub actual: Actual,
    /// Backends and tables without a service: to be released after a grace period.
    pub leftover: Retired,
    /// Entries that do not agree with the slots and backends that they lead to.
    pub damaged: usize,
    /// Keys that are not ours to read; to be deleted.
    pub foreign: Vec<ServiceKey>,
}

/// Rebuilds the mirror. Nothing is written.
pub fn restore(contents: &Contents, capacity: Capacity) -> Restored {
    let mut reader = Reader {
        slots: &contents.slots,
        states: contents.backends.iter().map(|(id, entry)| (*id, entry.state)).collect(),
        backends: Backends::restored(capacity.backends, &contents.backends),
        extents: Extents::new(capacity.slots),
    };
    let mut services = HashMap::with_capacity(contents.services.len());
    let mut foreign = Vec::new();
    let mut damaged = 0;
    for (key, entry) in &contents.services {
        let Some(frontend) = frontend_of(key) else {
            foreign.push(*key);
            continue;
        };
        let held = reader.held(key, entry);
        damaged += usize::from(held.damaged);
        services.insert(frontend, held);
    }
    let Reader { mut backends, extents, .. } = reader;
    let wide = services.values().filter(|held| held.is_wide());
    let tables: HashSet<u32> = wide.map(|held| held.stamp.id).collect();
    let unused = contents.tables.iter().copied().filter(|service| !tables.contains(service));
    let leftover = Retired { backends: backends.orphans(), tables: unused.collect(), ..Retired::default() };
    let groups = services.values().flat_map(|held: &MirrorEntry| &held.groups);
    let counters = groups.map(|group| group.counter).filter(|counter| *counter != 0).collect();
    let service_ids = services.values().map(|held| held.stamp.id).collect();
    let actual = Actual {
        services,
        backends,
        extents,
        service_ids: Ids::restored(u32::MAX, service_ids),
        counters: Ids::restored(capacity.counters, counters),
        tables,
        capacity,
        bound: None,
    };
    Restored { actual, leftover, damaged, foreign }
}

struct Reader<'a> {
    slots: &'a [SlotEntry],
    states: HashMap<u32, u32>,
    backends: Backends,
    extents: Extents,
}

impl Reader<'_> {
    fn held(&mut self, key: &ServiceKey, entry: &ServiceEntry) -> MirrorEntry {
        let mut damaged = entry.head != entry.tail || entry.key != *key;
        let mut groups = Vec::new();
        for group in entry.groups.iter().take(usize::from(entry.group_count)) {
            match self.group(entry.head.id, group) {
                Some((held, whole)) => {
                    damaged |= !whole;
                    groups.push(held);
                }
                None => damaged = true,
            }
        }
        let is_canary = frontend_of(key) == Some(CANARY);
        // An entry that refuses connects belongs under the canary's address, and nowhere else.
        damaged |= is_canary != (entry.flags & FLAG_CANARY != 0) || is_canary && !groups.is_empty();
        MirrorEntry {
            stamp: entry.head,
            flags: entry.flags,
            service: None,
            port_name: None,
            groups,
            damaged,
            owed: None,
        }
    }

    /// The group and whether all its slots were good; none where its extent or cluster cannot be.
    fn group(&mut self, service: u32, group: &Group) -> Option<(MirrorGroup, bool)> {
        let cluster = ClusterId::new(group.cluster.into()).ok()?;
        let order = Extent::order_for(group.count);
        let extent = Extent { first: group.first, order, cluster: group.cluster };
        if !self.extents.reserve(extent) {
            return None;
        }
        let first = usize::try_from(group.first).ok()?;
        let count = usize::try_from(group.count).ok()?;
        let slots = self.slots.get(first..first.checked_add(count)?).unwrap_or_default();
        let good = slots.iter().filter(|slot| slot.service == service);
        let members: Vec<Member> = good.filter_map(|slot| self.member(slot.backend)).collect();
        let whole = members.len() == count;
        for member in &members {
            self.backends.restore_user(member.id(), member.state());
        }
        let held = MirrorGroup {
            cluster,
            tier: group.tier,
            weight: group.weight,
            extent,
            members,
            counter: group.counter,
            unseen: false,
        };
        Some((held, whole))
    }

    fn member(&self, id: u32) -> Option<Member> {
        match self.states.get(&id).copied()? {
            STATE_FREE => None,
            STATE_TERMINATING => Some(Member::new(id, BackendState::Terminating)),
            _ => Some(Member::new(id, BackendState::Active)),
        }
    }
}
