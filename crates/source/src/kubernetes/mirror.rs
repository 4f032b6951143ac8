//! What the followers have said, put together: objects, what is wrong with them, address ranges. Pure.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdMap;
use ipnet::IpNet;
use mesh_model::address_policy::OwnRanges;
use mesh_model::name::{NodeName, ServiceName};
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::table::{Knowledge, Table};

use super::follow::Change;
use super::reading::{Effect, Key, Reading};
use super::resource::Resource;
use crate::convert::Note;
use crate::memory::Known;
use crate::objects::{Listed, ObjectKey, Objects};
use crate::status::{Problem, Reason, Status};

/// Which objects the Services are, by name.
pub type Uids = OrdMap<ServiceName, String>;

/// Something wrong with a Service that its owner should hear of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    pub service: ServiceName,
    /// Of the very object that it is about.
    pub uid: String,
    pub reason: Reason,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// What is wrong with an object.
#[derive(Debug)]
struct Noted {
    uid: Option<String>,
    /// The Service that a slice belongs to.
    owner: Option<ServiceName>,
    notes: Vec<Note>,
}

type Notes = BTreeMap<ObjectKey, Noted>;

/// A cluster as its API server tells it.
#[derive(Debug)]
pub(crate) struct Mirror {
    wanted: BTreeSet<Resource>,
    /// Kinds that were listed completely at least once.
    listed: BTreeSet<Resource>,
    objects: Objects,
    cidrs: Table<String, Vec<IpNet>>,
    notes: Notes,
    /// Of lists that have not ended.
    listing: BTreeMap<Resource, Notes>,
    /// Of the Services that count.
    uids: Uids,
    faults: BTreeMap<Resource, String>,
    /// Objects whose last good value stays.
    kept: BTreeSet<Key>,
    /// Kinds whose last whole list holds, or of which was told since, what does not tell its name.
    nameless: BTreeSet<Resource>,
    /// The same of lists that have not ended.
    listing_nameless: BTreeSet<Resource>,
    /// Kinds of which a list is complete and what comes after it is told.
    followed: BTreeSet<Resource>,
    /// Whether ranges may be others than before.
    pub(crate) ranges_moved: bool,
}

fn listed(resource: Resource) -> Option<Listed> {
    match resource {
        Resource::Services => Some(Listed::Services),
        Resource::EndpointSlices => Some(Listed::Slices),
        Resource::Nodes => Some(Listed::Nodes),
        Resource::ServiceCidrs => None,
    }
}

fn of_kind(key: &ObjectKey) -> Resource {
    match key {
        ObjectKey::Service(_) => Resource::Services,
        ObjectKey::Slice(_) => Resource::EndpointSlices,
        ObjectKey::Node(_) => Resource::Nodes,
    }
}

fn kind_of(key: &Key) -> Resource {
    match key {
        Key::Object(key) => of_kind(key),
        Key::Cidr(_) => Resource::ServiceCidrs,
    }
}

impl Mirror {
    /// `node`: where the clients are that topology hints are for.
    pub(crate) fn new(wanted: impl IntoIterator<Item = Resource>, node: Option<NodeName>) -> Self {
        Self {
            wanted: wanted.into_iter().collect(),
            listed: BTreeSet::new(),
            objects: Objects::new(node),
            cidrs: Table::default(),
            notes: Notes::new(),
            listing: BTreeMap::new(),
            uids: Uids::new(),
            faults: BTreeMap::new(),
            kept: BTreeSet::new(),
            nameless: BTreeSet::new(),
            listing_nameless: BTreeSet::new(),
            followed: BTreeSet::new(),
            ranges_moved: false,
        }
    }

    /// Begins with what a process before this one knew.
    pub(crate) fn remember(&mut self, before: &Known) {
        self.objects.remember(&before.snapshot);
    }

    /// Objects that stay as they were, because what they are now can't be read.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Takes note of what a follower says.
    pub(crate) fn take(&mut self, resource: Resource, change: Change) {
        self.ranges_moved |= matches!(resource, Resource::Nodes | Resource::ServiceCidrs);
        match change {
            Change::Init => {
                self.followed.remove(&resource);
                return self.begin(resource);
            }
            Change::Apply(reading) => self.apply(resource, *reading),
            Change::Nameless if self.listing.contains_key(&resource) => {
                self.listing_nameless.insert(resource);
            }
            Change::Nameless => drop(self.nameless.insert(resource)),
            Change::Delete(key) => self.delete(resource, &key),
            Change::InitDone => {
                self.followed.insert(resource);
                self.end(resource);
            }
            Change::Alive => drop(self.followed.insert(resource)),
            Change::Fault(reason) => {
                self.followed.remove(&resource);
                self.faults.insert(resource, reason);
                return;
            }
        }
        self.faults.remove(&resource);
    }

