//! What a source's objects add up to: tables of Services, slices and Nodes, and the snapshot over them.
//!
//! A source lists everything it has, says of which objects the last good value stays, and ends the list. Only
//! Services that changed, or whose slices did, get a new `Arc` in the snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use mesh_model::name::{NodeName, ServiceName, SliceName};
use mesh_model::snapshot::{ClusterSnapshot, Node, Service, Slice};
use mesh_model::table::{Knowledge, Table};

use crate::convert::{OwnedSlice, SliceKey};

type Slices = BTreeMap<SliceName, Arc<Slice>>;

/// Identifies an object of a kind that we read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    Service(ServiceName),
    Slice(SliceKey),
    Node(NodeName),
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Slice(key) => write!(f, "EndpointSlice {}/{}", key.namespace, key.name),
            Self::Node(name) => write!(f, "Node {name}"),
        }
    }
}

impl From<ServiceName> for ObjectKey {
    fn from(name: ServiceName) -> Self {
        Self::Service(name)
    }
}

impl From<SliceKey> for ObjectKey {
    fn from(key: SliceKey) -> Self {
        Self::Slice(key)
    }
}

impl From<NodeName> for ObjectKey {
    fn from(name: NodeName) -> Self {
        Self::Node(name)
    }
}

/// An object that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// Without its slices.
    Service(ServiceName, Arc<Service>),
    Slice(SliceKey, Arc<OwnedSlice>),
    Node(NodeName, Arc<Node>),
}

impl Object {
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Service(name, _) => name.clone().into(),
            Self::Slice(key, _) => key.clone().into(),
            Self::Node(name, _) => name.clone().into(),
        }
    }
}

/// The objects of a source.
#[derive(Debug, Default)]
pub struct Objects {
    services: Table<ServiceName, Arc<Service>>,
    slices: Table<SliceKey, Arc<OwnedSlice>>,
    nodes: Table<NodeName, Arc<Node>>,
    /// Also slices of Services that are not global, or not there yet.
    by_service: BTreeMap<ServiceName, Slices>,
    snapshot: ClusterSnapshot,
}

impl Objects {
    /// Begins a list of everything that the source has.
    pub fn begin_list(&mut self) {
        self.services.begin_list();
        self.slices.begin_list();
        self.nodes.begin_list();
    }

    /// An object as listed.
    pub fn put(&mut self, object: Object) {
        match object {
            Object::Service(name, service) => self.services.put(name, service),
            Object::Slice(key, slice) => self.slices.put(key, slice),
            Object::Node(name, node) => self.nodes.put(name, node),
        };
    }

    /// An object exists but cannot be read: its last good value, if any, stays.
    pub fn keep(&mut self, key: &ObjectKey) {
        match key {
            ObjectKey::Service(name) => self.services.keep(name),
            ObjectKey::Slice(key) => self.slices.keep(key),
            ObjectKey::Node(name) => self.nodes.keep(name),
        }
    }

    /// The last good value of a Service, without its slices.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// Ends the list: what was neither put nor kept goes. Returns whether the snapshot changed.
    pub fn end_list(&mut self) -> bool {
        let old_slices = self.slices.entries().clone();
        let mut dirty: BTreeSet<ServiceName> =
            self.services.end_list(Knowledge::Complete).into_iter().collect();
        for key in self.slices.end_list(Knowledge::Complete) {
            self.move_slice(&key, old_slices.get(&key), &mut dirty);
        }
        let nodes_changed = !self.nodes.end_list(Knowledge::Complete).is_empty();
        if nodes_changed {
            self.snapshot.nodes = self.nodes.entries().clone();
        }
        let mut changed = nodes_changed;
        for name in dirty {
            changed |= self.refresh(&name);
        }
        changed
    }

    /// The snapshot as of the last list.
    pub fn snapshot(&self) -> &ClusterSnapshot {
        &self.snapshot
    }

    /// How many Services, slices and Nodes there are.
    pub fn counts(&self) -> [usize; 3] {
        [self.services.entries().len(), self.slices.entries().len(), self.nodes.entries().len()]
    }

    fn move_slice(
        &mut self,
        key: &SliceKey,
        old: Option<&Arc<OwnedSlice>>,
        dirty: &mut BTreeSet<ServiceName>,
    ) {
        if let Some(old) = old {
            if let Some(slices) = self.by_service.get_mut(&old.service) {
                slices.remove(&key.name);
                if slices.is_empty() {
                    self.by_service.remove(&old.service);
                }
            }
            dirty.insert(old.service.clone());
        }
        if let Some(new) = self.slices.get(key) {
            let slice = Arc::new(new.slice.clone());
            self.by_service.entry(new.service.clone()).or_default().insert(key.name.clone(), slice);
            dirty.insert(new.service.clone());
        }
    }

    fn refresh(&mut self, name: &ServiceName) -> bool {
        let services: &mut OrdMap<ServiceName, Arc<Service>> = &mut self.snapshot.services;
        let Some(base) = self.services.get(name) else { return services.remove(name).is_some() };
        let slices = self.by_service.get(name).cloned().unwrap_or_default();
        let service = Service { slices, ..Service::clone(base) };
        if services.get(name).is_some_and(|old| **old == service) {
            return false;
        }
        services.insert(name.clone(), Arc::new(service));
        true
    }
}
