//! The maps as typed values. Owns their names and shapes; never decides what they hold.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use mesh_abi::{
    BackendEntry, ClusterStates, Control, Counter, Cpu, LAYOUT, OUTCOMES, Plain, ReplyEntry, ReplyKey,
    STATE_FREE, ServiceCell, ServiceEntry, ServiceKey, SlotEntry,
};

use super::actual::{CANARY, Capacity, service_key};
use super::batch;
use super::cpus::{self, Cpus};
use super::hint::Hint;
use super::restore::Contents;
use super::scan;
use super::sys::{self, How};

/// Names of the maps in the object, and of their pins.
pub const NAMES: [&str; 10] = [
    "SERVICES", "SLOTS", "BACKENDS", "CLUSTERS", "CONTROL", "COUNTERS", "CPUS", "ORIGINS", "SOCKETS",
    "REPLIES",
];

/// Services written at once: two versions each must be read, changed and written, so not all of a large plan's.
const CHUNK: usize = 256;

/// What went wrong with which map.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("opening map {name} at {path}{hint}", path = .path.display())]
    Open { name: &'static str, path: PathBuf, hint: Hint, source: Box<aya::maps::MapError> },
    #[error(
        "map {name} has keys of {found_key} and values of {found_value} bytes instead of {key} and {value}: it is \
         not of this version; run `node-agent uninstall` first"
    )]
    Shape { name: &'static str, found_key: u32, found_value: u32, key: usize, value: usize },
    #[error("map {name} is full ({capacity} elements): raise {flag}")]
    Full { name: &'static str, capacity: u32, flag: &'static str },
    #[error("{action} map {name}")]
    Call { action: &'static str, name: &'static str, source: io::Error },
}

/// An element that a map refused.
#[derive(Debug)]
pub struct Refused {
    /// Which of those that were to be written or deleted.
    pub index: usize,
    pub error: MapError,
}

/// The writes that carry a plan out. Each tries every element, and gives those that were refused.
pub trait Datapath {
    fn write_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Vec<Refused>;
    fn write_slots(&mut self, entries: &[(u32, SlotEntry)]) -> Vec<Refused>;
    /// Each key stands there once.
    fn write_services(&mut self, entries: &[(ServiceKey, ServiceEntry)]) -> Vec<Refused>;
    /// A key that is not there is fine.
    fn delete_services(&mut self, keys: &[ServiceKey]) -> Vec<Refused>;
    /// These count from zero again.
    fn reset_counters(&mut self, ids: &[u32]) -> Vec<Refused>;
    /// Whether the maps can be written at all: writes an element of each that changes nothing.
    fn check_writable(&mut self) -> Result<(), MapError>;
}

impl<D: Datapath + ?Sized> Datapath for Box<D> {
    fn write_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Vec<Refused> {
        self.as_mut().write_backends(entries)
    }

    fn write_slots(&mut self, entries: &[(u32, SlotEntry)]) -> Vec<Refused> {
        self.as_mut().write_slots(entries)
    }

    fn write_services(&mut self, entries: &[(ServiceKey, ServiceEntry)]) -> Vec<Refused> {
        self.as_mut().write_services(entries)
    }

    fn delete_services(&mut self, keys: &[ServiceKey]) -> Vec<Refused> {
        self.as_mut().delete_services(keys)
    }

    fn reset_counters(&mut self, ids: &[u32]) -> Vec<Refused> {
        self.as_mut().reset_counters(ids)
    }

    fn check_writable(&mut self) -> Result<(), MapError> {
        self.as_mut().check_writable()
    }
}

/// One open map whose keys and values have the sizes of its users' types.
#[derive(Debug)]
pub(super) struct MapFd {
    name: &'static str,
    data: MapData,
    pub(super) capacity: u32,
}

/// The maps of one instance.
#[derive(Debug)]
pub struct Maps {
    pub(super) services: MapFd,
    pub(super) slots: MapFd,
    pub(super) backends: MapFd,
    clusters: MapFd,
    control: MapFd,
    counters: MapFd,
    per_cpu: MapFd,
    replies: MapFd,
    cpus: usize,
}

/// Where the pins of an instance's current layout are.
pub fn pin_dir(bpffs: &Path, instance: &str) -> PathBuf {
    instance_dir(bpffs, instance).join(format!("v{LAYOUT}"))
}

/// Where the pins of an instance are, one folder per layout.
pub fn instance_dir(bpffs: &Path, instance: &str) -> PathBuf {
    bpffs.join("clustermesh").join(instance)
}

