//! Looks at parts of the maps, to hold them against the mirror. Never decides anything.

use std::os::fd::AsFd;

use mesh_abi::{BackendEntry, ServiceEntry, ServiceKey, SlotEntry};

use super::maps::MapError;
use super::scan;
use super::service_maps::ServiceMaps;

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

impl Inspect for ServiceMaps {
    fn read_services(&self, keys: &[ServiceKey]) -> Result<Vec<Option<ServiceEntry>>, MapError> {
        keys.iter().map(|key| self.read_entry(key)).collect()
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
