//! What a cluster publishes: from its snapshot to records, and from records that stand in etcd to operations.
//!
//! Owns which records there are and when one counts as changed. Never talks to etcd, never writes the cluster,
//! alive and synced records (those are no function of the snapshot), and never touches another cluster's keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::address_policy::OwnRanges;
use crate::audience::Audience;
use crate::name::{ClusterId, ClusterName, NodeName, ServiceName, SliceName};
use crate::record::{
    self, Chunk, Entry, Kind, MAX_SLICE_ENDPOINTS, Record, RecordKey, ServiceRecord, SliceRecord,
};
use crate::snapshot::{ClusterSnapshot, Endpoint, Service, Slice};

/// Who this cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: ClusterName,
    pub id: ClusterId,
    pub ranges: OwnRanges,
}

/// Records by key, as they stand or shall stand in etcd.
pub type Entries = BTreeMap<String, Vec<u8>>;

/// All service, slice and node records of a snapshot. `changed_unix_us` stamps the slices.
pub fn export(identity: &Identity, snapshot: &ClusterSnapshot, changed_unix_us: u64) -> Entries {
    let services = snapshot
        .services
        .iter()
        .flat_map(|(name, service)| export_service(identity, name, service, changed_unix_us));
    let nodes = snapshot.nodes.iter().map(|(name, node)| record::node_entry(&identity.name, name, node));
    services.chain(nodes).collect()
}

/// The records of one Service; none when it is not shared.
pub fn export_service(
    identity: &Identity,
    name: &ServiceName,
    service: &Service,
    changed_unix_us: u64,
) -> Vec<Entry> {
    if !service.scope.shared {
        return Vec::new();
    }
    let mut entries = vec![ServiceRecord::from(service).entry(&identity.name, name)];
    let Service { scope, slices, .. } = service;
    entries.extend(export_slices(identity, name, (slices, &scope.audience), changed_unix_us));
    entries
}

/// The records of a Service's slices alone, each for the Service's audience.
pub fn export_slices(
    identity: &Identity,
    name: &ServiceName,
    (slices, audience): (&BTreeMap<SliceName, Arc<Slice>>, &Audience),
    changed_unix_us: u64,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut taken: BTreeSet<SliceName> = slices.keys().cloned().collect();
    for (slice_name, slice) in slices {
        // A slice without endpoints is still a record: it says that there are none.
        let mut chunks = slice.endpoints.chunks(MAX_SLICE_ENDPOINTS);
        let mut chunk_name = slice_name.clone();
        let mut endpoints = chunks.next().unwrap_or_default();
        loop {
            let chunk = Chunk { audience, ports: &slice.ports, endpoints, changed_unix_us };
            entries.push(chunk.entry(&identity.name, name, &chunk_name));
            let Some(next) = chunks.next() else { break };
            endpoints = next;
            chunk_name = free_name(slice_name, &taken);
            taken.insert(chunk_name.clone());
        }
    }
    entries
}

/// Whether a record of this name is a slice's, or one of its further chunks.
pub fn is_part_of(record: &SliceName, slice: &SliceName) -> bool {
    // Long names are cut where a number follows.
    let stem = slice.as_str().get(..CUT).unwrap_or(slice.as_str());
    let rest = record.as_str().strip_prefix(stem);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || stem.len() == CUT)
}

/// Shorter than any name that a number has made shorter.
const CUT: usize = 200;

/// The name of a further chunk of a large slice: the first of `name.1`, `name.2` … that no other has.
fn free_name(name: &SliceName, taken: &BTreeSet<SliceName>) -> SliceName {
    const LONGEST: usize = 253;
    let candidates = (1_u64..).map(|number| {
        let suffix = format!(".{number}");
        let room = LONGEST - suffix.len();
        let stem = name.as_str().get(..room).unwrap_or(name.as_str());
        // A label must not end in `-`, and a cut may have left one there.
        let stem = stem.trim_end_matches(['-', '.']);
        SliceName::new(&format!("{stem}{suffix}")).expect("a prefix of a subdomain and a number are one")
    });
    let mut free = candidates.filter(|candidate| !taken.contains(candidate));
    free.next().expect("there are more numbers than names")
}

/// What may be written where a slice's wanted record can't be: the one that stands, without the endpoints that the wanted one
/// no longer lists, and for its audience. Never longer than it, but for conditions and audience. None where that changes
/// nothing, or it is no slice's.
pub fn withdrawn(key: &str, stored: &[u8], wanted: &[u8]) -> Option<Entry> {
    let (RecordKey::Slice(cluster, service, slice), Record::Slice(stands)) =
        record::parse(key, stored).ok()?
    else {
        return None;
    };
    let listed = record::still_listed(wanted)?;
    let endpoints = stands.endpoints.iter().filter_map(|endpoint| {
        let condition = *listed.get(&endpoint.address)?;
        Some(Endpoint { condition, ..endpoint.clone() })
    });
    let audience = Audience::of_record(wanted);
    let rest = SliceRecord { endpoints: endpoints.collect(), audience, ..stands.clone() };
    (rest != stands).then(|| rest.entry(&cluster, &service, &slice))
}

