//! The snapshot over a source's objects. Only Services that changed, or whose slices did, get a new `Arc` in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_model::name::{NodeName, ServiceName, SliceName};
use mesh_model::record::limits::beyond_limits;
use mesh_model::snapshot::{self, Service};

use super::{Dirty, Objects, Slices};
use crate::convert::{Hints, SliceKey};
use crate::kinds::{ObjectKey, Part};
use crate::topology::{Viewpoint, narrow};

impl Objects {
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
        let parts = self.unread.keys.iter().filter_map(|key| key.kind().operations().part(key));
        for part in parts {
            match part {
                Part::Service(name) => {
                    let slices = self.slices_of(&name, None, &BTreeSet::new());
                    unread.services.insert(name, slices);
                }
                Part::Slice { key, .. } => {
                    unread.slices.insert((key.namespace, key.name));
                }
                Part::Node(name) => {
                    unread.nodes.insert(name);
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
            ObjectKey::Slice(key) => self.tables.slice.get(key).map(|slice| slice.service.clone()),
            _ => None,
        })
    }

    /// A slice has changed, and with it the Service that it belongs to, or belonged to.
    pub(super) fn move_slice(&mut self, key: &SliceKey, was_of: Option<ServiceName>) {
        let new = self.tables.slice.get(key).map(|slice| slice.service.clone());
        if let Some(old) = was_of.filter(|old| new.as_ref() != Some(old)) {
            if let Some(slices) = self.by_service.get_mut(&old) {
                slices.remove(&key.name);
                if slices.is_empty() {
                    self.by_service.remove(&old);
                }
            }
            self.touch(&old);
        }
        if let Some(service) = new {
            self.by_service.entry(service.clone()).or_default().insert(key.name.clone());
            if self.touch(&service) {
                self.dirty.slices.insert(key.clone());
            }
        }
    }

    /// Whether anybody looks at the slices of a Service.
    fn touch(&mut self, service: &ServiceName) -> bool {
        let counts =
            self.tables.service.get(service).is_some() || self.snapshot.services.contains_key(service);
        if counts {
            self.dirty.services.insert(service.clone());
        }
        counts
    }

    fn refresh_node(&mut self, name: &NodeName) -> bool {
        let nodes = &mut self.snapshot.nodes;
        let Some(entry) = self.tables.node.get(name) else { return nodes.remove(name).is_some() };
        if nodes.get(name).is_some_and(|old| **old == entry.node) {
            return false;
        }
        nodes.insert(name.clone(), Arc::new(entry.node.clone()));
        true
    }

    /// Whether the own node is in another zone than before.
    fn move_viewpoint(&mut self) -> bool {
        let Some(entry) = self.node.as_ref().and_then(|node| self.tables.node.get(node)) else {
            return false;
        };
        let moved = self.zone != entry.zone;
        if moved {
            self.zone.clone_from(&entry.zone);
        }
        moved
    }

    fn refresh_service(&mut self, name: &ServiceName, dirty: &BTreeSet<SliceKey>) -> bool {
        let Some(base) = self.tables.service.get(name) else {
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
        let packed: Vec<_> = keys.filter_map(|key| Some((self.tables.slice.get(&key)?, key))).collect();
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
