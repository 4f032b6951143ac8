//! What a source's objects add up to: tables of Services, slices and Nodes, and the snapshot over them.
//!
//! A source lists what it has of each kind, says of which objects the last good value stays, and ends the list; in
//! between objects come and go one by one. Only Services that changed, or whose slices did, get a new `Arc` in the
//! snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_model::name::{NodeName, ServiceName, SliceName};
use mesh_model::record::limits::{BeyondLimit, beyond_limits};
use mesh_model::snapshot::{self, ClusterSnapshot, Node, Service, Slice};
use mesh_model::table::{Knowledge, Table};
use serde::{Deserialize, Serialize};

use crate::convert::{Hints, NodeEntry, OwnedSlice, SliceKey};
use crate::packed::PackedSlice;
use crate::topology::{Viewpoint, narrow};

type Slices = BTreeMap<SliceName, Arc<Slice>>;

/// The kinds that are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listed {
    Services,
    Slices,
    Nodes,
}

impl Listed {
    pub const ALL: [Self; 3] = [Self::Services, Self::Slices, Self::Nodes];
}

/// Identifies an object of a kind that we read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKey {
    Service(ServiceName),
    Slice(SliceKey),
    Node(NodeName),
}

impl ObjectKey {
    fn kind(&self) -> Listed {
        match self {
            Self::Service(_) => Listed::Services,
            Self::Slice(_) => Listed::Slices,
            Self::Node(_) => Listed::Nodes,
        }
    }
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
    Node(NodeName, Arc<NodeEntry>),
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

/// What has changed since the snapshot was made.
#[derive(Debug, Default)]
struct Dirty {
    /// Their own fields, or which slices they have.
    services: BTreeSet<ServiceName>,
    /// Contents of slices.
    slices: BTreeSet<SliceKey>,
    nodes: BTreeSet<NodeName>,
}

/// The objects of a source.
#[derive(Debug, Default)]
pub struct Objects {
    /// The node from which local backends are looked at; none for an exporter.
    node: Option<NodeName>,
    zone: Option<String>,
    services: Table<ServiceName, Arc<Service>>,
    /// Also slices of Services that are not global, or not there yet.
    slices: Table<SliceKey, Arc<PackedSlice>>,
    nodes: Table<NodeName, Arc<NodeEntry>>,
    by_service: BTreeMap<ServiceName, BTreeSet<SliceName>>,
    dirty: Dirty,
    unread: Unread,
    /// Remembered from before this process, and not said again yet.
    unconfirmed: BTreeSet<ObjectKey>,
    /// Whether slices were ever listed to the end: before, all that is remembered is unconfirmed.
    has_slices: bool,
    snapshot: ClusterSnapshot,
    /// Services of which other clusters don't get all.
    beyond: BTreeMap<ServiceName, Vec<BeyondLimit>>,
}

/// What exists and can't be read, where no earlier value is known either.
#[derive(Debug, Default)]
struct Unread {
    keys: BTreeSet<ObjectKey>,
    /// Of lists that have not ended.
    listing: BTreeMap<Listed, BTreeSet<ObjectKey>>,
    /// Whether there is something without a name, by kind.
    nameless: BTreeSet<Listed>,
    /// Whether the snapshot doesn't say so yet.
    moved: bool,
}

impl Unread {
    fn keys_for(&mut self, kind: Listed) -> &mut BTreeSet<ObjectKey> {
        self.moved = true;
        self.listing.get_mut(&kind).unwrap_or(&mut self.keys)
    }

    fn is_known(&mut self, key: &ObjectKey) {
        let among = self.listing.get_mut(&key.kind()).unwrap_or(&mut self.keys);
        self.moved |= among.remove(key);
    }

    fn end_list(&mut self, kind: Listed) {
        if let Some(listed) = self.listing.remove(&kind) {
            self.moved |= !listed.is_empty() || self.keys.iter().any(|key| key.kind() == kind);
            self.keys.retain(|key| key.kind() != kind);
            self.keys.extend(listed);
        }
    }
}

impl Objects {
    /// `node`: where the clients are that topology hints are for.
    pub fn new(node: Option<NodeName>) -> Self {
        Self { node, ..Self::default() }
    }