/// Whatever programs run, they are not the ones that belong to the maps of a folder.
pub(super) fn forget_programs(folder: &Path) -> Result<(), MapError> {
    let control = match MapFd::open::<u32, Control>(folder, "CONTROL") {
        Ok(control) => control,
        // A new one will name none.
        Err(MapError::Open { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let found: Control = control.lookup(&0_u32)?.unwrap_or_default();
    control.update(&0_u32, &[Control { object: 0, ..found }])
}

impl Maps {
    /// Opens the pinned maps of an instance.
    pub fn open_pinned(bpffs: &Path, instance: &str) -> Result<Self, MapError> {
        Self::open(&pin_dir(bpffs, instance).join("maps"))
    }

    /// Opens the maps pinned in a folder and checks their shapes.
    pub(super) fn open(folder: &Path) -> Result<Self, MapError> {
        Ok(Self {
            services: MapFd::open::<ServiceKey, ServiceCell>(folder, "SERVICES")?,
            slots: MapFd::open::<u32, SlotEntry>(folder, "SLOTS")?,
            backends: MapFd::open::<u32, BackendEntry>(folder, "BACKENDS")?,
            clusters: MapFd::open::<u32, ClusterStates>(folder, "CLUSTERS")?,
            control: MapFd::open::<u32, Control>(folder, "CONTROL")?,
            counters: MapFd::open::<u32, Counter>(folder, "COUNTERS")?,
            per_cpu: MapFd::open::<u32, Cpu>(folder, "CPUS")?,
            replies: MapFd::open::<ReplyKey, ReplyEntry>(folder, "REPLIES")?,
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

    /// For how many pairs of an unconnected UDP socket and a backend there is room.
    pub fn replies(&self) -> u32 {
        self.replies.capacity
    }

    /// Everything that a mirror is restored from.
    pub fn contents(&self) -> Result<Contents, MapError> {
        let mut contents = self.entries_and_slots()?;
        contents.backends = self.backends_in_use(usize::MAX)?;
        Ok(contents)
    }

    /// The same without backends to which nothing leads; cheap where little of the maps is used.
    pub fn contents_in_use(&self) -> Result<Contents, MapError> {
        let mut contents = self.entries_and_slots()?;
        let last = contents.slots.iter().map(|slot| slot.backend).max().unwrap_or(0);
        contents.backends = self.backends_in_use(usize::try_from(last).unwrap_or(usize::MAX - 1) + 1)?;
        Ok(contents)
    }

    fn entries_and_slots(&self) -> Result<Contents, MapError> {
        let services = self.services.dump::<ServiceKey, ServiceCell>(usize::MAX, How::Locked)?;
        let services: Vec<_> = services.iter().map(|(key, cell)| (*key, *cell.entry())).collect();
        let groups = services.iter().flat_map(|(_, entry)| &entry.groups);
        let used = groups.map(|group| group.first.saturating_add(group.count)).max().unwrap_or(0);
        let used = used.min(self.slots.capacity);
        let slots: Vec<(u32, SlotEntry)> = if used == 0 {
            Vec::new()
        } else {
            self.slots.dump(usize::try_from(used).unwrap_or(usize::MAX), How::Plain)?
        };
        let slots = slots.into_iter().map(|(_, slot)| slot).collect();
        Ok(Contents { services, slots, backends: Vec::new() })
    }

    fn backends_in_use(&self, limit: usize) -> Result<Vec<(u32, BackendEntry)>, MapError> {
        let backends: Vec<(u32, BackendEntry)> = self.backends.dump(limit, How::Plain)?;
        Ok(backends.into_iter().filter(|(_, entry)| entry.state != STATE_FREE).collect())
    }

    pub fn read_clusters(&self) -> Result<Box<ClusterStates>, MapError> {
        let states = self.clusters.lookup::<u32, ClusterStates>(&0)?;
        Ok(Box::new(states.unwrap_or(ClusterStates { state: [0; mesh_abi::MAX_CLUSTERS] })))
    }

    /// For a task that judges clusters, through maps that it has opened itself: planning never writes here, and nothing
    /// waits for a plan.
    pub fn write_clusters(&mut self, states: &ClusterStates) -> Result<(), MapError> {
        self.clusters.update(&0_u32, std::slice::from_ref(states))
    }

    pub fn read_control(&self) -> Result<Control, MapError> {
        Ok(self.control.lookup(&0_u32)?.unwrap_or_default())
    }

    pub fn write_control(&mut self, control: &Control) -> Result<(), MapError> {
        self.control.update(&0_u32, std::slice::from_ref(control))
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

    /// How often each outcome happened, in the order of [`mesh_abi::Outcome`].
    pub fn read_outcomes(&self) -> Result<[u64; OUTCOMES], MapError> {
        let cpus: Vec<Cpu> = self.per_cpu.lookup_per_cpu(0, self.cpus)?;
        Ok(std::array::from_fn(|outcome| cpus.iter().map(|cpu| cpu.outcomes[outcome]).sum()))
    }

    /// The same of one CPU, by its place among the possible ones.
    pub(super) fn read_outcomes_of(&self, cpu: usize) -> Result<[u64; OUTCOMES], MapError> {
        let cpus: Vec<Cpu> = self.per_cpu.lookup_per_cpu(0, self.cpus)?;
        Ok(cpus.get(cpu).map(|cpu| cpu.outcomes).unwrap_or_default())
    }

    /// Writes new entries beside those that count, then switches to them; see [`ServiceCell`].
    fn write_versions(&self, entries: &[(ServiceKey, ServiceEntry)]) -> Vec<Refused> {
        let mut refused = Vec::new();
        let mut prepared = Vec::with_capacity(entries.len());
        for (index, (key, entry)) in entries.iter().enumerate() {
            match self.services.lookup::<_, ServiceCell>(key) {
                Ok(Some(cell)) => prepared.push((index, true, (*key, cell.prepared(*entry)))),
                Ok(None) => prepared.push((index, false, (*key, ServiceCell::new(*entry)))),
                Err(error) => refused.push(Refused { index, error }),
            }
        }
        let failed = self.write_cells(&prepared, &mut refused);
        let switched =
            prepared.into_iter().enumerate().filter(|(at, (_, kept, _))| *kept && !failed.contains(at));
        let switched = switched.map(|(_, (index, kept, (key, cell)))| (index, kept, (key, cell.switched())));
        self.write_cells(&switched.collect::<Vec<_>>(), &mut refused);
        refused
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

impl Datapath for Maps {
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

impl MapFd {
    fn open<K: Plain, V: Plain>(folder: &Path, name: &'static str) -> Result<Self, MapError> {
        let path = folder.join(name);
        let opened = MapData::from_pin(&path).and_then(|data| Ok((data.info()?, data)));
        let (info, data) = opened.map_err(|source| {
            let hint = Hint::of(&source).or("is the agent of this instance installed on this node?");
            MapError::Open { name, path, hint, source: Box::new(source) }
        })?;
        let (key, value) = (size_of::<K>(), size_of::<V>());
        let same = |found: u32, wanted: usize| usize::try_from(found).is_ok_and(|found| found == wanted);
        if !same(info.key_size(), key) || !same(info.value_size(), value) {
            let (found_key, found_value) = (info.key_size(), info.value_size());
            return Err(MapError::Shape { name, found_key, found_value, key, value });
        }
        Ok(Self { name, data, capacity: info.max_entries() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    pub(super) fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> MapError {
        let name = self.name;
        move |source| MapError::Call { action, name, source }
    }

    pub(super) fn lookup<K: Plain, V: Plain>(&self, key: &K) -> Result<Option<V>, MapError> {
        sys::lookup(self.fd(), key).map_err(self.failed("reading"))
    }

    fn lookup_per_cpu<V: Plain>(&self, index: u32, cpus: usize) -> Result<Vec<V>, MapError> {
        sys::lookup_per_cpu(self.fd(), index, cpus).map_err(self.failed("reading"))
    }

    fn update<K: Plain, V: Plain>(&self, key: &K, value: &[V]) -> Result<(), MapError> {
        sys::update(self.fd(), key, value, How::Plain).map_err(self.failed("writing"))
    }

    fn dump<K: Plain, V: Plain>(&self, limit: usize, how: How) -> Result<Vec<(K, V)>, MapError> {
        let capacity = usize::try_from(self.capacity).unwrap_or(usize::MAX);
        scan::dump(self.fd(), limit.min(capacity), how).map_err(self.failed("reading"))
    }

    fn update_all<K: Plain, V: Plain>(
        &self,
        entries: &[(K, V)],
        flag: &'static str,
        how: How,
    ) -> Vec<Refused> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
        let refused = batch::update(self.fd(), &keys, &values, how);
        let error = |source: io::Error| match source.raw_os_error() {
            Some(libc::E2BIG) => MapError::Full { name: self.name, capacity: self.capacity, flag },
            _ => MapError::Call { action: "writing", name: self.name, source },
        };
        refused.into_iter().map(|(index, source)| Refused { index, error: error(source) }).collect()
    }
}
