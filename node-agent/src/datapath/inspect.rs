//! Looks at parts of the maps, to hold them against the mirror. Never decides anything.

use std::os::fd::AsFd;

use mesh_abi::{BackendEntry, ServiceCell, ServiceEntry, ServiceKey, SlotEntry};

use super::maps::{MapError, Maps};
use super::scan;
use super::sys::How;

/// Reads of a few elements.
pub trait Inspect {
    /// The entries that count; none under a key that is not there.
    fn read_services(&self, keys: &[ServiceKey]) -> Result<Vec<Option<ServiceEntry>>, MapError>;
    /// Up to so many keys behind one that was given before, in no order; none at the end.
    fn keys_after(&self, key: Option<&ServiceKey>, limit: usize) -> Result<Vec<ServiceKey>, MapError>;
    fn read_slots(&self, first: u32, count: u32) -> Result<Vec<SlotEntry>, MapError>;
    /// Fewer at the end of the map.
    fn read_backends(&self, first: u32, count: u32) -> Result<Vec<BackendEntry>, MapError>;
}

impl Inspect for Maps {
    fn read_services(&self, keys: &[ServiceKey]) -> Result<Vec<Option<ServiceEntry>>, MapError> {
        let read = |key| self.services.lookup::<_, ServiceCell>(key);
        keys.iter().map(|key| Ok(read(key)?.map(|cell| *cell.entry()))).collect()
    }

    fn keys_after(&self, key: Option<&ServiceKey>, limit: usize) -> Result<Vec<ServiceKey>, MapError> {
        let map = self.services.fd();
        let (mut keys, mut last) = (Vec::new(), key.copied());
        while keys.len() < limit {
            let next = scan::next_key(map.as_fd(), last.as_ref()).map_err(self.services.failed("reading"))?;
            let Some(next) = next else { break };
            keys.push(next);
            last = Some(next);
        }
        Ok(keys)
    }

    fn read_slots(&self, first: u32, count: u32) -> Result<Vec<SlotEntry>, MapError> {
        self.slots.read_range(first, count)
    }

    fn read_backends(&self, first: u32, count: u32) -> Result<Vec<BackendEntry>, MapError> {
        self.backends.read_range(first, count)
    }
}

impl<D: Inspect + ?Sized> Inspect for Box<D> {
    fn read_services(&self, keys: &[ServiceKey]) -> Result<Vec<Option<ServiceEntry>>, MapError> {
        self.as_ref().read_services(keys)
    }

    fn keys_after(&self, key: Option<&ServiceKey>, limit: usize) -> Result<Vec<ServiceKey>, MapError> {
        self.as_ref().keys_after(key, limit)
    }

    fn read_slots(&self, first: u32, count: u32) -> Result<Vec<SlotEntry>, MapError> {
        self.as_ref().read_slots(first, count)
    }

    fn read_backends(&self, first: u32, count: u32) -> Result<Vec<BackendEntry>, MapError> {
        self.as_ref().read_backends(first, count)
    }
}

impl super::maps::MapFd {
    /// Elements of an array.
    fn read_range<V: mesh_abi::Plain>(&self, first: u32, count: u32) -> Result<Vec<V>, MapError> {
        let end = first.saturating_add(count).min(self.capacity);
        if first >= end {
            return Ok(Vec::new());
        }
        let read = scan::range(self.fd(), first, end - first, How::Plain);
        read.map_err(self.failed("reading"))
    }
}