    /// Begins with what a process before this one knew. What the first list does not say goes, as ever.
    pub fn remember(&mut self, before: &ClusterSnapshot) {
        for (name, service) in &before.services {
            for (slice, value) in &service.slices {
                let key = SliceKey { namespace: name.namespace().into(), name: slice.clone() };
                let owned =
                    OwnedSlice { service: name.clone(), slice: Slice::clone(value), hints: Vec::new() };
                self.put(Object::Slice(key.clone(), Arc::new(owned)));
                self.unconfirmed.insert(key.into());
            }
            let base = Service { slices: Slices::new(), ..Service::clone(service) };
            self.put(Object::Service(name.clone(), Arc::new(base)));
            self.unconfirmed.insert(name.clone().into());
        }
        for (name, node) in &before.nodes {
            let entry = NodeEntry { node: Node::clone(node), zone: None };
            self.put(Object::Node(name.clone(), Arc::new(entry)));
            self.unconfirmed.insert(name.clone().into());
        }
    }

    /// What a process before this one knew and the source has not said again.
    pub fn unconfirmed(&self) -> impl Iterator<Item = &ObjectKey> {
        self.unconfirmed.iter()
    }

    /// Whether there is something of a kind that does not even tell its name, of which nobody knows what it was.
    pub fn has_nameless(&mut self, kind: Listed, nameless: bool) {
        let unread = &mut self.unread;
        unread.moved |= if nameless { unread.nameless.insert(kind) } else { unread.nameless.remove(&kind) };
    }

    /// Begins a list of everything that the source has of a kind.
    pub fn begin_list(&mut self, kind: Listed) {
        self.unread.listing.insert(kind, BTreeSet::new());
        match kind {
            Listed::Services => self.services.begin_list(),
            Listed::Slices => self.slices.begin_list(),
            Listed::Nodes => self.nodes.begin_list(),
        }
    }

    /// An object was listed or has changed.
    pub fn put(&mut self, object: Object) {
        let key = object.key();
        self.unread.is_known(&key);
        self.unread.moved |= self.unconfirmed.remove(&key);
        match object {
            Object::Service(name, service) => {
                if self.services.put(name.clone(), service) {
                    self.dirty.services.insert(name);
                }
            }
            Object::Slice(key, slice) => {
                let old = self.slices.get(&key).cloned();
                if self.slices.put(key.clone(), Arc::new(PackedSlice::from(&*slice))) {
                    self.move_slice(key, old.as_ref());
                }
            }
            Object::Node(name, node) => {
                if self.nodes.put(name.clone(), node) {
                    self.dirty.nodes.insert(name);
                }
            }
        }
    }

    /// An object exists but cannot be read: its last good value, if any, stays.
    pub fn keep(&mut self, key: &ObjectKey) {
        let known = match key {
            ObjectKey::Service(name) => {
                self.services.keep(name);
                self.services.get(name).is_some()
            }
            ObjectKey::Slice(key) => {
                self.slices.keep(key);
                self.slices.get(key).is_some()
            }
            ObjectKey::Node(name) => {
                self.nodes.keep(name);
                self.nodes.get(name).is_some()
            }
        };
        if !known {
            self.unread.keys_for(key.kind()).insert(key.clone());
        }
    }

    /// An object is gone, or none for the mesh any more.
    pub fn delete(&mut self, key: &ObjectKey) {
        self.unread.is_known(key);
        self.unread.moved |= self.unconfirmed.remove(key);
        match key {
            ObjectKey::Service(name) => {
                if self.services.delete(name, Knowledge::Complete) {
                    self.dirty.services.insert(name.clone());
                }
            }
            ObjectKey::Slice(key) => {
                let old = self.slices.get(key).cloned();
                if self.slices.delete(key, Knowledge::Complete) {
                    self.move_slice(key.clone(), old.as_ref());
                }
            }
            ObjectKey::Node(name) => {
                if self.nodes.delete(name, Knowledge::Complete) {
                    self.dirty.nodes.insert(name.clone());
                }
            }
        }
    }