    /// Whether every kind is known to be followed. One that is being listed anew isn't.
    pub(crate) fn is_followed(&self) -> bool {
        self.wanted.is_subset(&self.followed)
    }

    /// Brings the snapshot up to date. Returns whether it changed.
    pub(crate) fn refresh(&mut self) -> bool {
        self.objects.refresh()
    }

    pub(crate) fn snapshot(&self) -> &ClusterSnapshot {
        self.objects.snapshot()
    }

    /// How many Services, slices and Nodes there are.
    pub(crate) fn counts(&self) -> [usize; 3] {
        self.objects.counts()
    }

    /// Whether every kind was listed completely at least once.
    pub(crate) fn is_complete(&self) -> bool {
        self.wanted.is_subset(&self.listed)
    }

    pub(crate) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    pub(crate) fn status(&self) -> Status {
        let complete = self.is_complete() && self.nameless.is_empty();
        let knowledge = if complete { Knowledge::Complete } else { Knowledge::Partial };
        let nameless = self.nameless.iter().map(|resource| {
            let message = format!(
                "the list of {resource} holds objects without a usable name; no {resource} are deleted until they \
                 are gone or corrected"
            );
            problem(String::new(), Reason::Name, message)
        });
        let noted = self.shown().flat_map(|(key, noted)| {
            noted.notes.iter().map(move |note| problem(key.to_string(), note.reason, note.message.clone()))
        });
        let beyond = self
            .objects
            .beyond()
            .map(|(name, beyond)| problem(format!("Service {name}"), Reason::OverLimit, beyond.to_string()));
        let mut problems: Vec<_> =
            self.fault().into_iter().chain(nameless).chain(noted).chain(beyond).collect();
        problems.sort();
        Status { knowledge, problems }
    }

    /// What the owners of Services should hear.
    pub(crate) fn reports(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        for (key, noted) in &self.notes {
            let (ObjectKey::Service(service), Some(uid)) = (key, &noted.uid) else { continue };
            reports.extend(noted.notes.iter().map(|note| Report {
                service: service.clone(),
                uid: uid.clone(),
                reason: note.reason,
                message: note.message.clone(),
            }));
        }
        for (name, beyond) in self.objects.beyond() {
            let Some(uid) = self.uids.get(name).cloned() else { continue };
            let (service, reason, message) = (name.clone(), Reason::OverLimit, beyond.to_string());
            reports.push(Report { service, uid, reason, message });
        }
        reports.sort();
        reports
    }

    pub(crate) fn uids(&self) -> &Uids {
        &self.uids
    }

    /// The ranges that Nodes and ServiceCIDRs tell, joined where they can be.
    pub(crate) fn ranges(&self) -> OwnRanges {
        let nodes = || self.objects.snapshot().nodes.values();
        let pods: Vec<IpNet> = nodes().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        let hosts: Vec<IpNet> =
            nodes().flat_map(|node| node.addresses.iter().copied().map(IpNet::from)).collect();
        let services: Vec<IpNet> = self.cidrs.entries().values().flatten().copied().collect();
        OwnRanges {
            pods: IpNet::aggregate(&pods),
            services: IpNet::aggregate(&services),
            nodes: IpNet::aggregate(&hosts),
        }
    }

    fn begin(&mut self, resource: Resource) {
        match listed(resource) {
            Some(kind) => self.objects.begin_list(kind),
            None => self.cidrs.begin_list(),
        }
        self.listing.insert(resource, Notes::new());
        self.listing_nameless.remove(&resource);
        self.kept.retain(|key| kind_of(key) != resource);
    }

