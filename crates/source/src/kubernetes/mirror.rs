//! What the followers have said, put together: objects, what is wrong with them, address ranges. Pure.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdMap;
use ipnet::IpNet;
use mesh_model::address_policy::OwnRanges;
use mesh_model::name::{NodeName, ServiceName};
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::table::Knowledge;

use super::follow::Change;
use crate::convert::{Note, Verdict};
use crate::kinds::Reading;
use crate::memory::Known;
use crate::objects::{Kind, ObjectKey, Objects};
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
    wanted: BTreeSet<Kind>,
    /// Kinds that were listed completely at least once.
    listed: BTreeSet<Kind>,
    objects: Objects,
    notes: Notes,
    /// Of lists that have not ended.
    listing: BTreeMap<Kind, Notes>,
    /// Of the Services that count.
    uids: Uids,
    faults: BTreeMap<Kind, String>,
    /// Objects whose last good value stays.
    kept: BTreeSet<ObjectKey>,
    /// Kinds whose last whole list holds, or of which was told since, what does not tell its name.
    nameless: BTreeSet<Kind>,
    /// The same of lists that have not ended.
    listing_nameless: BTreeSet<Kind>,
    /// Kinds of which a list is complete and what comes after it is told.
    followed: BTreeSet<Kind>,
    /// Whether ranges may be others than before.
    pub(crate) ranges_moved: bool,
}

impl Mirror {
    /// `node`: where the clients are that topology hints are for.
    pub(crate) fn new(wanted: impl IntoIterator<Item = Kind>, node: Option<NodeName>) -> Self {
        Self {
            wanted: wanted.into_iter().collect(),
            listed: BTreeSet::new(),
            objects: Objects::new(node),
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
    pub(crate) fn take(&mut self, kind: Kind, change: Change) {
        self.ranges_moved |= kind.api().has_ranges;
        match change {
            Change::Init => {
                self.followed.remove(&kind);
                return self.begin(kind);
            }
            Change::Apply(reading) => self.apply(kind, *reading),
            Change::Nameless if self.listing.contains_key(&kind) => {
                self.listing_nameless.insert(kind);
            }
            Change::Nameless => drop(self.nameless.insert(kind)),
            Change::Delete(key) => self.delete(kind, &key),
            Change::InitDone => {
                self.followed.insert(kind);
                self.end(kind);
            }
            Change::Alive => drop(self.followed.insert(kind)),
            Change::Fault(reason) => {
                self.followed.remove(&kind);
                self.faults.insert(kind, reason);
                return;
            }
        }
        self.faults.remove(&kind);
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

    /// How many objects of a kind there are.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.objects.count(kind)
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
        let nameless = self.nameless.iter().map(|kind| {
            let message = format!(
                "the list of {kind} holds objects without a usable name; no {kind} are deleted until they \
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
        let services: Vec<IpNet> = self.objects.service_cidrs().collect();
        OwnRanges {
            pods: IpNet::aggregate(&pods),
            services: IpNet::aggregate(&services),
            nodes: IpNet::aggregate(&hosts),
        }
    }

    fn begin(&mut self, kind: Kind) {
        self.objects.begin_list(kind);
        self.listing.insert(kind, Notes::new());
        self.listing_nameless.remove(&kind);
        self.kept.retain(|key| key.kind() != kind);
    }

    fn apply(&mut self, kind: Kind, reading: Reading) {
        let Reading { key, verdict, notes, owner, uid, .. } = reading;
        if let (ObjectKey::Service(name), Verdict::Use(_), Some(uid)) = (&key, &verdict, &uid)
            && self.uids.get(name) != Some(uid)
        {
            self.uids.insert(name.clone(), uid.clone());
        }
        if matches!(verdict, Verdict::Keep) {
            self.kept.insert(key.clone());
        } else {
            self.kept.remove(&key);
        }
        match verdict {
            Verdict::Use(object) => self.objects.put(object),
            Verdict::Leave => self.objects.delete(&key),
            Verdict::Keep => self.objects.keep(&key),
        }
        let all = self.listing.get_mut(&kind).unwrap_or(&mut self.notes);
        if notes.is_empty() {
            all.remove(&key);
        } else {
            all.insert(key, Noted { uid, owner, notes });
        }
    }

    fn delete(&mut self, kind: Kind, key: &ObjectKey) {
        self.kept.remove(key);
        if let ObjectKey::Service(name) = key {
            self.uids.remove(name);
        }
        self.objects.delete(key);
        self.listing.get_mut(&kind).unwrap_or(&mut self.notes).remove(key);
    }

    fn end(&mut self, kind: Kind) {
        self.listed.insert(kind);
        // What does not tell its name may be any object of its kind.
        let nameless = self.listing_nameless.remove(&kind);
        if nameless {
            self.nameless.insert(kind);
        } else {
            self.nameless.remove(&kind);
        }
        let knowledge = if nameless { Knowledge::Partial } else { Knowledge::Complete };
        self.objects.has_nameless(kind, nameless);
        self.objects.end_list(kind, knowledge);
        if let Some(notes) = self.listing.remove(&kind) {
            self.notes.retain(|key, _| key.kind() != kind);
            self.notes.extend(notes);
        }
    }

    /// Slices of Services that are not global are none of our business.
    fn shown(&self) -> impl Iterator<Item = (&ObjectKey, &Noted)> {
        self.notes.iter().filter(|(key, noted)| match key {
            ObjectKey::Slice(_) => {
                noted.owner.as_ref().is_some_and(|owner| self.objects.service(owner).is_some())
            }
            _ => true,
        })
    }

    /// One for all kinds: usually they have the same.
    fn fault(&self) -> Option<Problem> {
        let (kind, reason) = self.faults.first_key_value()?;
        let others = self.faults.len() - 1;
        let others = if others == 0 { String::new() } else { format!(" and {others} more kinds") };
        let stays = if self.is_complete() { "what is known stays" } else { "nothing is known yet" };
        let message = format!("{kind}{others} can't be followed ({reason}); {stays}");
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
        let mut mirror = Mirror::new([Kind::Service], None);
        let mut takes = |changes: Vec<Change>| {
            changes.into_iter().for_each(|change| mirror.take(Kind::Service, change));
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