    /// The last good value of a Service, without its slices.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// Ends a list: what was neither put nor kept goes, if the list says everything.
    pub fn end_list(&mut self, kind: Listed, knowledge: Knowledge) {
        self.unread.end_list(kind);
        self.has_slices |= kind == Listed::Slices;
        match kind {
            Listed::Services => {
                let changed = self.services.end_list(knowledge);
                self.dirty.services.extend(changed);
            }
            Listed::Slices => {
                let old = self.slices.entries().clone();
                for key in self.slices.end_list(knowledge) {
                    self.move_slice(key.clone(), old.get(&key));
                }
            }
            Listed::Nodes => {
                let changed = self.nodes.end_list(knowledge);
                self.dirty.nodes.extend(changed);
            }
        }
        let Self { unconfirmed, unread, services, slices, nodes, .. } = self;
        let is_known = |key: &ObjectKey| match key {
            ObjectKey::Service(name) => services.get(name).is_some(),
            ObjectKey::Slice(key) => slices.get(key).is_some(),
            ObjectKey::Node(name) => nodes.get(name).is_some(),
        };
        unread.moved |= !unconfirmed.is_empty();
        unconfirmed.retain(|key| is_known(key));
        unread.keys.retain(|key| !is_known(key));
    }

    /// Brings the snapshot up to date. Returns whether it changed.
    pub fn refresh(&mut self) -> bool {
        let Dirty { mut services, slices, nodes } = std::mem::take(&mut self.dirty);
        let mut changed = false;
        for name in nodes {
            changed |= self.refresh_node(&name);
        }
        if self.move_viewpoint() {
            services.extend(self.snapshot.services.keys().cloned());
        }
        for name in services {
            changed |= self.refresh_service(&name, &slices);
        }
        changed | self.refresh_unread()
    }

    fn refresh_unread(&mut self) -> bool {
        // Slices of unread Services go on changing.
        let has_services = !self.snapshot.unread.services.is_empty();
        if !std::mem::take(&mut self.unread.moved) && !has_services {
            return false;
        }
        let anything = !self.unread.nameless.is_empty();
        let mut unread =
            snapshot::Unread { anything, stale: self.stale().collect(), ..snapshot::Unread::default() };
        for key in &self.unread.keys {
            match key {
                ObjectKey::Service(name) => {
                    let slices = self.slices_of(name, None, &BTreeSet::new());
                    unread.services.insert(name.clone(), slices);
                }
                ObjectKey::Slice(key) => {
                    unread.slices.insert((key.namespace.clone(), key.name.clone()));
                }
                ObjectKey::Node(name) => {
                    unread.nodes.insert(name.clone());
                }
            }
        }
        let changed = self.snapshot.unread != unread;
        if changed {
            self.snapshot.unread = unread;
        }
        changed
    }

    /// The Services of slices that are only remembered.
    fn stale(&self) -> impl Iterator<Item = ServiceName> {
        let unconfirmed = self.unconfirmed.iter().filter(|_| self.has_slices);
        unconfirmed.filter_map(|key| match key {
            ObjectKey::Slice(key) => self.slices.get(key).map(|slice| slice.service.clone()),
            ObjectKey::Service(_) | ObjectKey::Node(_) => None,
        })
    }

    /// What of Services is beyond a limit of records, as of the last refresh.
    pub fn beyond(&self) -> impl Iterator<Item = (&ServiceName, &BeyondLimit)> {
        self.beyond.iter().flat_map(|(name, all)| all.iter().map(move |one| (name, one)))
    }

    /// The snapshot as of the last refresh.
    pub fn snapshot(&self) -> &ClusterSnapshot {
        &self.snapshot
    }

    /// How many Services, slices and Nodes there are.
    pub fn counts(&self) -> [usize; 3] {
        [self.services.entries().len(), self.slices.entries().len(), self.nodes.entries().len()]
    }

    fn move_slice(&mut self, key: SliceKey, old: Option<&Arc<PackedSlice>>) {
        let new = self.slices.get(&key).map(|slice| slice.service.clone());
        if let Some(old) = old.filter(|old| new.as_ref() != Some(&old.service)) {
            if let Some(slices) = self.by_service.get_mut(&old.service) {
                slices.remove(&key.name);
                if slices.is_empty() {
                    self.by_service.remove(&old.service);
                }
            }
            self.touch(&old.service);
        }
        if let Some(service) = new {
            self.by_service.entry(service.clone()).or_default().insert(key.name.clone());
            if self.touch(&service) {
                self.dirty.slices.insert(key);
            }
        }
    }

