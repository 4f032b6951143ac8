//! What one peer says, as far as it may be believed.
//!
//! Owns the peer's records, the address policy, and what is shown of rejections. Fed with the keys and
//! values of the peer's etcd in the order in which they come; never does I/O, never reads a clock, never
//! panics on what a peer wrote.
//!
//! Rules: a list is applied whole when it ends. An invalid value keeps the previous good one and counts.
//! Nothing is published before the first `synced` markers, and nothing of a kind is deleted without that kind's
//! marker. A cluster record with another id or name
//! refuses the whole peer: what was published stays as it is until a good record comes.

mod asked;
mod changes;
mod difference;
mod faults;
mod interest;
mod judge;
#[cfg(test)]
mod judge_tests;
mod listing;
mod pool;
mod publish;
mod quota;
mod records;
mod rejections;
mod service;
mod snapshot;

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdSet;

pub(crate) use difference::EndpointChanges;
pub use faults::Faults;
pub use interest::Interest;
pub use quota::{Cut, Excess, Quota};
pub use rejections::{RECENT_REJECTIONS, Rejections};
pub use service::{PeerService, PeerSlice};
pub use snapshot::PeerSnapshot;

use faults::RecordFault;
use judge::Looked;
use listing::{Listing, Markers};
use publish::Published;
use records::Records;

use crate::address_policy::AddressPolicy;
use crate::name::{ClusterId, ClusterName, ServiceName, SliceName};
use crate::reason::Reason;
use crate::record::{
    self, AliveRecord, ClusterRecord, Fault, Record, RecordKey, Rejection, SliceRecord, SyncedKind,
};
use crate::table::Knowledge;

/// What the reader's peer file says of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPin {
    pub name: ClusterName,
    pub id: ClusterId,
    pub policy: AddressPolicy,
}

/// A slice's place. `None` sorts before every slice of its service.
type SliceKey = (ServiceName, Option<SliceName>);

/// The state machine behind [`PeerSnapshot`].
#[derive(Debug)]
pub struct PeerView {
    pin: PeerPin,
    /// The pin's policy, narrowed by the cluster record.
    policy: AddressPolicy,
    cluster: Option<Arc<ClusterRecord>>,
    refused: Option<Rejection>,
    alive: Option<AliveRecord>,
    records: Records,
    interest: Interest,
    quota: Quota,
    /// Services of which all records are known, or would be if there were any; none: all services.
    tracked: Option<OrdSet<ServiceName>>,
    /// Services that are asked for and of which nothing has been read yet.
    unread: BTreeSet<ServiceName>,
    /// The list had more records than these.
    records_cut: Option<u64>,
    markers: Markers,
    listing: Option<Listing>,
    listed: bool,
    synced: bool,
    /// Services whose published form may be out of date.
    dirty: BTreeSet<ServiceName>,
    published: Published,
    /// Slices with endpoints that the address policy may judge otherwise than when they were published.
    judged_anew: BTreeSet<SliceKey>,
    rejections: Rejections,
    faults: Faults,
}

impl PeerView {
    /// Everything that the peer says is kept.
    pub fn new(pin: PeerPin) -> Self {
        Self::bounded(pin, Interest::Everything, Quota::NONE)
    }

    /// Keeps what is of interest, within a quota.
    pub fn bounded(pin: PeerPin, interest: Interest, quota: Quota) -> Self {
        Self {
            policy: pin.policy.clone(),
            judged_anew: BTreeSet::new(),
            pin,
            cluster: None,
            refused: None,
            alive: None,
            records: Records::new(quota.bytes),
            tracked: interest.names().map(|_| OrdSet::new()),
            unread: BTreeSet::new(),
            interest,
            quota,
            records_cut: None,
            markers: Markers::default(),
            listing: None,
            listed: false,
            synced: false,
            dirty: BTreeSet::new(),
            published: Published::default(),
            rejections: Rejections::default(),
            faults: Faults::default(),
        }
    }

    pub fn pin(&self) -> &PeerPin {
        &self.pin
    }

    /// Begins a list of everything at one revision; a list that did not end is forgotten.
    pub fn begin_list(&mut self) {
        self.listing = Some(Listing { tracked: self.interest.names(), ..Listing::default() });
        self.records.begin_list();
    }

    /// One entry of the list that was begun, in any order.
    pub fn list_entry(&mut self, key: &str, value: &[u8]) {
        self.put(key, value);
    }

