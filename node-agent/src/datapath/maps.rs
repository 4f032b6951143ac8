//! The maps of an instance, by owner: each owner's maps are a value of their own, so that none waits for another.

use std::io;
use std::path::{Path, PathBuf};

use mesh_abi::{BackendEntry, LAYOUT, ReplyEntry, ReplyKey, ServiceEntry, ServiceKey, SlotEntry, TableKey};

use super::clusters::ClusterMap;
use super::control::ControlMap;
use super::hint::Hint;
use super::map_fd::MapFd;
use super::outcomes::OutcomeMap;
use super::service_maps::ServiceMaps;

/// Names of the maps in the object, and of their pins.
pub const NAMES: [&str; 11] = [
    "SERVICES", "GROUPS", "SLOTS", "BACKENDS", "CLUSTERS", "CONTROL", "COUNTERS", "CPUS", "ORIGINS",
    "SOCKETS", "REPLIES",
];

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
    /// Removes groups that no service has any more. A key that is not there is fine.
    fn delete_tables(&mut self, keys: &[TableKey]) -> Vec<Refused>;
    /// These count from zero again.
    fn reset_counters(&mut self, ids: &[u32]) -> Vec<Refused>;
    /// Whether the maps can be written at all: writes an element of each that changes nothing.
    fn check_writable(&mut self) -> Result<(), MapError>;
}

/// The maps of one instance, to be given to their owners.
#[derive(Debug)]
pub struct Maps {
    /// The planner's.
    pub services: ServiceMaps,
    /// Of whoever judges clusters.
    pub clusters: ClusterMap,
    /// The heartbeat's.
    pub control: ControlMap,
    /// The programs': everybody else reads.
    pub outcomes: OutcomeMap,
    /// The programs' memory of unconnected UDP: only its size is anybody else's business.
    replies: MapFd,
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
            services: ServiceMaps::open(folder)?,
            clusters: ClusterMap::open(folder)?,
            control: ControlMap::open(folder)?,
            outcomes: OutcomeMap::open(folder)?,
            replies: MapFd::open::<ReplyKey, ReplyEntry>(folder, "REPLIES")?,
        })
    }

    /// For how many pairs of an unconnected UDP socket and a backend there is room.
    pub fn replies(&self) -> u32 {
        self.replies.capacity
    }
}
