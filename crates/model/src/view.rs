//! What one peer says, as far as it may be believed.
//!
//! Owns the peer's records, the fence around them, and what is shown of rejections. Fed with the keys and
//! values of the peer's etcd in the order in which they come; never does I/O, never reads a clock, never
//! panics on what a peer wrote.
//!
//! Rules: a list is applied whole when it ends. An invalid value keeps the previous good one and counts.
//! Nothing is published before the first `synced` markers, and nothing of a kind is deleted without that kind's
//! marker. A cluster record with another id or name
//! refuses the whole peer: what was published stays as it is until a good record comes.

mod difference;
mod listing;
mod pool;
mod publish;
mod rejections;
mod service;
mod snapshot;

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;

pub use difference::EndpointChange;
pub use rejections::{RECENT_REJECTIONS, Rejections};
pub use service::{PeerEndpoint, PeerService, PeerSlice};
pub use snapshot::PeerSnapshot;

use listing::{Listing, Markers};
use pool::Pool;
use service::Offer;

use crate::fence::{Fence, OwnRanges};
use crate::name::{ClusterId, ClusterName, ServiceName, SliceName};
use crate::record::{
    self, AliveRecord, ClusterRecord, Fault, Record, RecordKey, Rejection, SliceRecord, SyncedKind,
};
use crate::snapshot::SlicePort;
use crate::table::{Knowledge, Table};

/// What the reader's peer file says of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPin {
    pub name: ClusterName,
    pub id: ClusterId,
    pub fence: Fence,
}

/// A slice's place. `None` sorts before every slice of its service.
type SliceKey = (ServiceName, Option<SliceName>);

/// Which slices a changed fence was held against.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looked {
    AtAll,
    AtNothing,
}

/// The state machine behind [`PeerSnapshot`].
#[derive(Debug)]
pub struct PeerView {
    pin: PeerPin,
    /// The pin's fence, narrowed by the cluster record.
    fence: Fence,
    cluster: Option<Arc<ClusterRecord>>,
    refused: Option<Rejection>,
    alive: Option<AliveRecord>,
    services: Table<ServiceName, Arc<Offer>>,
    offers: Pool<Offer>,
    /// As published, before the fence.
    slices: Table<SliceKey, Arc<PeerSlice>>,
    slice_ports: Pool<Vec<SlicePort>>,
    markers: Markers,
    listing: Option<Listing>,
    listed: bool,
    synced: bool,
    /// Services whose published form may be out of date.
    dirty: BTreeSet<ServiceName>,
    published: OrdMap<ServiceName, Arc<PeerService>>,
    /// Behind which fence all of `published` is.
    published_fence: Fence,
    endpoints: usize,
    rejections: Rejections,
}

impl PeerView {
    pub fn new(pin: PeerPin) -> Self {
        Self {
            fence: pin.fence.clone(),
            published_fence: pin.fence.clone(),
            pin,
            cluster: None,
            refused: None,
            alive: None,
            services: Table::default(),
            offers: Pool::default(),
            slices: Table::default(),
            slice_ports: Pool::default(),
            markers: Markers::default(),
            listing: None,
            listed: false,
            synced: false,
            dirty: BTreeSet::new(),
            published: OrdMap::new(),
            endpoints: 0,
            rejections: Rejections::default(),
        }
    }

    pub fn pin(&self) -> &PeerPin {
        &self.pin
    }

    /// Begins a list of everything at one revision; a list that did not end is forgotten.
    pub fn begin_list(&mut self) {
        self.listing = Some(Listing::default());
        self.services.begin_list();
        self.slices.begin_list();
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
        self.alive = listing.alive.or(self.alive);
        let changed = self.services.end_list(knowledge(self.markers.services));
        self.dirty.extend(changed);
        let changed = self.slices.end_list(knowledge(self.markers.endpoints));
        self.listed = true;
        let looked = match (listing.cluster, listing.foreign) {
            (Some(cluster), _) => self.apply_cluster(cluster),
            (None, Some(foreign)) => {
                self.refused = Some(foreign);
                Looked::AtNothing
            }
            (None, None) => Looked::AtNothing,
        };
        if looked == Looked::AtNothing {
            changed.iter().for_each(|key| self.note_fenced(key));
        }
        self.dirty.extend(changed.into_iter().map(|(service, _)| service));
        self.note_spoken();
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
        match record::parse_value(&parsed, value) {
            Ok(record) => self.accept(key, parsed, record),
            Err(fault) => self.refuse_value(&parsed, Rejection::new(key, fault)),
        }
        self.note_spoken();
    }

