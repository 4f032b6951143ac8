//! What the own cluster asks of a peer, and what that takes in the maps.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use super::PeerService;
use crate::merge::match_ports;
use crate::name::ServiceName;
use crate::snapshot::Service;

/// The services of which a peer's records are kept.
#[derive(Clone, Debug, Default)]
pub enum Interest {
    #[default]
    Everything,
    /// The own cluster has not said what it asks for; until it has, the peer's word does not count as complete.
    Unknown,
    /// What the own cluster has as a global Service. Of others nothing is kept, not even a key.
    Services(OrdMap<ServiceName, Arc<Service>>),
}

/// What a peer's service takes in the maps at most: how many frontends have its endpoints, and as how many backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) ports: u32,
    pub(super) frontends: u32,
}

/// Elements of the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) backends: u64,
    pub(super) slots: u64,
}

impl Shape {
    /// Each endpoint is a backend once for each port. A frontend's group takes slots up to a power of two.
    pub(super) fn demand(self, endpoints: usize) -> Demand {
        let endpoints = endpoints as u64;
        let group = if endpoints == 0 { 0 } else { endpoints.next_power_of_two() };
        Demand { backends: endpoints * u64::from(self.ports), slots: group * u64::from(self.frontends) }
    }

    /// How many endpoints there is room for.
    pub(super) fn room(self, left: Demand) -> usize {
        let group = left.slots / u64::from(self.frontends.max(1));
        let group = if group == 0 { 0 } else { 1 << group.ilog2() };
        usize::try_from(group.min(left.backends / u64::from(self.ports.max(1)))).unwrap_or(usize::MAX)
    }
}

impl Interest {
    fn services(&self) -> Option<OrdMap<ServiceName, Arc<Service>>> {
        match self {
            Self::Everything => None,
            Self::Unknown => Some(OrdMap::new()),
            Self::Services(services) => Some(services.clone()),
        }
    }

    /// None: of every service.
    pub(super) fn names(&self) -> Option<OrdSet<ServiceName>> {
        Some(self.services()?.keys().cloned().collect())
    }

    pub(super) fn shape(&self, name: &ServiceName, remote: &PeerService) -> Shape {
        let Some(services) = self.services() else { return Shape { ports: 1, frontends: 1 } };
        let local = services.get(name).filter(|local| !local.node_local);
        let Some(local) = local else { return Shape::default() };
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let ports = count(match_ports(&local.ports, remote.ports()).iter().flatten().count());
        Shape { ports, frontends: ports.saturating_mul(count(local.cluster_ips.len())) }
    }

    /// Names that are asked for now and were not before, or are no longer; and those whose [`Shape`] may be another.
    pub(super) fn changes(&self, before: &Self) -> Changes {
        let mut changes = Changes::default();
        let Some(new) = self.services() else { return changes };
        for item in before.services().unwrap_or_default().diff(&new) {
            match item {
                DiffItem::Add(name, _) => {
                    changes.come.insert(name.clone());
                    changes.reshaped.insert(name.clone());
                }
                DiffItem::Remove(name, _) => {
                    changes.gone.insert(name.clone());
                    changes.reshaped.insert(name.clone());
                }
                DiffItem::Update { old: (_, old), new: (name, new) } => {
                    let frame = |service: &Service| {
                        (service.node_local, service.cluster_ips.clone(), service.ports.clone())
                    };
                    if frame(old) != frame(new) {
                        changes.reshaped.insert(name.clone());
                    }
                }
            }
        }
        changes
    }
}

/// How an interest differs from the one before.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) come: BTreeSet<ServiceName>,
    pub(super) gone: BTreeSet<ServiceName>,
    pub(super) reshaped: BTreeSet<ServiceName>,
}
