//! Map `CLUSTERS`: the state of every cluster, owned by whoever judges clusters. Planning never writes here, and a write waits
//! for no plan: demoting a cluster is one write, whatever else is being written.

use std::path::Path;

use mesh_abi::{ClusterStates, MAX_CLUSTERS};

use super::map_fd::MapFd;
use super::maps::MapError;

/// The clusters' states.
#[derive(Debug)]
pub struct ClusterMap(MapFd);

impl ClusterMap {
    pub(super) fn open(folder: &Path) -> Result<Self, MapError> {
        MapFd::open::<u32, ClusterStates>(folder, "CLUSTERS").map(Self)
    }

    pub fn read(&self) -> Result<Box<ClusterStates>, MapError> {
        let states = self.0.lookup::<u32, ClusterStates>(&0)?;
        Ok(Box::new(states.unwrap_or(ClusterStates { state: [0; MAX_CLUSTERS] })))
    }

    pub fn write(&mut self, states: &ClusterStates) -> Result<(), MapError> {
        self.0.update(&0_u32, std::slice::from_ref(states))
    }
}