    /// A record was deleted. Cluster and alive records stay as they were last seen: their absence means nothing.
    pub fn delete(&mut self, key: &str) {
        let Ok(parsed) = key.parse::<RecordKey>() else { return };
        if *parsed.cluster() != self.pin.name {
            return;
        }
        match parsed {
            RecordKey::Service(_, name) => {
                if self.services.delete(&name, knowledge(self.markers.services)) {
                    self.dirty.insert(name);
                }
            }
            RecordKey::Slice(_, service, slice) => {
                let key = (service, Some(slice));
                if self.slices.delete(&key, knowledge(self.markers.endpoints)) {
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
            services: self.published.clone(),
            endpoints: self.endpoints,
            rejected: self.rejections.by_reason().clone(),
            recent_rejections: self.rejections.recent(),
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

    fn refuse_value(&mut self, key: &RecordKey, rejection: Rejection) {
        self.reject(rejection.clone());
        match key {
            RecordKey::Cluster(_) if rejection.fault.refuses_peer() => self.take_cluster(Err(rejection)),
            RecordKey::Service(_, name) => self.services.keep(name),
            RecordKey::Slice(_, service, slice) => self.slices.keep(&(service.clone(), Some(slice.clone()))),
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
                let name = self.known_name(name);
                let changed = self.services.put(name.clone(), self.offers.share(record.into()));
                self.dirty.extend(changed.then_some(name));
            }
            (RecordKey::Slice(_, service, slice), Record::Slice(record)) => {
                let service = self.known_name(service);
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
        if let Some(fault) = record.first_refused.clone() {
            self.rejections.add(&Rejection::new(text, fault), record.refused as u64);
        }
        let slice = PeerSlice::new(record, &mut self.slice_ports);
        if self.slices.put(key.clone(), Arc::new(slice)) {
            self.note_fenced(&key);
            self.dirty.insert(key.0);
        }
    }

    /// The same name as a slice of the service has it, so that all of a service's entries share one text.
    fn known_name(&self, name: ServiceName) -> ServiceName {
        let from = (name, None);
        let known = self.slices.find_key(&from, |(known, _)| *known == from.0);
        known.map_or(from.0.clone(), |(known, _)| known.clone())
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
                return Looked::AtNothing;
            }
        };
        self.refused = None;
        let first = self.cluster.replace(Arc::new(record)).is_none();
        self.set_fence(first)
    }

    /// This cluster's own ranges are others than before: every address of the peer is looked at again.
    pub fn set_own_ranges(&mut self, own: OwnRanges) {
        self.pin.fence = self.pin.fence.with_own(own);
        self.set_fence(false);
    }

    /// Brings the fence up to date with pin and cluster record. Says whether it has looked at the endpoints of every
    /// slice again; it does at the first record.
    fn set_fence(&mut self, first: bool) -> Looked {
        let fence = self.pin.fence.narrowed(self.cluster.as_ref().map(|record| &record.ranges));
        if !first && fence == self.fence {
            return Looked::AtNothing;
        }
        self.fence = fence;
        let keys: Vec<SliceKey> = self.slices.entries().keys().cloned().collect();
        keys.iter().for_each(|key| self.note_fenced(key));
        self.dirty.extend(keys.into_iter().map(|(service, _)| service));
        Looked::AtAll
    }

    /// A marker came or went outside a list. When one comes, what was stale goes.
    fn mark(&mut self, kind: SyncedKind, complete: bool) {
        self.markers.set(kind, complete);
        if !complete {
            return;
        }
        match kind {
            SyncedKind::Services => self.dirty.extend(self.services.drop_stale()),
            SyncedKind::Endpoints => {
                self.dirty.extend(self.slices.drop_stale().into_iter().map(|(service, _)| service));
            }
            SyncedKind::Nodes => {}
        }
    }

    /// Counts the endpoints of a slice that the fence keeps out. Before the first cluster record there is no
    /// telling.
    fn note_fenced(&mut self, key: &SliceKey) {
        if self.cluster.is_none() {
            return;
        }
        let (Some(slice), (service, Some(name))) = (self.slices.get(key), key) else { return };
        let mut refusals =
            slice.endpoints().filter_map(|endpoint| self.fence.check(endpoint.address()).err());
        let Some(first) = refusals.next() else { return };
        let count = 1 + refusals.count() as u64;
        let text = RecordKey::Slice(self.pin.name.clone(), service.clone(), name.clone()).to_string();
        self.rejections.add(&Rejection::new(&text, Fault::OutsideFence(first)), count);
    }

    /// Whether what the peer says now is to be used.
    fn is_believed(&self) -> bool {
        self.listed && self.refused.is_none() && self.cluster.is_some()
    }

    /// From here on the peer's word counts, also for what it does not mention.
    fn note_spoken(&mut self) {
        self.synced |= self.is_believed() && self.markers.services && self.markers.endpoints;
    }
}

fn knowledge(synced: bool) -> Knowledge {
    if synced { Knowledge::Complete } else { Knowledge::Partial }
}
