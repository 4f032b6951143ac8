//! The maps as they would be in the kernel, written one element at a time, and looked at after every write.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use mesh_abi::{BackendEntry, STATE_FREE, ServiceEntry, ServiceKey, SlotEntry};
use mesh_model::desired::Frontend;

use super::CAPACITY;
use crate::datapath::actual::{frontend_of, unmapped};
use crate::datapath::maps::{Datapath, MapError};
use crate::datapath::restore::Contents;

/// Cluster, address and port of a backend.
type Place = (u16, IpAddr, u16);
/// What is behind every frontend.
type Seen = BTreeMap<Frontend, BTreeSet<Place>>;
/// Flags, and tier, weight and backends with their states of every group, of every frontend: what two maps that
/// say the same have in common.
pub(super) type Content = BTreeMap<Frontend, (u8, BTreeMap<u16, (u8, u32, BTreeSet<(IpAddr, u16, u32)>)>)>;

/// The maps. They outlive the agent.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    services: BTreeMap<Frontend, (ServiceKey, ServiceEntry)>,
    slots: Vec<SlotEntry>,
    backends: BTreeMap<u32, BackendEntry>,
    /// How many more writes succeed; no limit where none.
    pub(super) budget: Option<usize>,
    /// What the maps led to before the writes under way.
    before: Seen,
    /// What they led to at any moment since.
    during: HashSet<(Frontend, Place)>,
    /// Frontends that led nowhere at some moment since.
    gaps: BTreeSet<Frontend>,
}

impl Kernel {
    pub(super) fn new() -> Self {
        Self { slots: vec![SlotEntry::default(); CAPACITY.slots as usize], ..Self::default() }
    }

    pub(super) fn contents(&self) -> Contents {
        Contents {
            services: self.services.values().copied().collect(),
            slots: self.slots.clone(),
            backends: self.backends.iter().map(|(id, entry)| (*id, *entry)).collect(),
        }
    }

    pub(super) fn content(&self) -> Content {
        let services = self.services.iter().map(|(frontend, (_, entry))| {
            let groups = groups(entry).iter().map(|group| {
                let members = self
                    .members(entry.head.id, group)
                    .map(|(backend, (_, address, port))| (address, port, backend.state));
                (group.cluster, (group.tier, group.weight, members.collect()))
            });
            (*frontend, (entry.flags, groups.collect()))
        });
        services.collect()
    }

    /// What is written from here on leads from what the maps hold now to what they hold at [`Self::settled`].
    pub(super) fn begin(&mut self) {
        self.before = self.look();
        self.during.clear();
        self.gaps.clear();
    }

    /// Nothing but the old and the new was ever seen, and what is in both was never gone.
    pub(super) fn settled(&mut self) {
        let after = self.look();
        let knows = |seen: &Seen, frontend, place| seen.get(frontend).is_some_and(|all| all.contains(place));
        for (frontend, place) in &self.during {
            let known = knows(&self.before, frontend, place) || knows(&after, frontend, place);
            assert!(known, "{frontend:?} led to {place:?} on the way, which is neither old nor new");
        }
        let serves = |seen: &Seen, frontend| seen.get(frontend).is_some_and(|all| !all.is_empty());
        for frontend in &self.gaps {
            let served = serves(&self.before, frontend) && serves(&after, frontend);
            assert!(!served, "{frontend:?} led nowhere on the way");
        }
        self.begin();
    }

    /// Nothing is left that no service needs, and no id or counter is used twice.
    pub(super) fn assert_nothing_leaks(&self, free_slots: u32) {
        let entries = || self.services.values().map(|(_, entry)| entry);
        let ids: BTreeSet<u32> = entries().map(|entry| entry.head.id).collect();
        assert_eq!(ids.len(), self.services.len(), "two services have one id");
        let all_groups = || entries().flat_map(groups);
        let counters: BTreeSet<u32> = all_groups().map(|group| group.counter).collect();
        assert_eq!(counters.len(), all_groups().count(), "two groups have one counter");
        let slots = |group: &mesh_abi::Group| group.first..group.first + group.count;
        let used: BTreeSet<u32> =
            all_groups().flat_map(slots).map(|index| self.slots[index as usize].backend).collect();
        let there: BTreeSet<u32> = self.backends.keys().copied().collect();
        assert_eq!(there, used, "a backend that nobody needs");
        // Extents are powers of two, and at most half empty but for the smallest.
        let taken = u64::from(CAPACITY.slots - free_slots);
        let needed: u64 = all_groups().map(|group| u64::from(group.count)).sum();
        assert!(taken <= 8 * needed, "{taken} slots are taken by {needed} backends");
    }