    /// Whether anybody looks at the slices of a Service.
    fn touch(&mut self, service: &ServiceName) -> bool {
        let counts = self.services.get(service).is_some() || self.snapshot.services.contains_key(service);
        if counts {
            self.dirty.services.insert(service.clone());
        }
        counts
    }

    fn refresh_node(&mut self, name: &NodeName) -> bool {
        let nodes = &mut self.snapshot.nodes;
        let Some(entry) = self.nodes.get(name) else { return nodes.remove(name).is_some() };
        if nodes.get(name).is_some_and(|old| **old == entry.node) {
            return false;
        }
        nodes.insert(name.clone(), Arc::new(entry.node.clone()));
        true
    }

    /// Whether the own node is in another zone than before.
    fn move_viewpoint(&mut self) -> bool {
        let Some(entry) = self.node.as_ref().and_then(|node| self.nodes.get(node)) else { return false };
        let moved = self.zone != entry.zone;
        if moved {
            self.zone.clone_from(&entry.zone);
        }
        moved
    }

    fn refresh_service(&mut self, name: &ServiceName, dirty: &BTreeSet<SliceKey>) -> bool {
        let Some(base) = self.services.get(name) else {
            self.beyond.remove(name);
            return self.snapshot.services.remove(name).is_some();
        };
        let old = self.snapshot.services.get(name);
        let slices = self.slices_of(name, old, dirty);
        let service = Service { slices, ..Service::clone(base) };
        if old.is_some_and(|old| **old == service) {
            return false;
        }
        let beyond = beyond_limits(&service);
        if beyond.is_empty() {
            self.beyond.remove(name);
        } else {
            self.beyond.insert(name.clone(), beyond);
        }
        self.snapshot.services.insert(name.clone(), Arc::new(service));
        true
    }

    /// The slices of a Service. Those that are as before keep their `Arc`.
    fn slices_of(
        &self,
        name: &ServiceName,
        old: Option<&Arc<Service>>,
        dirty: &BTreeSet<SliceKey>,
    ) -> Slices {
        let names = self.by_service.get(name).into_iter().flatten();
        let keys = names.map(|slice| SliceKey { namespace: name.namespace().into(), name: slice.clone() });
        let packed: Vec<_> = keys.filter_map(|key| Some((self.slices.get(&key)?, key))).collect();
        // Hints of one slice say something about the endpoints of the others.
        let hinted = self.node.is_some() && packed.iter().any(|(slice, _)| slice.hinted);
        let before = |slice: &SliceName| old.and_then(|old| old.slices.get(slice));
        let (mut slices, mut hints) = (Slices::new(), BTreeMap::new());
        for (packed, key) in packed {
            let known = before(&key.name).filter(|_| !hinted && !dirty.contains(&key));
            let slice = known.cloned().unwrap_or_else(|| {
                let owned = packed.unpack();
                hints.insert(key.name.clone(), owned.hints);
                Arc::new(owned.slice)
            });
            slices.insert(key.name, slice);
        }
        if hinted {
            self.narrow(&mut slices, &hints);
        }
        for (name, slice) in &mut slices {
            if let Some(same) = before(name).filter(|old| *old == slice) {
                *slice = same.clone();
            }
        }
        slices
    }

    fn narrow(&self, slices: &mut Slices, hints: &BTreeMap<SliceName, Vec<Hints>>) {
        let Some(node) = &self.node else { return };
        let view = Viewpoint { node: node.as_str(), zone: self.zone.as_deref() };
        for v4 in [true, false] {
            let of_family = slices.iter_mut().filter_map(|(name, slice)| {
                let first = slice.endpoints.first()?;
                let hints = hints.get(name)?;
                (first.address.is_ipv4() == v4).then(|| (Arc::make_mut(slice), hints.as_slice()))
            });
            narrow(view, &mut of_family.collect::<Vec<_>>());
        }
    }
}
