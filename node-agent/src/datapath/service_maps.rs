//! The maps that the planner owns: `SERVICES`, `GROUPS`, `SLOTS`, `BACKENDS`, and the counters of their groups. Never decides what they
//! hold.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use mesh_abi::{
    BackendEntry, Counter, GroupTable, STATE_FREE, ServiceCell, ServiceEntry, ServiceKey, SlotEntry, TableKey,
};

use super::actual::{CANARY, Capacity, service_key};
use super::cpus::{self, Cpus};
use super::map_fd::MapFd;
use super::maps::{Datapath, MapError, Refused};
use super::restore::Contents;
use super::sys::{self, How};

/// Services written at once: two versions each must be read, changed and written, so not all of a large plan's.
const CHUNK: usize = 256;
/// How often an entry is read that is being rewritten.
const READS: usize = 16;

/// What connects are balanced by.
#[derive(Debug)]
pub struct ServiceMaps {
    pub(super) services: MapFd,
    groups: MapFd,
    pub(super) slots: MapFd,
    pub(super) backends: MapFd,
    counters: MapFd,
    cpus: usize,
}

impl ServiceMaps {
    pub(super) fn open(folder: &Path) -> Result<Self, MapError> {
        Ok(Self {
            services: MapFd::open::<ServiceKey, ServiceCell>(folder, "SERVICES")?,
            groups: MapFd::open::<TableKey, GroupTable>(folder, "GROUPS")?,
            slots: MapFd::open::<u32, SlotEntry>(folder, "SLOTS")?,
            backends: MapFd::open::<u32, BackendEntry>(folder, "BACKENDS")?,
            counters: MapFd::open::<u32, Counter>(folder, "COUNTERS")?,
            cpus: cpus::cpus(Cpus::Possible).map_err(|source| MapError::Call {
                action: "counting the CPUs of",
                name: "COUNTERS",
                source,
            })?,
        })
    }

    pub fn capacity(&self) -> Capacity {
        Capacity {
            services: self.services.capacity,
            slots: self.slots.capacity,
            backends: self.backends.capacity,
            counters: self.counters.capacity,
        }
    }

    /// Everything that a mirror is restored from.
    pub fn contents(&self) -> Result<Contents, MapError> {
        let mut contents = self.entries_and_slots()?;
        contents.backends = self.backends_in_use(usize::MAX)?;
        Ok(contents)
    }

    /// The same without backends to which nothing leads; cheap where little of the maps is used.
    pub(crate) fn contents_in_use(&self) -> Result<Contents, MapError> {
        let mut contents = self.entries_and_slots()?;
        let last = contents.slots.iter().map(|slot| slot.backend).max().unwrap_or(0);
        contents.backends = self.backends_in_use(usize::try_from(last).unwrap_or(usize::MAX - 1) + 1)?;
        Ok(contents)
    }

    fn entries_and_slots(&self) -> Result<Contents, MapError> {
        let mut contents = self.entries()?;
        let groups = contents.services.iter().flat_map(|(_, entry)| &entry.groups);
        let used = groups.map(|group| group.first.saturating_add(group.count)).max().unwrap_or(0);
        let used = used.min(self.slots.capacity);
        let slots: Vec<(u32, SlotEntry)> = if used == 0 {
            Vec::new()
        } else {
            self.slots.dump(usize::try_from(used).unwrap_or(usize::MAX), How::Plain)?
        };
        contents.slots = slots.into_iter().map(|(_, slot)| slot).collect();
        Ok(contents)
    }

    /// All entries, and the services of which there are tables.
    fn entries(&self) -> Result<Contents, MapError> {
        let cells = self.services.dump::<ServiceKey, ServiceCell>(usize::MAX, How::Locked)?;
        let tables = self.groups.dump::<TableKey, GroupTable>(usize::MAX, How::Locked)?;
        let tables: HashMap<_, _> = tables.into_iter().collect();
        let entry = |(key, cell): (ServiceKey, ServiceCell)| {
            let entry = cell.entry(cell.table().and_then(|key| tables.get(&key)));
            // It may have been rewritten between the two reads.
            let again = entry.head != entry.tail && entry.is_wide();
            let again = if again { self.read_entry(&key)? } else { None };
            Ok((key, again.unwrap_or(entry)))
        };
        let services = cells.into_iter().map(entry).collect::<Result<_, MapError>>()?;
        let tables: HashSet<u32> = tables.into_keys().map(|key| key.service).collect();
        Ok(Contents { services, tables: tables.into_iter().collect(), ..Contents::default() })
    }

    /// The entry that counts; none under a key that is not there.
    pub(super) fn read_entry(&self, key: &ServiceKey) -> Result<Option<ServiceEntry>, MapError> {
        let mut read = None;
        for _ in 0..READS {
            let Some(cell) = self.services.lookup::<_, ServiceCell>(key)? else { return Ok(None) };
            let table = cell.table().map(|key| self.groups.lookup::<_, GroupTable>(&key)).transpose()?;
            let entry = cell.entry(table.flatten().as_ref());
            if entry.head == entry.tail {
                return Ok(Some(entry));
            }
            read = Some(entry);
        }
        Ok(read)
    }

    fn backends_in_use(&self, limit: usize) -> Result<Vec<(u32, BackendEntry)>, MapError> {
        let backends: Vec<(u32, BackendEntry)> = self.backends.dump(limit, How::Plain)?;
        Ok(backends.into_iter().filter(|(_, entry)| entry.state != STATE_FREE).collect())
    }