    fn look(&self) -> Seen {
        let mut seen = Seen::new();
        self.visit(|frontend, place| {
            let all = seen.entry(*frontend).or_default();
            all.extend(place);
        });
        seen
    }

    /// Shows every place behind every frontend as a program would find it, and `None` once for each frontend.
    /// Panics where a lookup fails or finds what belongs to another.
    fn visit(&self, mut found: impl FnMut(&Frontend, Option<Place>)) {
        for (frontend, (key, entry)) in &self.services {
            assert_eq!(entry.head, entry.tail, "a torn entry");
            assert_eq!(entry.key, *key, "an entry of another frontend");
            found(frontend, None);
            for group in groups(entry) {
                for (_, place) in self.members(entry.head.id, group) {
                    found(frontend, Some(place));
                }
            }
        }
    }

    fn members<'a>(
        &'a self,
        service: u32,
        group: &'a mesh_abi::Group,
    ) -> impl Iterator<Item = (&'a BackendEntry, Place)> + 'a {
        (group.first..group.first + group.count).map(move |index| {
            let slot = self.slots[index as usize];
            assert_eq!(slot.service, service, "slot {index} belongs to another service");
            let backend = self.backends.get(&slot.backend);
            let backend = backend.unwrap_or_else(|| panic!("backend {} is missing", slot.backend));
            assert_eq!(backend.cluster, group.cluster, "a backend of another cluster");
            let address = unmapped(backend.address);
            assert!(super::is_inside_fence(backend.cluster, address), "{address} of #{}", backend.cluster);
            (backend, (backend.cluster, address, u16::from_be_bytes(backend.port)))
        })
    }

    fn written(&mut self, write: impl FnOnce(&mut Self)) -> Result<(), MapError> {
        if self.budget == Some(0) {
            let source = std::io::Error::other("no write succeeds any more");
            return Err(MapError::Call { action: "writing", name: "SERVICES", source });
        }
        self.budget = self.budget.map(|left| left - 1);
        write(self);
        let mut during = std::mem::take(&mut self.during);
        let mut served = BTreeSet::new();
        self.visit(|frontend, place| {
            if let Some(place) = place {
                served.insert(*frontend);
                during.insert((*frontend, place));
            }
        });
        self.during = during;
        let lost = self.before.keys().filter(|frontend| !served.contains(*frontend));
        self.gaps.extend(lost);
        Ok(())
    }
}

fn groups(entry: &ServiceEntry) -> &[mesh_abi::Group] {
    &entry.groups[..usize::from(entry.group_count)]
}

impl Datapath for Kernel {
    fn write_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Result<(), MapError> {
        entries.iter().try_for_each(|(id, entry)| {
            assert!(*id < CAPACITY.backends, "the array ends there");
            self.written(|kernel| {
                if entry.state == STATE_FREE {
                    kernel.backends.remove(id);
                } else if let Some(old) = kernel.backends.insert(*id, *entry) {
                    let same =
                        (old.address, old.port, old.cluster) == (entry.address, entry.port, entry.cluster);
                    assert!(same, "backend {id} became another");
                }
            })
        })
    }

    fn write_slots(&mut self, entries: &[(u32, SlotEntry)]) -> Result<(), MapError> {
        entries
            .iter()
            .try_for_each(|(index, entry)| self.written(|kernel| kernel.slots[*index as usize] = *entry))
    }

    fn write_services(&mut self, entries: &[(ServiceKey, ServiceEntry)]) -> Result<(), MapError> {
        entries.iter().try_for_each(|(key, entry)| {
            self.written(|kernel| {
                let frontend = frontend_of(key).expect("only TCP and UDP are planned");
                kernel.services.insert(frontend, (*key, *entry));
                assert!(kernel.services.len() <= CAPACITY.services as usize, "the map is full");
            })
        })
    }

    fn delete_services(&mut self, keys: &[ServiceKey]) -> Result<(), MapError> {
        keys.iter().try_for_each(|key| {
            self.written(|kernel| {
                let frontend = frontend_of(key).expect("only TCP and UDP are planned");
                kernel.services.remove(&frontend);
            })
        })
    }
}
