//! Map `CONTROL`: what the programs go by beside services. Owned by the heartbeat, and before that by whoever attaches the
//! programs.

use std::path::Path;

use mesh_abi::Control;

use super::map_fd::MapFd;
use super::maps::MapError;

/// The control cell.
#[derive(Debug)]
pub struct ControlMap(MapFd);

impl ControlMap {
    pub(super) fn open(folder: &Path) -> Result<Self, MapError> {
        MapFd::open::<u32, Control>(folder, "CONTROL").map(Self)
    }

    pub fn read(&self) -> Result<Control, MapError> {
        Ok(self.0.lookup(&0_u32)?.unwrap_or_default())
    }

    pub fn write(&mut self, control: &Control) -> Result<(), MapError> {
        self.0.update(&0_u32, std::slice::from_ref(control))
    }
}

/// Whatever programs run, they are not the ones that belong to the maps of a folder.
pub(super) fn forget_programs(folder: &Path) -> Result<(), MapError> {
    let mut control = match ControlMap::open(folder) {
        Ok(control) => control,
        // A new one will name none.
        Err(MapError::Open { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let found = control.read()?;
    control.write(&Control { object: 0, ..found })
}