    /// Counters summed over the CPUs.
    pub fn read_counters(&self, ids: &[u32]) -> Result<Vec<Counter>, MapError> {
        let sum = |id: &u32| {
            let values: Vec<Counter> = self.counters.lookup_per_cpu(*id, self.cpus)?;
            Ok(values.iter().fold(Counter::default(), |sum, value| Counter {
                connections: sum.connections + value.connections,
                last_resort: sum.last_resort + value.last_resort,
            }))
        };
        ids.iter().map(sum).collect()
    }

    /// Writes new entries beside those that count, then switches to them; see [`ServiceCell`].
    fn write_versions(&self, entries: &[(ServiceKey, ServiceEntry)]) -> Vec<Refused> {
        let mut refused = Vec::new();
        let mut prepared = Vec::with_capacity(entries.len());
        let mut tables = Vec::new();
        for (index, (key, entry)) in entries.iter().enumerate() {
            match self.services.lookup::<_, ServiceCell>(key) {
                Ok(found) => {
                    let cell = found.map_or_else(|| ServiceCell::new(entry), |cell| cell.prepared(entry));
                    if entry.is_wide() {
                        let place = found
                            .map_or(TableKey::new(entry.head.id, 0), |cell| cell.spare_table(entry.head.id));
                        tables.push((prepared.len(), (place, GroupTable::of(entry))));
                    }
                    prepared.push((index, found.is_some(), (*key, cell)));
                }
                Err(error) => refused.push(Refused { index, error }),
            }
        }
        self.write_tables(&tables, &mut prepared, &mut refused);
        let failed = self.write_cells(&prepared, &mut refused);
        let switched =
            prepared.into_iter().enumerate().filter(|(at, (_, kept, _))| *kept && !failed.contains(at));
        let switched = switched.map(|(_, (index, kept, (key, cell)))| (index, kept, (key, cell.switched())));
        self.write_cells(&switched.collect::<Vec<_>>(), &mut refused);
        refused
    }

    /// Writes tables, each with the place of its cell; leaves out the cells of those that were refused.
    fn write_tables(
        &self,
        tables: &[(usize, (TableKey, GroupTable))],
        cells: &mut Vec<(usize, bool, (ServiceKey, ServiceCell))>,
        refused: &mut Vec<Refused>,
    ) {
        if tables.is_empty() {
            return;
        }
        let elements: Vec<_> = tables.iter().map(|(_, element)| *element).collect();
        let failed = self.groups.update_all(&elements, "--max-services", How::Locked);
        let places: HashSet<usize> = failed.iter().map(|failed| tables[failed.index].0).collect();
        let of_entry = |failed: Refused| Refused { index: cells[tables[failed.index].0].0, ..failed };
        refused.extend(failed.into_iter().map(of_entry));
        let mut place = 0;
        cells.retain(|_| {
            place += 1;
            !places.contains(&(place - 1))
        });
    }

    /// Writes cells, each with the index of its entry; gives the places of those that were refused.
    fn write_cells(
        &self,
        cells: &[(usize, bool, (ServiceKey, ServiceCell))],
        refused: &mut Vec<Refused>,
    ) -> HashSet<usize> {
        let elements: Vec<_> = cells.iter().map(|(_, _, element)| *element).collect();
        let failed = self.services.update_all(&elements, "--max-services", How::Locked);
        let places = failed.iter().map(|refused| refused.index).collect();
        refused.extend(failed.into_iter().map(|failed| Refused { index: cells[failed.index].0, ..failed }));
        places
    }
}

impl Datapath for ServiceMaps {
    fn write_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Vec<Refused> {
        self.backends.update_all(entries, "--max-backends", How::Plain)
    }

    fn write_slots(&mut self, entries: &[(u32, SlotEntry)]) -> Vec<Refused> {
        self.slots.update_all(entries, "--max-slots", How::Plain)
    }

    fn write_services(&mut self, entries: &[(ServiceKey, ServiceEntry)]) -> Vec<Refused> {
        let chunks = entries.chunks(CHUNK).zip((0..).step_by(CHUNK));
        let refused = chunks.flat_map(|(chunk, first)| {
            let refused = self.write_versions(chunk).into_iter();
            refused.map(move |refused| Refused { index: first + refused.index, ..refused })
        });
        refused.collect()
    }

    fn delete_services(&mut self, keys: &[ServiceKey]) -> Vec<Refused> {
        one_by_one(keys, |key| {
            sys::delete(self.services.fd(), key).map(drop).map_err(self.services.failed("deleting from"))
        })
    }

    fn delete_tables(&mut self, keys: &[TableKey]) -> Vec<Refused> {
        one_by_one(keys, |key| {
            sys::delete(self.groups.fd(), key).map(drop).map_err(self.groups.failed("deleting from"))
        })
    }

    fn reset_counters(&mut self, ids: &[u32]) -> Vec<Refused> {
        let zero = vec![Counter::default(); self.cpus];
        one_by_one(ids, |id| self.counters.update(id, &zero))
    }

    fn check_writable(&mut self) -> Result<(), MapError> {
        // Id 0 stands for nothing.
        self.backends.update(&0_u32, &[BackendEntry::default()])?;
        let slot: Option<SlotEntry> = self.slots.lookup(&0_u32)?;
        self.slots.update(&0_u32, &[slot.unwrap_or_default()])?;
        let key = service_key(&CANARY);
        let Some(cell) = self.services.lookup::<_, ServiceCell>(&key)? else { return Ok(()) };
        let written = self.services.update_all(&[(key, cell)], "--max-services", How::Locked);
        written.into_iter().next().map_or(Ok(()), |refused| Err(refused.error))
    }
}

fn one_by_one<T>(elements: &[T], write: impl Fn(&T) -> Result<(), MapError>) -> Vec<Refused> {
    let written = elements.iter().enumerate();
    written.filter_map(|(index, element)| Some(Refused { index, error: write(element).err()? })).collect()
}