    /// Ends a list: all of it becomes visible at once, and what it no longer holds goes if the list held the
    /// kind's `synced` marker.
    pub fn end_list(&mut self) {
        let Some(listing) = self.listing.take() else { return };
        self.markers = listing.markers;
        self.faults.end_list(listing.faults);
        self.alive = listing.alive.or(self.alive);
        let (services, endpoints) = (knowledge(self.markers.services), knowledge(self.markers.endpoints));
        let (services_changed, changed) = self.records.end_list(services, endpoints);
        self.dirty.extend(services_changed);
        self.records_cut = listing.records_cut;
        // What is kept for want of knowledge goes on being followed.
        let partial = (services, endpoints) != (Knowledge::Complete, Knowledge::Complete);
        let before = self.tracked.take().filter(|_| partial).unwrap_or_default();
        self.tracked = listing.tracked.map(|tracked| tracked.union(before));
        self.note_unread();
        self.listed = true;
        let looked = match (listing.cluster, listing.foreign) {
            (Some(cluster), _) => self.apply_cluster(cluster),
            (None, Some(foreign)) => {
                self.refused = Some(foreign);
                Looked::Nothing
            }
            (None, None) => Looked::Nothing,
        };
        if looked != Looked::All {
            changed.iter().for_each(|key| self.note_outside(key));
        }
        self.dirty.extend(changed.into_iter().map(|(service, _)| service));
        self.note_synced();
    }

    /// A record was written. Between `begin_list` and `end_list` it counts as listed.
    pub fn put(&mut self, key: &str, value: &[u8]) {
        let parsed: RecordKey = match key.parse() {
            Ok(parsed) => parsed,
            Err(error) => return self.reject(Rejection::new(key, Fault::Key(error))),
        };
        if *parsed.cluster() != self.pin.name {
            return self.put_foreign(key, &parsed);
        }
        if !self.takes(&parsed) {
            return;
        }
        match record::parse_value(&parsed, value) {
            Ok(record) => self.accept(key, parsed, record),
            Err(fault) => self.refuse_value(&parsed, value, Rejection::new(key, fault)),
        }
        self.note_synced();
    }

    /// A record was deleted. Cluster and alive records stay as they were last seen: their absence means nothing.
    pub fn delete(&mut self, key: &str) {
        let Ok(parsed) = key.parse::<RecordKey>() else { return };
        if *parsed.cluster() != self.pin.name {
            return;
        }
        match parsed {
            RecordKey::Service(_, name) => {
                self.faults.remove(&(name.clone(), None));
                if self.records.delete_service(&name, knowledge(self.markers.services)) {
                    self.dirty.insert(name);
                }
            }
            RecordKey::Slice(_, service, slice) => {
                let key = (service, Some(slice));
                self.faults.remove(&key);
                if self.records.delete_slice(&key, knowledge(self.markers.endpoints)) {
                    self.dirty.insert(key.0);
                }
            }
            RecordKey::Synced(_, kind) => self.mark(kind, false),
            RecordKey::Cluster(_) | RecordKey::Alive(_) | RecordKey::Node(..) => {}
        }
    }

    /// The peer as it is now; costs by what changed since the last one. The changes of one revision belong
    /// together: take a snapshot only after the last of them.
    pub fn snapshot(&mut self) -> Arc<PeerSnapshot> {
        self.publish();
        Arc::new(PeerSnapshot {
            cluster: self.cluster.clone(),
            refused: self.refused.clone(),
            alive: self.alive,
            synced: self.synced,
            services: self.published.services.clone(),
            endpoints: self.published.endpoints,
            rejected: self.rejections.by_reason().clone(),
            recent_rejections: self.rejections.recent(),
            faults: self.faults.clone(),
            tracked: self.tracked.clone(),
            cuts: self.cuts(),
            bytes: self.records.bytes(),
        })
    }

    fn reject(&mut self, rejection: Rejection) {
        self.rejections.add(&rejection, 1);
    }

    fn put_foreign(&mut self, text: &str, key: &RecordKey) {
        let fault = Fault::ForeignCluster { found: key.cluster().clone(), pinned: self.pin.name.clone() };
        let rejection = Rejection::new(text, fault);
        if let (RecordKey::Cluster(_), Some(listing)) = (key, &mut self.listing) {
            // Only a list can tell that the peer's own cluster record is missing beside it.
            listing.foreign = Some(rejection.clone());
        }
        self.reject(rejection);
    }

