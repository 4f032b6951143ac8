//! The maps as they would be in the kernel, written one element at a time, and looked at after every write.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use mesh_abi::{
    BackendEntry, GroupTable, STATE_FREE, ServiceCell, ServiceEntry, ServiceKey, SlotEntry, TableKey,
};
use mesh_model::address::Address;
use mesh_model::desired::Frontend;
use mesh_model::snapshot::Protocol;

use super::CAPACITY;
use crate::datapath::actual::{frontend_of, service_key};
use crate::datapath::inspect::Inspect;
use crate::datapath::maps::{Datapath, MapError, Refused};
use crate::datapath::restore::Contents;

/// Cluster, address and port of a backend.
type Place = (u16, Address, u16);
/// What is behind every frontend.
type Seen = BTreeMap<Frontend, BTreeSet<Place>>;
/// Flags, and tier, weight and backends with their states of every group, of every frontend: what two maps that
/// say the same have in common.
pub(in crate::merge) type Content =
    BTreeMap<Frontend, (u8, BTreeMap<u16, (u8, u32, BTreeSet<(Address, u16, u32)>)>)>;

/// The maps. They outlive the agent.
#[derive(Debug, Default)]
pub(in crate::merge) struct Kernel {
    services: BTreeMap<Frontend, (ServiceKey, ServiceCell)>,
    tables: BTreeMap<TableKey, GroupTable>,
    slots: Vec<SlotEntry>,
    backends: BTreeMap<u32, BackendEntry>,
    /// How many more writes succeed; no limit where none.
    pub(in crate::merge) budget: Option<usize>,
    /// State of a generator that has one write in ten refused; none are where there is none.
    pub(in crate::merge) refusals: Option<u32>,
    /// No write of this frontend's entry succeeds.
    pub(in crate::merge) refused: Option<Frontend>,
    /// What connects lead to after every write, both by their last bytes; checked where it is given.
    pub(in crate::merge) keeps: Option<BTreeSet<(u8, u8)>>,
    /// Somebody else has written, and nobody has repaired it.
    pub(in crate::merge) damaged: bool,
    /// What the maps led to before the writes under way.
    before: Seen,
    /// What they led to at any moment since.
    during: HashSet<(Frontend, Place)>,
    /// Frontends that led nowhere at some moment since.
    gaps: BTreeSet<Frontend>,
}

impl Kernel {
    pub(in crate::merge) fn new() -> Self {
        Self { slots: vec![SlotEntry::default(); CAPACITY.slots as usize], ..Self::default() }
    }

    /// The versions that count.
    fn entries(&self) -> impl Iterator<Item = (ServiceKey, ServiceEntry)> {
        self.services.values().map(|(key, cell)| (*key, self.entry(cell)))
    }

    fn entry(&self, cell: &ServiceCell) -> ServiceEntry {
        cell.entry(cell.table().and_then(|key| self.tables.get(&key)))
    }

    pub(in crate::merge) fn contents(&self) -> Contents {
        Contents {
            services: self.entries().collect(),
            slots: self.slots.clone(),
            backends: self.backends.iter().map(|(id, entry)| (*id, *entry)).collect(),
            tables: self.tables.keys().map(|key| key.service).collect(),
        }
    }

