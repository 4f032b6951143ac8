//! The maps as typed values. Owns their names and shapes; never decides what they hold.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use mesh_abi::{
    BackendEntry, ClusterStates, Control, Counter, Cpu, LAYOUT, OUTCOMES, Plain, ReplyEntry, ReplyKey,
    STATE_FREE, ServiceCell, ServiceEntry, ServiceKey, SlotEntry,
};

use super::actual::Capacity;
use super::batch;
use super::restore::Contents;
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
    #[error("opening map {name} at {path}; is the agent of this instance installed on this node?", path = .path.display())]
    Open { name: &'static str, path: PathBuf, source: Box<aya::maps::MapError> },
    #[error(
        "map {name} has keys of {found_key} and values of {found_value} bytes instead of {key} and {value}: it is \
         not of this version; run `node-agent uninstall` first"
    )]
    Shape { name: &'static str, found_key: u32, found_value: u32, key: usize, value: usize },
    #[error("map {name} is full ({capacity} elements): raise {flag}")]
    Full { name: &'static str, capacity: u32, flag: &'static str },
    #[error("{action} map {name}")]
    Call { action: &'static str, name: &'static str, source: io::Error },
    #[error("waiting for a grace period")]
    Grace(#[source] io::Error),
}

/// The writes that carry a plan out.
pub trait Datapath {
    fn write_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Result<(), MapError>;
    fn write_slots(&mut self, entries: &[(u32, SlotEntry)]) -> Result<(), MapError>;
    fn write_services(&mut self, entries: &[(ServiceKey, ServiceEntry)]) -> Result<(), MapError>;
    /// A key that is not there is fine.
    fn delete_services(&mut self, keys: &[ServiceKey]) -> Result<(), MapError>;
}

/// One open map whose keys and values have the sizes of its users' types.
#[derive(Debug)]
struct MapFd {
    name: &'static str,
    data: MapData,
    capacity: u32,
}

/// The maps of one instance.
#[derive(Debug)]
pub struct Maps {
    services: MapFd,
    slots: MapFd,
    backends: MapFd,
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
            cpus: sys::possible_cpus().map_err(|source| MapError::Call {
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
        let backends: Vec<(u32, BackendEntry)> = self.backends.dump(usize::MAX, How::Plain)?;
        Ok(Contents {
            services,
            slots: slots.into_iter().map(|(_, slot)| slot).collect(),
            backends: backends.into_iter().filter(|(_, entry)| entry.state != STATE_FREE).collect(),
        })
    }

    pub fn read_clusters(&self) -> Result<Box<ClusterStates>, MapError> {
        let states = self.clusters.lookup::<u32, ClusterStates>(&0)?;
        Ok(Box::new(states.unwrap_or(ClusterStates { state: [0; mesh_abi::MAX_CLUSTERS] })))
    }

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

    pub fn reset_counters(&mut self, ids: &[u32]) -> Result<(), MapError> {
        let zero = vec![Counter::default(); self.cpus];
        ids.iter().try_for_each(|id| self.counters.update(id, &zero))
    }

    /// How often each outcome happened, in the order of [`mesh_abi::Outcome`].
    pub fn read_outcomes(&self) -> Result<[u64; OUTCOMES], MapError> {
        let cpus: Vec<Cpu> = self.per_cpu.lookup_per_cpu(0, self.cpus)?;
        Ok(std::array::from_fn(|outcome| cpus.iter().map(|cpu| cpu.outcomes[outcome]).sum()))
    }

    /// Writes new entries beside those that count, then switches to them; see [`ServiceCell`].
    fn write_versions(&self, entries: &[(ServiceKey, ServiceEntry)]) -> Result<(), MapError> {
        let mut cells = Vec::with_capacity(entries.len());
        let mut kept = Vec::with_capacity(entries.len());
        for (key, entry) in entries {
            let found: Option<ServiceCell> = self.services.lookup(key)?;
            cells.push((*key, found.map_or_else(|| ServiceCell::new(*entry), |cell| cell.prepared(*entry))));
            kept.push(found.is_some());
        }
        self.services.update_all(&cells, "--max-services", How::Locked)?;
        let kept = cells.into_iter().zip(kept).filter(|(_, kept)| *kept);
        let switched: Vec<_> = kept.map(|((key, cell), _)| (key, cell.switched())).collect();
        self.services.update_all(&switched, "--max-services", How::Locked)
    }
}

impl Datapath for Maps {
    fn write_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Result<(), MapError> {
        self.backends.update_all(entries, "--max-backends", How::Plain)
    }

    fn write_slots(&mut self, entries: &[(u32, SlotEntry)]) -> Result<(), MapError> {
        self.slots.update_all(entries, "--max-slots", How::Plain)
    }

    fn write_services(&mut self, entries: &[(ServiceKey, ServiceEntry)]) -> Result<(), MapError> {
        entries.chunks(CHUNK).try_for_each(|chunk| self.write_versions(chunk))
    }

    fn delete_services(&mut self, keys: &[ServiceKey]) -> Result<(), MapError> {
        keys.iter().try_for_each(|key| {
            sys::delete(self.services.fd(), key).map(drop).map_err(self.services.failed("deleting from"))
        })
    }
}

/// Returns once every program that was running at the call has ended.
pub fn wait_grace_period() -> Result<(), MapError> {
    sys::wait_grace_period().map_err(MapError::Grace)
}

impl MapFd {
    fn open<K: Plain, V: Plain>(folder: &Path, name: &'static str) -> Result<Self, MapError> {
        let path = folder.join(name);
        let opened = MapData::from_pin(&path).and_then(|data| Ok((data.info()?, data)));
        let (info, data) =
            opened.map_err(|source| MapError::Open { name, path, source: Box::new(source) })?;
        let (key, value) = (size_of::<K>(), size_of::<V>());
        let same = |found: u32, wanted: usize| usize::try_from(found).is_ok_and(|found| found == wanted);
        if !same(info.key_size(), key) || !same(info.value_size(), value) {
            let (found_key, found_value) = (info.key_size(), info.value_size());
            return Err(MapError::Shape { name, found_key, found_value, key, value });
        }
        Ok(Self { name, data, capacity: info.max_entries() })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> MapError {
        let name = self.name;
        move |source| MapError::Call { action, name, source }
    }

    fn lookup<K: Plain, V: Plain>(&self, key: &K) -> Result<Option<V>, MapError> {
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
        sys::dump(self.fd(), limit.min(capacity), how).map_err(self.failed("reading"))
    }

    fn update_all<K: Plain, V: Plain>(
        &self,
        entries: &[(K, V)],
        flag: &'static str,
        how: How,
    ) -> Result<(), MapError> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
        batch::update(self.fd(), &keys, &values, how).map_err(|source| match source.raw_os_error() {
            Some(libc::E2BIG) => MapError::Full { name: self.name, capacity: self.capacity, flag },
            _ => MapError::Call { action: "writing", name: self.name, source },
        })
    }
}