    fn apply(&mut self, resource: Resource, reading: Reading) {
        let Reading { key, effect, notes, owner, uid, .. } = reading;
        if let (Key::Object(ObjectKey::Service(name)), Effect::Object(_), Some(uid)) = (&key, &effect, &uid)
            && self.uids.get(name) != Some(uid)
        {
            self.uids.insert(name.clone(), uid.clone());
        }
        if matches!(effect, Effect::Keep) {
            self.kept.insert(key.clone());
        } else {
            self.kept.remove(&key);
        }
        match (&key, effect) {
            (_, Effect::Object(object)) => self.objects.put(object),
            (Key::Cidr(name), Effect::Cidr(ranges)) => drop(self.cidrs.put(name.clone(), ranges)),
            (Key::Object(key), Effect::Leave) => self.objects.delete(key),
            (Key::Object(key), _) => self.objects.keep(key),
            (Key::Cidr(name), _) => self.cidrs.keep(name),
        }
        let Key::Object(key) = key else { return };
        let all = self.listing.get_mut(&resource).unwrap_or(&mut self.notes);
        if notes.is_empty() {
            all.remove(&key);
        } else {
            all.insert(key, Noted { uid, owner, notes });
        }
    }

    fn delete(&mut self, resource: Resource, key: &Key) {
        self.kept.remove(key);
        match key {
            Key::Object(key) => {
                if let ObjectKey::Service(name) = key {
                    self.uids.remove(name);
                }
                self.objects.delete(key);
                self.listing.get_mut(&resource).unwrap_or(&mut self.notes).remove(key);
            }
            Key::Cidr(name) => drop(self.cidrs.delete(name, Knowledge::Complete)),
        }
    }

    fn end(&mut self, resource: Resource) {
        self.listed.insert(resource);
        // What does not tell its name may be any object of its kind.
        let nameless = self.listing_nameless.remove(&resource);
        if nameless {
            self.nameless.insert(resource);
        } else {
            self.nameless.remove(&resource);
        }
        let knowledge = if nameless { Knowledge::Partial } else { Knowledge::Complete };
        match listed(resource) {
            Some(kind) => {
                self.objects.has_nameless(kind, nameless);
                self.objects.end_list(kind, knowledge);
            }
            None => drop(self.cidrs.end_list(knowledge)),
        }
        if let Some(notes) = self.listing.remove(&resource) {
            self.notes.retain(|key, _| of_kind(key) != resource);
            self.notes.extend(notes);
        }
    }

    /// Slices of Services that are not global are none of our business.
    fn shown(&self) -> impl Iterator<Item = (&ObjectKey, &Noted)> {
        self.notes.iter().filter(|(key, noted)| match key {
            ObjectKey::Slice(_) => {
                noted.owner.as_ref().is_some_and(|owner| self.objects.service(owner).is_some())
            }
            ObjectKey::Service(_) | ObjectKey::Node(_) => true,
        })
    }

    /// One for all kinds: usually they have the same.
    fn fault(&self) -> Option<Problem> {
        let (resource, reason) = self.faults.first_key_value()?;
        let others = self.faults.len() - 1;
        let others = if others == 0 { String::new() } else { format!(" and {others} more kinds") };
        let stays = if self.is_complete() { "what is known stays" } else { "nothing is known yet" };
        let message = format!("{resource}{others} can't be followed ({reason}); {stays}");
        Some(problem(String::new(), Reason::ApiUnavailable, message))
    }
}

fn problem(object: String, reason: Reason, message: String) -> Problem {
    Problem { file: String::new(), place: String::new(), object, reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_tell_its_name_counts_until_a_list_without_it_has_ended() {
        let mut mirror = Mirror::new([Resource::Services], None);
        let mut takes = |changes: Vec<Change>| {
            changes.into_iter().for_each(|change| mirror.take(Resource::Services, change));
            mirror.refresh();
            let Status { knowledge, problems } = mirror.status();
            (knowledge, problems.len(), mirror.snapshot().unread.anything)
        };
        let partial = (Knowledge::Partial, 1, true);
        assert_eq!(takes(vec![Change::Init, Change::Nameless, Change::InitDone]), partial);
        assert_eq!(takes(vec![Change::Init]), partial, "the next list may hold it too");
        assert_eq!(takes(vec![Change::Nameless, Change::Init]), partial, "a list that was void");
        assert_eq!(takes(vec![Change::InitDone]), (Knowledge::Complete, 0, false));
        assert_eq!(takes(vec![Change::Nameless]), (Knowledge::Partial, 1, false));
    }
}
