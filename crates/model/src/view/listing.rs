//! What a list says besides services and slices, until it ends and is applied whole.

use imbl::OrdSet;

use super::faults::Faults;
use crate::name::ServiceName;
use crate::record::{AliveRecord, ClusterRecord, Rejection, SyncedKind};

/// Which kinds the peer's exporter has marked as complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Markers {
    pub(super) services: bool,
    pub(super) endpoints: bool,
}

impl Markers {
    pub(super) fn set(&mut self, kind: SyncedKind, value: bool) {
        match kind {
            SyncedKind::Services => self.services = value,
            SyncedKind::Endpoints => self.endpoints = value,
            // Nothing that is kept here depends on nodes.
            SyncedKind::Nodes => {}
        }
    }
}

/// What a list said besides services and slices, until it ends.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) cluster: Option<Result<ClusterRecord, Rejection>>,
    pub(super) foreign: Option<Rejection>,
    pub(super) alive: Option<AliveRecord>,
    pub(super) markers: Markers,
    pub(super) faults: Faults,
    /// Services of which records are taken; none: all.
    pub(super) tracked: Option<OrdSet<ServiceName>>,
    pub(super) records_cut: Option<u64>,
}