/// The records of a Service's slices that stand for another audience, as they would be for this one. Without those that can't
/// be read.
pub fn readdressed(
    cluster: &ClusterName,
    name: &ServiceName,
    actual: &Entries,
    audience: &Audience,
) -> Vec<Entry> {
    let prefix = RecordKey::slices_prefix(cluster, name);
    let slices = actual.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    let others = slices.filter(|(_, stands)| Audience::of_record(stands) != *audience);
    let readdressed = |(key, stands): (&String, &Vec<u8>)| match record::parse(key, stands).ok()? {
        (RecordKey::Slice(_, _, slice), Record::Slice(stands)) => {
            Some(SliceRecord { audience: audience.clone(), ..stands }.entry(cluster, name, &slice))
        }
        _ => None,
    };
    others.filter_map(readdressed).collect()
}

/// Whose records an operation changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Service(ServiceName),
    Node(NodeName),
    /// A key below the own name that this version does not understand; only ever deleted.
    Unknown(String),
}

/// The changes of one subject. They belong into one transaction; where that is too big, puts go first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOps {
    pub subject: Subject,
    /// Service record first, then slices by key.
    pub puts: Vec<Entry>,
    pub deletes: Vec<String>,
}

/// What turns the records that stand into the wanted ones, grouped by subject and sorted.
///
/// Looks only at the service, slice and node records of `cluster`: everything else that `actual` holds is left
/// alone. A slice that differs only in `changed_unix_us` is not written again.
pub fn diff(cluster: &ClusterName, actual: &Entries, wanted: &Entries) -> Vec<ServiceOps> {
    let mut ops = OpsBySubject::default();
    for (key, value) in wanted {
        ops.put_if_changed(key, actual.get(key), value);
    }
    let own: Vec<_> =
        [Kind::Services, Kind::Endpoints, Kind::Nodes].iter().map(|kind| kind.range(cluster)).collect();
    for key in actual.keys() {
        if !wanted.contains_key(key) && own.iter().any(|range| range.contains(key)) {
            ops.delete(key);
        }
    }
    ops.finish()
}

/// The same for one Service, whose wanted records are [`export_service`]'s or none; costs by the size of that
/// Service. `None` when nothing has to be done.
pub fn diff_service(
    cluster: &ClusterName,
    name: &ServiceName,
    actual: &Entries,
    wanted: &[Entry],
) -> Option<ServiceOps> {
    let mut ops = OpsBySubject::default();
    for (key, value) in wanted {
        ops.put_if_changed(key, actual.get(key), value);
    }
    let kept: BTreeSet<&str> = wanted.iter().map(|(key, _)| key.as_str()).collect();
    let service_key = RecordKey::Service(cluster.clone(), name.clone()).to_string();
    let prefix = RecordKey::slices_prefix(cluster, name);
    let slices =
        actual.range(prefix.clone()..).map(|(key, _)| key).take_while(|key| key.starts_with(&prefix));
    for key in slices.chain(actual.get_key_value(&service_key).map(|(key, _)| key)) {
        if !kept.contains(key.as_str()) {
            ops.delete(key);
        }
    }
    ops.finish().into_iter().next()
}

#[derive(Default)]
struct OpsBySubject(BTreeMap<Subject, ServiceOps>);

impl OpsBySubject {
    fn of(&mut self, key: &str) -> &mut ServiceOps {
        let subject = match key.parse() {
            Ok(RecordKey::Service(_, service) | RecordKey::Slice(_, service, _)) => Subject::Service(service),
            Ok(RecordKey::Node(_, node)) => Subject::Node(node),
            _ => Subject::Unknown(key.into()),
        };
        self.0.entry(subject.clone()).or_insert_with(|| ServiceOps {
            subject,
            puts: Vec::new(),
            deletes: Vec::new(),
        })
    }

    fn put_if_changed(&mut self, key: &str, actual: Option<&Vec<u8>>, wanted: &[u8]) {
        if !actual.is_some_and(|actual| same_value(actual, wanted)) {
            self.of(key).puts.push((key.into(), wanted.into()));
        }
    }

    fn delete(&mut self, key: &str) {
        self.of(key).deletes.push(key.into());
    }

    fn finish(self) -> Vec<ServiceOps> {
        let mut all: Vec<ServiceOps> = self.0.into_values().collect();
        for ops in &mut all {
            let is_slice = |key: &str| matches!(key.parse(), Ok(RecordKey::Slice(..)));
            ops.puts.sort_by_cached_key(|(key, _)| (is_slice(key), key.clone()));
            ops.deletes.sort_unstable();
        }
        all
    }
}

/// Whether two values say the same, but for the time of the change.
fn same_value(actual: &[u8], wanted: &[u8]) -> bool {
    actual == wanted
        || match (without_stamp(actual), without_stamp(wanted)) {
            (Some(actual), Some(wanted)) => actual == wanted,
            _ => false,
        }
}

/// The value without its stamp, which this exporter writes as the last field; `None` for any other form.
fn without_stamp(value: &[u8]) -> Option<&[u8]> {
    const STAMP: &[u8] = b",\"changed_unix_us\":";
    let body = value.strip_suffix(b"}")?;
    let digits = body.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    body[..body.len() - digits].strip_suffix(STAMP)
}
