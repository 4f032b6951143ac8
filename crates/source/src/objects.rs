//! What a source's objects add up to: a table for each kind, and the snapshot over them.
//!
//! A source lists what it has of each kind, says of which objects the last good value stays, and ends the list; in
//! between objects are put and deleted one by one. Only Services that changed, or whose slices did, get a new `Arc` in the
//! snapshot.

mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::name::{NodeName, ServiceName, SliceName};
use mesh_model::record::limits::BeyondLimit;
use mesh_model::snapshot::{ClusterSnapshot, Node, Service, Slice};
use mesh_model::table::Knowledge;

use crate::convert::{NodeEntry, OwnedSlice, SliceKey};
use crate::kinds::{Part, Tables};

pub use crate::kinds::{Kind, Object, ObjectKey};

type Slices = BTreeMap<SliceName, Arc<Slice>>;

/// What has changed since the snapshot was made.
#[derive(Debug, Default)]
struct Dirty {
    /// Their own fields, or which slices they have.
    services: BTreeSet<ServiceName>,
    /// What slices hold.
    slices: BTreeSet<SliceKey>,
    nodes: BTreeSet<NodeName>,
}

/// The objects of a source.
#[derive(Debug, Default)]
pub struct Objects {
    /// The node from which local backends are looked at; none for an exporter.
    node: Option<NodeName>,
    zone: Option<String>,
    /// Also slices of Services that are not global, or not there yet.
    tables: Tables,
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
    listing: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    /// Whether there is something without a name, by kind.
    nameless: BTreeSet<Kind>,
    /// Whether the snapshot doesn't say so yet.
    moved: bool,
}

impl Unread {
    fn keys_for(&mut self, kind: Kind) -> &mut BTreeSet<ObjectKey> {
        self.moved = true;
        self.listing.get_mut(&kind).unwrap_or(&mut self.keys)
    }

    fn is_known(&mut self, key: &ObjectKey) {
        let among = self.listing.get_mut(&key.kind()).unwrap_or(&mut self.keys);
        self.moved |= among.remove(key);
    }

    fn end_list(&mut self, kind: Kind) {
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
    pub(crate) fn remember(&mut self, before: &ClusterSnapshot) {
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
    pub(crate) fn unconfirmed(&self) -> impl Iterator<Item = &ObjectKey> {
        self.unconfirmed.iter()
    }

    /// Whether there is something of a kind that does not even tell its name, of which nobody knows what it was.
    pub fn has_nameless(&mut self, kind: Kind, nameless: bool) {
        if !kind.is_in_snapshots() {
            return;
        }
        let unread = &mut self.unread;
        unread.moved |= if nameless { unread.nameless.insert(kind) } else { unread.nameless.remove(&kind) };
    }

    /// Begins a list of everything that the source has of a kind.
    pub fn begin_list(&mut self, kind: Kind) {
        self.unread.listing.insert(kind, BTreeSet::new());
        kind.operations().begin_list(&mut self.tables);
    }

    /// An object was listed or has changed.
    pub fn put(&mut self, object: Object) {
        let key = object.key();
        self.is_known(&key);
        let changed = key.kind().operations().put(&mut self.tables, object);
        self.note(changed);
    }

    /// An object exists but cannot be read: its last good value, if any, stays.
    pub fn keep(&mut self, key: &ObjectKey) {
        key.kind().operations().keep(&mut self.tables, key);
        if !is_in(&self.tables, key) {
            self.unread.keys_for(key.kind()).insert(key.clone());
        }
    }

    /// An object was deleted, or is none for the mesh any more.
    pub(crate) fn delete(&mut self, key: &ObjectKey) {
        self.is_known(key);
        let changed = key.kind().operations().delete(&mut self.tables, key);
        self.note(changed);
    }

    fn is_known(&mut self, key: &ObjectKey) {
        self.unread.is_known(key);
        self.unread.moved |= self.unconfirmed.remove(key);
    }

    /// Ends a list: what was neither put nor kept goes, if the list says everything.
    pub fn end_list(&mut self, kind: Kind, knowledge: Knowledge) {
        self.unread.end_list(kind);
        self.has_slices |= kind == Kind::Slice;
        let changed = kind.operations().end_list(&mut self.tables, knowledge);
        self.note(changed);
        let Self { unconfirmed, unread, tables, .. } = self;
        unread.moved |= !unconfirmed.is_empty();
        unconfirmed.retain(|key| is_in(tables, key));
        unread.keys.retain(|key| !is_in(tables, key));
    }

    /// Notes what of the snapshot has to be made anew.
    fn note(&mut self, changed: impl IntoIterator<Item = Part>) {
        for part in changed {
            match part {
                Part::Service(name) => {
                    self.dirty.services.insert(name);
                }
                Part::Slice { key, was_of } => self.move_slice(&key, was_of),
                Part::Node(name) => {
                    self.dirty.nodes.insert(name);
                }
            }
        }
    }

    /// The last good value of a Service, without its slices.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.tables.service.get(name)
    }

    /// The ranges of all ServiceCIDRs.
    pub(crate) fn service_cidrs(&self) -> impl Iterator<Item = IpNet> {
        self.tables.service_cidr.entries().values().flat_map(|ranges| ranges.iter().copied())
    }

    /// What of Services is beyond a limit of records, as of the last refresh.
    pub(crate) fn beyond(&self) -> impl Iterator<Item = (&ServiceName, &BeyondLimit)> {
        self.beyond.iter().flat_map(|(name, all)| all.iter().map(move |one| (name, one)))
    }

    /// The snapshot as of the last refresh.
    pub fn snapshot(&self) -> &ClusterSnapshot {
        &self.snapshot
    }

    /// How many objects of a kind there are.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        kind.operations().count(&self.tables)
    }
}

fn is_in(tables: &Tables, key: &ObjectKey) -> bool {
    key.kind().operations().contains(tables, key)
}