    pub(in crate::merge) fn content(&self) -> Content {
        let services = self.services.iter().map(|(frontend, (_, cell))| {
            let entry = self.entry(cell);
            let groups = groups(&entry).iter().map(|group| {
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
    pub(in crate::merge) fn begin(&mut self) {
        self.before = self.look();
        self.during.clear();
        self.gaps.clear();
    }

    /// Nothing but the old and the new was ever seen, and what is in both was never gone.
    pub(in crate::merge) fn settled(&mut self) {
        if self.damaged {
            return;
        }
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
    pub(in crate::merge) fn assert_nothing_leaks(&self, free_slots: u32) {
        let entries = || self.entries().map(|(_, entry)| entry);
        let wide: BTreeSet<u32> =
            entries().filter(ServiceEntry::is_wide).map(|entry| entry.head.id).collect();
        let tables: BTreeSet<u32> = self.tables.keys().map(|key| key.service).collect();
        assert_eq!(tables, wide, "a table that nobody needs");
        let ids: BTreeSet<u32> = entries().map(|entry| entry.head.id).collect();
        assert_eq!(ids.len(), self.services.len(), "two services have one id");
        let all_groups = || entries().flat_map(|entry| groups(&entry).to_vec());
        let counters: BTreeSet<u32> = all_groups().map(|group| group.counter).collect();
        assert_eq!(counters.len(), all_groups().count(), "two groups have one counter");
        let slots = |group: mesh_abi::Group| group.first..group.first + group.count;
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
        for (frontend, (key, cell)) in &self.services {
            let entry = self.entry(cell);
            assert_eq!(entry.head, entry.tail, "a torn entry, or a table that is none of its");
            assert_eq!(entry.key, *key, "an entry of another frontend");
            found(frontend, None);
            for group in groups(&entry) {
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
            let address = Address::from(backend.address);
            assert!(super::is_allowed(backend.cluster, address), "{address} of #{}", backend.cluster);
            (backend, (backend.cluster, address, u16::from_be_bytes(backend.port)))
        })
    }

    /// Somebody else writes: an entry, slot or backend is another, or gone, or more than there should be.
    pub(in crate::merge) fn damage(&mut self, kind: u8, seed: u16) {
        self.damaged = true;
        let seed = usize::from(seed);
        let frontend = self.services.keys().copied().nth(seed % self.services.len().max(1));
        let backend = self.backends.keys().copied().nth(seed % self.backends.len().max(1));
        let cell = frontend.and_then(|frontend| self.services.get_mut(&frontend));
        match (kind, cell, backend) {
            (0, Some(_), _) => drop(frontend.map(|frontend| self.services.remove(&frontend))),
            (1, Some((_, cell)), _) => cell.versions[cell.current as usize & 1].groups[0].first = 77,
            (2, Some((_, cell)), _) => cell.versions[cell.current as usize & 1].group_count = 0,
            (3, _, _) => self.slots[seed % 64] = SlotEntry { backend: 1000, service: 1 },
            (4, _, Some(backend)) => drop(self.backends.remove(&backend)),
            (5, _, Some(backend)) => {
                self.backends.get_mut(&backend).expect("it is there").address = [0xfd; 16]
            }
            (6, _, _) => {
                let entry = BackendEntry { state: mesh_abi::STATE_ACTIVE, ..BackendEntry::default() };
                self.backends.insert(u32::from(kind) + 900, entry);
            }
            (7, _, _) => {
                let frontend = Frontend { address: [10, 99, 0, 1].into(), port: 1, protocol: Protocol::Udp };
                let key = service_key(&frontend);
                let entry = ServiceEntry { head: Default::default(), key, ..self.any_entry() };
                self.services.insert(frontend, (key, ServiceCell::new(&entry)));
            }
            (8, _, _) => {
                self.tables.pop_first();
            }
            (9, _, _) => {
                if let Some(mut table) = self.tables.first_entry() {
                    table.get_mut().groups[0].first = 77;
                }
            }
            _ => {}
        }
    }

    fn any_entry(&self) -> ServiceEntry {
        ServiceEntry {
            head: Default::default(),
            key: ServiceKey::new([0; 16], 0, 0),
            group_count: 0,
            flags: 0,
            groups: Default::default(),
            tail: Default::default(),
        }
    }

    /// Whether a slot that an entry leads to holds the backend.
    fn is_led_to(&self, backend: u32) -> bool {
        let slots = self.entries().flat_map(|(_, entry)| groups(&entry).to_vec());
        let mut slots = slots.flat_map(|group| group.first..group.first + group.count);
        slots.any(|index| self.slots[index as usize].backend == backend)
    }

    /// Whether writes fail.
    pub(in crate::merge) fn refuses(&self) -> bool {
        self.budget.is_some() || self.refusals.is_some()
    }

    fn is_refused(&mut self) -> bool {
        let Some(state) = &mut self.refusals else { return false };
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 16).is_multiple_of(10)
    }

    fn written(&mut self, write: impl FnOnce(&mut Self)) -> Result<(), MapError> {
        if self.budget == Some(0) || self.is_refused() {
            return Err(refused());
        }
        self.budget = self.budget.map(|left| left - 1);
        write(self);
        if self.damaged {
            return Ok(());
        }
        let mut during = std::mem::take(&mut self.during);
        let mut served = BTreeSet::new();
        let mut led = BTreeSet::new();
        self.visit(|frontend, place| {
            if let Some(place) = place {
                served.insert(*frontend);
                led.insert((last_byte(frontend.address), last_byte(place.1)));
                during.insert((*frontend, place));
            }
        });
        self.during = during;
        if let Some(keeps) = &self.keeps {
            assert!(led.is_superset(keeps), "{led:?} lacks some of {keeps:?}");
        }
        let lost = self.before.keys().filter(|frontend| !served.contains(*frontend));
        self.gaps.extend(lost);
        Ok(())
    }

    /// Writes the cell of a key as the kernel does, in place. What counts is never written: it is either as it was, or
    /// what had been written before.
    fn write_cell(&mut self, key: &ServiceKey, cell: ServiceCell) -> Result<(), MapError> {
        let frontend = frontend_of(key).expect("only TCP and UDP are planned");
        if self.refused == Some(frontend) {
            return Err(refused());
        }
        self.written(|kernel| {
            let before = kernel.services.insert(frontend, (*key, cell));
            if let Some((_, before)) = before.filter(|_| !kernel.damaged) {
                let counts = cell.current as usize & 1;
                let kept = (cell.versions[counts], cell.key) == (before.versions[counts], before.key);
                assert!(kept, "the version of {frontend:?} that counts was written under its readers");
            }
            assert!(kernel.services.len() <= CAPACITY.services as usize + 1, "the map is full");
        })
    }

    /// The same of the table of a version.
    fn write_table(&mut self, table: Option<&(TableKey, GroupTable)>) -> Result<(), MapError> {
        let Some((key, table)) = table else { return Ok(()) };
        self.written(|kernel| {
            let before = kernel.tables.insert(*key, *table);
            let is_read = |(_, cell): &&(ServiceKey, ServiceCell)| cell.table() == Some(*key);
            let reader = kernel.services.values().find(is_read);
            let kept = kernel.damaged || reader.is_none() || before == Some(*table);
            assert!(kept, "the table that counts was written under its readers");
        })
    }
}

fn groups(entry: &ServiceEntry) -> &[mesh_abi::Group] {
    &entry.groups[..usize::from(entry.group_count)]
}

fn last_byte(address: Address) -> u8 {
    address.octets()[15]
}

fn refused() -> MapError {
    let source = std::io::Error::other("the write is refused");
    MapError::Call { action: "writing", name: "SERVICES", source }
}

/// Tries every element.
fn each<T>(elements: &[T], mut write: impl FnMut(&T) -> Result<(), MapError>) -> Vec<Refused> {
    let written = elements.iter().enumerate();
    written.filter_map(|(index, element)| Some(Refused { index, error: write(element).err()? })).collect()
}

impl Datapath for Kernel {
    fn write_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Vec<Refused> {
        each(entries, |(id, entry)| {
            assert!(*id < CAPACITY.backends, "the array ends there");
            self.written(|kernel| {
                if entry.state == STATE_FREE {
                    kernel.backends.remove(id);
                } else if let Some(old) = kernel.backends.insert(*id, *entry) {
                    let same =
                        (old.address, old.port, old.cluster) == (entry.address, entry.port, entry.cluster);
                    let harmless = kernel.damaged || !kernel.is_led_to(*id);
                    assert!(same || harmless, "backend {id} became another");
                }
            })
        })
    }

    fn write_slots(&mut self, entries: &[(u32, SlotEntry)]) -> Vec<Refused> {
        each(entries, |(index, entry)| self.written(|kernel| kernel.slots[*index as usize] = *entry))
    }

    /// All tables are written, then all versions are prepared, then all are switched.
    fn write_services(&mut self, entries: &[(ServiceKey, ServiceEntry)]) -> Vec<Refused> {
        let found = |(key, entry): &(ServiceKey, ServiceEntry)| {
            let frontend = frontend_of(key).expect("only TCP and UDP are planned");
            let found = self.services.get(&frontend).map(|(_, cell)| *cell);
            let place = found.map_or(TableKey::new(entry.head.id, 0), |cell| cell.spare_table(entry.head.id));
            let table = entry.is_wide().then(|| (place, GroupTable::of(entry)));
            let cell = found.map_or_else(|| ServiceCell::new(entry), |cell| cell.prepared(entry));
            (*key, found.is_some(), cell, table)
        };
        let cells: Vec<_> = entries.iter().map(found).collect();
        let mut refused = each(&cells, |(_, _, _, table)| self.write_table(table.as_ref()));
        let failed: BTreeSet<usize> = refused.iter().map(|refused| refused.index).collect();
        for (index, (key, _, cell, _)) in cells.iter().enumerate().filter(|(at, _)| !failed.contains(at)) {
            refused.extend(self.write_cell(key, *cell).err().map(|error| Refused { index, error }));
        }
        let failed: BTreeSet<usize> = refused.iter().map(|refused| refused.index).collect();
        for (index, (key, kept, cell, _)) in cells.iter().enumerate() {
            if *kept && !failed.contains(&index) {
                refused.extend(
                    self.write_cell(key, cell.switched()).err().map(|error| Refused { index, error }),
                );
            }
        }
        refused
    }

    fn delete_services(&mut self, keys: &[ServiceKey]) -> Vec<Refused> {
        each(keys, |key| {
            let frontend = frontend_of(key).expect("only TCP and UDP are planned");
            self.written(|kernel| {
                kernel.services.remove(&frontend);
            })
        })
    }

    fn delete_tables(&mut self, keys: &[TableKey]) -> Vec<Refused> {
        each(keys, |key| {
            let is_read = |(frontend, (_, cell)): (&Frontend, &(ServiceKey, ServiceCell))| {
                (cell.table() == Some(*key)).then_some(*frontend)
            };
            let reader = self.services.iter().find_map(is_read);
            assert!(self.damaged || reader.is_none(), "the table of {reader:?} is deleted under its readers");
            self.written(|kernel| {
                kernel.tables.remove(key);
            })
        })
    }

    fn reset_counters(&mut self, _: &[u32]) -> Vec<Refused> {
        Vec::new()
    }

    fn check_writable(&mut self) -> Result<(), MapError> {
        if self.budget == Some(0) { self.written(|_| ()) } else { Ok(()) }
    }
}

impl Inspect for Kernel {
    fn read_services(&self, keys: &[ServiceKey]) -> Result<Vec<Option<ServiceEntry>>, MapError> {
        let read = |key| Some(self.entry(&self.services.get(&frontend_of(key)?)?.1));
        Ok(keys.iter().map(read).collect())
    }

    fn keys_after(&self, key: Option<&ServiceKey>, limit: usize) -> Result<Vec<ServiceKey>, MapError> {
        let after = key.and_then(frontend_of);
        let keys = self.services.iter().filter(|(frontend, _)| after.is_none_or(|after| **frontend > after));
        Ok(keys.map(|(_, (key, _))| *key).take(limit).collect())
    }

    fn read_slots(&self, first: u32, count: u32) -> Result<Vec<SlotEntry>, MapError> {
        Ok(self.slots[first as usize..(first + count) as usize].to_vec())
    }

    fn read_backends(&self, first: u32, count: u32) -> Result<Vec<BackendEntry>, MapError> {
        let read = |id| self.backends.get(&id).copied().unwrap_or_default();
        Ok((first..first.saturating_add(count).min(CAPACITY.backends)).map(read).collect())
    }
}