    fn refuse_value(&mut self, key: &RecordKey, value: &[u8], rejection: Rejection) {
        self.reject(rejection.clone());
        match key {
            RecordKey::Cluster(_) if rejection.fault.refuses_peer() => self.take_cluster(Err(rejection)),
            RecordKey::Service(_, name) => {
                self.records.keep_service(name);
                self.note_fault((name.clone(), None), Some(RecordFault::refused(&rejection)));
            }
            RecordKey::Slice(_, service, slice) => {
                let key = (service.clone(), Some(slice.clone()));
                self.withdraw(&key, value, &rejection.fault);
                self.note_fault(key, Some(RecordFault::refused(&rejection)));
            }
            _ => {}
        }
    }

    fn accept(&mut self, text: &str, key: RecordKey, record: Record) {
        match (key, record) {
            (RecordKey::Cluster(_), Record::Cluster(record)) => self.accept_cluster(text, record),
            (RecordKey::Alive(_), Record::Alive(record)) => match &mut self.listing {
                Some(listing) => listing.alive = Some(record),
                None => self.alive = Some(record),
            },
            (RecordKey::Service(_, name), Record::Service(record)) => {
                let name = self.records.known_name(name);
                self.note_ports(text, (name.clone(), None), record.ports_left_out);
                let changed = self.records.put_service(name.clone(), record);
                self.dirty.extend(changed.then_some(name));
            }
            (RecordKey::Slice(_, service, slice), Record::Slice(record)) => {
                let service = self.records.known_name(service);
                self.accept_slice(text, (service, Some(slice)), record);
            }
            (RecordKey::Synced(_, kind), Record::Synced(_)) => match &mut self.listing {
                Some(listing) => listing.markers.set(kind, true),
                None => self.mark(kind, true),
            },
            // Validated and counted, but nothing uses a peer's nodes yet.
            _ => {}
        }
    }

    fn accept_slice(&mut self, text: &str, key: SliceKey, record: SliceRecord) {
        self.note_ports(text, key.clone(), record.ports_left_out);
        if let Some(fault) = record.first_refused.clone() {
            let rejection = Rejection::new(text, fault);
            self.rejections.add(&rejection, record.refused as u64);
            let fault = RecordFault::endpoints(Reason::EndpointRefused, &rejection, record.refused);
            self.note_fault(key.clone(), Some(fault));
        }
        if self.records.put_slice(key.clone(), record) {
            self.note_outside(&key);
            self.dirty.insert(key.0);
        }
    }

    fn accept_cluster(&mut self, text: &str, record: ClusterRecord) {
        if record.id == self.pin.id {
            return self.take_cluster(Ok(record));
        }
        let fault = Fault::WrongId { found: record.id, pinned: self.pin.id };
        let rejection = Rejection::new(text, fault);
        self.reject(rejection.clone());
        self.take_cluster(Err(rejection));
    }

    fn take_cluster(&mut self, cluster: Result<ClusterRecord, Rejection>) {
        match &mut self.listing {
            Some(listing) => listing.cluster = Some(cluster),
            None => {
                self.apply_cluster(cluster);
            }
        }
    }

    /// Says whether it has looked at the endpoints of every slice again.
    fn apply_cluster(&mut self, cluster: Result<ClusterRecord, Rejection>) -> Looked {
        let record = match cluster {
            Ok(record) => record,
            Err(rejection) => {
                self.refused = Some(rejection);
                return Looked::Nothing;
            }
        };
        self.refused = None;
        let first = self.cluster.replace(Arc::new(record)).is_none();
        self.apply_policy(first)
    }

    /// A marker came or went outside a list. When one comes, what was stale goes.
    fn mark(&mut self, kind: SyncedKind, complete: bool) {
        self.markers.set(kind, complete);
        if !complete {
            return;
        }
        match kind {
            SyncedKind::Services => self.dirty.extend(self.records.drop_stale_services()),
            SyncedKind::Endpoints => {
                let gone = self.records.drop_stale_slices();
                gone.iter().for_each(|key| self.faults.remove(key));
                self.dirty.extend(gone.into_iter().map(|(service, _)| service));
            }
            SyncedKind::Nodes => {}
        }
    }

    /// Whether what the peer says now is to be used.
    fn is_believed(&self) -> bool {
        self.listed && self.refused.is_none() && self.cluster.is_some()
    }

    /// From here on the peer's word counts, also for what it does not mention.
    fn note_synced(&mut self) {
        let is_asked = !matches!(self.interest, Interest::Unknown) && self.unread.is_empty();
        self.synced |= is_asked && self.is_believed() && self.markers.services && self.markers.endpoints;
    }
}

fn knowledge(synced: bool) -> Knowledge {
    if synced { Knowledge::Complete } else { Knowledge::Partial }
}
