//! A restart is always safe, as a property of what is written: objects appear, change, break, are healed and go, while two
//! replicas look at them, publish, are cut off in the middle, restart and take over from each other, and etcd loses its
//! data or goes back in time, in any order. No write removes what the leader's source has not readably said to be gone;
//! once all can be read, the records are those that a fresh exporter would write.
//!
//! `RESTARTS=100000 cargo test -p clustermesh-apiserver --lib history_tests` looks longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_kv::publish::{Write, transactions};
use mesh_model::address::Address;
use mesh_model::annotation::Scope;
use mesh_model::export::{Entries, Identity, diff, export, withdrawn};
use mesh_model::name::{NodeName, ServiceName, SliceName};
use mesh_model::record::{self, Record, RecordKey};
use mesh_model::snapshot::{ClusterSnapshot, Node, Service, Slice};
use mesh_model::table::Knowledge;
use mesh_source::convert::{NodeEntry, OwnedSlice, SliceKey};
use mesh_source::objects::{Kind, Object, ObjectKey, Objects};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::export_state::{ExportState, knowledge};
use super::testing::{endpoint, identity, service};

/// Histories of an ordinary run.
const HISTORIES: u32 = 1000;
/// Larger records than etcd takes here.
const MAX_RECORD_BYTES: usize = 8_000;
/// How many endpoints a slice has: none, some, and more than fit into one record, by number or by size.
const SIZES: [u8; 8] = [1, 0, 3, 101, 1, 2, 3, 101];

/// The objects that there may be. Slices are of the Service whose name theirs begins with, but for the last.
const SERVICES: [&str; 2] = ["a", "b"];
const SLICES: [&str; 4] = ["a-1", "a-2", "b-1", "m"];
const NODES: [&str; 2] = ["n", "o"];
const OBJECTS: usize = SERVICES.len() + SLICES.len() + NODES.len();
const REPLICAS: usize = 2;

fn key(object: usize) -> ObjectKey {
    let (services, slices) = (SERVICES.len(), SERVICES.len() + SLICES.len());
    match object {
        it if it < services => service_name(SERVICES[it]).into(),
        it if it < slices => slice_key(SLICES[it - services]).into(),
        it => NodeName::new(NODES[it - slices]).unwrap().into(),
    }
}

fn service_name(name: &str) -> ServiceName {
    ServiceName::new("ns", name).unwrap()
}

fn slice_key(name: &str) -> SliceKey {
    SliceKey { namespace: "ns".into(), name: SliceName::new(name).unwrap() }
}

/// What an object says: never the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    version: u16,
    variety: u8,
}

impl Value {
    fn is_shared(self) -> bool {
        self.variety % 4 != 3
    }

    fn owner(self, slice: &SliceKey) -> ServiceName {
        let name = slice.name.as_str();
        let moves = usize::from(self.variety / 8) % SERVICES.len();
        service_name(SERVICES.iter().find(|owner| name.starts_with(**owner)).unwrap_or(&SERVICES[moves]))
    }

    /// Half of them stay from one version to the next.
    fn addresses(self) -> Vec<Address> {
        let [high, low] = self.version.to_be_bytes();
        let of =
            |index: u8| if index.is_multiple_of(2) { [10, 0, 0, index] } else { [10, 1 + high, low, index] };
        (0..SIZES[usize::from(self.variety) % SIZES.len()]).map(|index| of(index).into()).collect()
    }

    fn object(self, key: &ObjectKey) -> Object {
        match key {
            ObjectKey::Service(name) => Object::Service(name.clone(), Arc::new(self.service())),
            ObjectKey::Slice(key) => {
                let endpoints = self.addresses().into_iter().map(endpoint).collect();
                let slice = Slice { ports: Vec::new(), endpoints };
                let owned = OwnedSlice { service: self.owner(key), slice, hints: Vec::new() };
                Object::Slice(key.clone(), Arc::new(owned))
            }
            ObjectKey::Node(name) => {
                let [high, low] = self.version.to_be_bytes();
                let node = Node { addresses: vec![[10, 9, high, low].into()], pod_cidrs: Vec::new() };
                Object::Node(name.clone(), Arc::new(NodeEntry { node, zone: None }))
            }
            other => unreachable!("no history has {other}"),
        }
    }

    fn service(self) -> Service {
        let [high, low] = self.version.to_be_bytes();
        Service {
            scope: Scope { shared: self.is_shared(), ..Scope::GLOBAL },
            cluster_ips: vec![[10, 102, high, low].into()],
            session_affinity_seconds: Some(1 + u32::from(self.version)),
            ..Arc::unwrap_or_clone(service([]))
        }
    }
}

/// What is there, whether it can be read or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Readable(Value),
    /// `named`: it can at least be told which object it is.
    Unreadable {
        named: bool,
    },
}

type Cluster = BTreeMap<ObjectKey, Truth>;

/// What records say, piece by piece.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fact {
    Service(ServiceName),
    Slice(ServiceName, SliceKey),
    Endpoint(ServiceName, SliceKey, Address),
    Node(NodeName),
}

fn facts(entries: &Entries) -> BTreeSet<Fact> {
    let mut facts = BTreeSet::new();
    for (key, value) in entries {
        match record::parse(key, value).unwrap() {
            (RecordKey::Service(_, name), _) => drop(facts.insert(Fact::Service(name))),
            (RecordKey::Node(_, name), _) => drop(facts.insert(Fact::Node(name))),
            (RecordKey::Slice(_, service, record), Record::Slice(slice)) => {
                // No slice has a dot in its name, but further records of one do.
                let key = slice_key(record.as_str().split('.').next().unwrap());
                let of = |address| Fact::Endpoint(service.clone(), key.clone(), address);
                facts.extend(slice.endpoints.iter().map(|endpoint| of(endpoint.address)));
                facts.insert(Fact::Slice(service, key));
            }
            other => panic!("{other:?}"),
        }
    }
    facts
}

/// What a replica knows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Value(Value),
    /// It is there and was never readable to this replica.
    Unknown,
    Deleted,
    /// What does not tell its name may be it.
    Perhaps,
}

/// One process: what it has seen of the cluster, and what it publishes from that.
struct Replica {
    objects: Objects,
    values: BTreeMap<ObjectKey, Value>,
    /// Of what it ever had a value.
    ever: BTreeSet<ObjectKey>,
    seen: Option<Cluster>,
    snapshot: Option<Arc<ClusterSnapshot>>,
    knowledge: Knowledge,
    /// As of the look before the last.
    earlier: Knowledge,
}

impl Replica {
    fn new() -> Self {
        let (knowledge, earlier) = (Knowledge::Partial, Knowledge::Partial);
        let (values, ever, objects) = (BTreeMap::new(), BTreeSet::new(), Objects::new(None));
        Self { objects, values, ever, seen: None, snapshot: None, knowledge, earlier }
    }

    /// Lists the cluster, as every source does.
    fn look(&mut self, cluster: &Cluster) {
        Kind::ALL.iter().for_each(|kind| self.objects.begin_list(*kind));
        let knowledge = self.would_know(cluster);
        for (key, truth) in cluster {
            match truth {
                Truth::Readable(value) => {
                    self.objects.put(value.object(key));
                    self.values.insert(key.clone(), *value);
                    self.ever.insert(key.clone());
                }
                Truth::Unreadable { .. } if self.is_nameless(key, *truth) => {}
                Truth::Unreadable { .. } => self.objects.keep(key),
            }
        }
        self.values.retain(|key, _| cluster.contains_key(key));
        self.objects.has_nameless(Kind::Service, knowledge == Knowledge::Partial);
        Kind::ALL.iter().for_each(|kind| self.objects.end_list(*kind, Knowledge::Complete));
        if self.objects.refresh() || self.snapshot.is_none() {
            self.snapshot = Some(Arc::new(self.objects.snapshot().clone()));
        }
        self.earlier = std::mem::replace(&mut self.knowledge, knowledge);
        self.seen = Some(cluster.clone());
    }

    /// Whether something does not tell what it is, and no earlier value of it is known.
    fn is_nameless(&self, key: &ObjectKey, truth: Truth) -> bool {
        truth == Truth::Unreadable { named: false } && !self.values.contains_key(key)
    }

    /// What a list of the cluster would say.
    fn would_know(&self, cluster: &Cluster) -> Knowledge {
        let nameless = cluster.iter().any(|(key, truth)| self.is_nameless(key, *truth));
        if nameless { Knowledge::Partial } else { Knowledge::Complete }
    }

    fn knows(&self, key: &ObjectKey) -> Known {
        let seen = self.seen.as_ref().unwrap();
        let has_gone = self.ever.contains(key) || self.would_know(seen) == Knowledge::Complete;
        match (self.values.get(key), seen.get(key)) {
            (Some(value), Some(_)) => Known::Value(*value),
            (None, Some(Truth::Unreadable { named: true })) => Known::Unknown,
            _ if has_gone => Known::Deleted,
            _ => Known::Perhaps,
        }
    }

    /// Whether this replica's source has said readably that there is no such thing any more.
    fn is_gone(&self, fact: &Fact) -> bool {
        match fact {
            Fact::Node(name) => self.knows(&name.clone().into()) == Known::Deleted,
            Fact::Service(name) => match self.knows(&name.clone().into()) {
                Known::Value(value) => !value.is_shared(),
                known => known == Known::Deleted,
            },
            Fact::Slice(service, key) | Fact::Endpoint(service, key, _) => {
                self.is_gone(&Fact::Service(service.clone()))
                    || match self.knows(&key.clone().into()) {
                        Known::Value(value) => !is_of(fact, value, service, key),
                        known => known == Known::Deleted,
                    }
            }
        }
    }

    /// What has to be said of what this replica knows, in so far as the records say anything of its Service.
    fn wants(&self, stands: &BTreeSet<Fact>) -> BTreeSet<Fact> {
        let mut wanted = BTreeSet::new();
        for key in (0..OBJECTS).map(key) {
            let Known::Value(value) = self.knows(&key) else { continue };
            match key {
                ObjectKey::Service(name) if value.is_shared() => drop(wanted.insert(Fact::Service(name))),
                ObjectKey::Node(name) => drop(wanted.insert(Fact::Node(name))),
                ObjectKey::Slice(key) => {
                    let service = value.owner(&key);
                    let fact = Fact::Service(service.clone());
                    let is_served = match self.knows(&service.clone().into()) {
                        Known::Value(value) => value.is_shared(),
                        known => known == Known::Unknown && stands.contains(&fact),
                    };
                    if is_served {
                        let addresses = value.addresses().into_iter();
                        wanted.extend(addresses.map(|it| Fact::Endpoint(service.clone(), key.clone(), it)));
                        wanted.insert(Fact::Slice(service, key));
                    }
                }
                _ => {}
            }
        }
        wanted
    }
}

/// Whether a value says this of a slice.
fn is_of(fact: &Fact, value: Value, service: &ServiceName, key: &SliceKey) -> bool {
    let lists = match fact {
        Fact::Endpoint(_, _, address) => value.addresses().contains(address),
        _ => true,
    };
    value.owner(key) == *service && lists
}

/// Of which list the source's word is that it knows everything, beside the snapshot of the last.
#[derive(Clone, Copy, Debug)]
enum Word {
    Last,
    BeforeIt,
    /// The snapshot is still on its way.
    BehindIt,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// An object appears, changes or is healed.
    Write(usize, u8),
    Delete(usize),
    Break {
        object: usize,
        named: bool,
    },
    Look(usize),
    /// The leader publishes; after so many transactions its connection ends.
    Publish {
        transactions: Option<usize>,
        word: Word,
    },
    Restart(usize),
    TakeOver,
    Wipe,
    BackUp,
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cut = prop_oneof![3 => Just(None), 1 => (0_usize..3).prop_map(Some)];
    let word = prop_oneof![2 => Just(Word::Last), 1 => Just(Word::BeforeIt), 1 => Just(Word::BehindIt)];
    let step = prop_oneof![
        6 => (0..OBJECTS, any::<u8>()).prop_map(|(object, variety)| Step::Write(object, variety)),
        3 => (0..OBJECTS).prop_map(Step::Delete),
        5 => (0..OBJECTS, any::<bool>()).prop_map(|(object, named)| Step::Break { object, named }),
        8 => (0..REPLICAS).prop_map(Step::Look),
        8 => (cut, word).prop_map(|(transactions, word)| Step::Publish { transactions, word }),
        3 => (0..REPLICAS).prop_map(Step::Restart),
        1 => Just(Step::TakeOver),
        1 => Just(Step::Wipe),
        1 => Just(Step::BackUp),
        1 => Just(Step::Restore),
    ];
    prop::collection::vec(step, 10..60)
}

/// A cluster, its replicas and its etcd.
struct World<'a> {
    identity: &'a Identity,
    cluster: Cluster,
    version: u16,
    replicas: [Replica; REPLICAS],
    leader: usize,
    state: ExportState<'a>,
    etcd: Entries,
    backup: Entries,
}

impl<'a> World<'a> {
    fn new(identity: &'a Identity) -> Self {
        let mut world = Self {
            identity,
            cluster: Cluster::new(),
            version: 0,
            replicas: std::array::from_fn(|_| Replica::new()),
            leader: 0,
            state: ExportState::new(identity),
            etcd: Entries::new(),
            backup: Entries::new(),
        };
        (0..OBJECTS).for_each(|object| world.write(object, 0));
        world.settle();
        world
    }

    fn write(&mut self, object: usize, variety: u8) {
        self.version += 1;
        let value = Value { version: self.version, variety };
        self.cluster.insert(key(object), Truth::Readable(value));
    }

    /// The leader is another, or connects anew.
    fn connect(&mut self) {
        self.state = ExportState::new(self.identity);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(object, variety) => self.write(object, variety),
            Step::Delete(object) => drop(self.cluster.remove(&key(object))),
            Step::Break { object, named } => {
                self.cluster.insert(key(object), Truth::Unreadable { named });
            }
            Step::Look(replica) => self.replicas[replica].look(&self.cluster),
            Step::Publish { transactions, word } => self.publish(transactions, word),
            Step::Restart(replica) => {
                self.replicas[replica] = Replica::new();
                if replica == self.leader {
                    self.connect();
                }
            }
            Step::TakeOver => {
                self.leader = (self.leader + 1) % REPLICAS;
                self.connect();
            }
            Step::Wipe => {
                self.etcd.clear();
                self.connect();
            }
            Step::BackUp => self.backup.clone_from(&self.etcd),
            Step::Restore => {
                self.etcd.clone_from(&self.backup);
                self.connect();
            }
        }
    }

    fn publish(&mut self, cut: Option<usize>, word: Word) {
        let leader = &self.replicas[self.leader];
        let Some(snapshot) = leader.snapshot.clone() else { return };
        let said = match word {
            Word::Last => leader.knowledge,
            Word::BeforeIt => leader.earlier,
            Word::BehindIt => leader.would_know(&self.cluster),
        };
        let knowledge = knowledge(said, &snapshot);
        if self.state.shows(&snapshot, knowledge) {
            return;
        }
        let ops = self.state.ops(&snapshot, knowledge, &self.etcd, u64::from(self.version));
        let all = transactions(ops);
        let applied = all.len().min(cut.unwrap_or(usize::MAX));
        for writes in all.into_iter().take(applied) {
            self.apply(writes);
        }
        if cut.is_some() {
            return self.connect();
        }
        self.state.applied(snapshot, knowledge);
        self.check(knowledge);
    }

    fn apply(&mut self, writes: Vec<Write>) {
        let before = facts(&self.etcd);
        let mut smaller = Vec::new();
        for write in writes {
            match write {
                Write::Put((key, value)) if value.len() > MAX_RECORD_BYTES => {
                    smaller.extend(self.etcd.get(&key).and_then(|stands| withdrawn(&key, stands, &value)));
                }
                Write::Put((key, value)) => drop(self.etcd.insert(key, value)),
                Write::Delete(key) => drop(self.etcd.remove(&key)),
            }
        }
        self.etcd.extend(smaller);
        let after = facts(&self.etcd);
        let leader = &self.replicas[self.leader];
        let taken: Vec<_> = before.difference(&after).filter(|fact| !leader.is_gone(fact)).collect();
        assert!(taken.is_empty(), "taken away, and not gone: {taken:?}");
    }

    /// After all was written: what the leader knows is there, and with complete knowledge nothing that is gone.
    fn check(&self, knowledge: Knowledge) {
        let leader = &self.replicas[self.leader];
        let stands = facts(&self.etcd);
        let fits = |fact: &&Fact| match fact {
            // Of such a slice not all can be written.
            Fact::Endpoint(_, key, _) => !matches!(
                leader.knows(&key.clone().into()),
                Known::Value(value) if value.addresses().len() > 100
            ),
            _ => true,
        };
        let wanted = leader.wants(&stands);
        let missing: Vec<_> = wanted.difference(&stands).filter(fits).collect();
        let missing: Vec<_> =
            missing.into_iter().filter(|fact| !is_first_of_oversized(leader, fact)).collect();
        assert!(missing.is_empty(), "known, and missing: {missing:?}");
        if knowledge == Knowledge::Complete {
            let left: Vec<_> = stands.iter().filter(|fact| leader.is_gone(fact)).collect();
            assert!(left.is_empty(), "gone, and still there: {left:?}");
        }
    }

    /// All is corrected, seen and written.
    fn settle(&mut self) {
        let objects: Vec<_> =
            (0..OBJECTS).filter(|object| self.cluster.contains_key(&key(*object))).collect();
        for object in objects {
            self.write(object, 0);
        }
        for replica in &mut self.replicas {
            replica.look(&self.cluster);
            replica.look(&self.cluster);
        }
        self.publish(None, Word::Last);
        let mut fresh = Replica::new();
        fresh.look(&self.cluster);
        let wanted = export(self.identity, &fresh.snapshot.unwrap(), 0);
        let left = diff(&self.identity.name, &self.etcd, &wanted);
        assert!(left.is_empty(), "a fresh exporter would write: {left:?}");
    }
}

/// Whether a slice has only records that are too big, or had none before it was.
fn is_first_of_oversized(leader: &Replica, fact: &Fact) -> bool {
    let Fact::Slice(_, key) = fact else { return false };
    matches!(leader.knows(&key.clone().into()), Known::Value(value) if value.addresses().len() > 100)
}

fn history(steps: &[Step]) {
    let identity = identity("hoth", 2);
    let mut world = World::new(&identity);
    for step in steps {
        world.take(*step);
    }
    world.settle();
}

/// What histories have found, and what they meet rarely.
#[test]
fn histories_that_failed_once() {
    let publish = |word| Step::Publish { transactions: None, word };
    let (slice, told) = (SERVICES.len(), publish(Word::Last));
    let breaks = |named| Step::Break { object: slice, named };
    for steps in [
        // A word that everything is known was taken for one about the snapshot before, which said that there may be anything.
        &[Step::Restart(0), breaks(false), Step::Look(0), Step::Write(slice, 0), publish(Word::BehindIt)][..],
        // What was pruned once counted as pruned when not everything was known any more.
        &[Step::Restart(0), breaks(true), Step::Look(0), told, breaks(false), Step::Look(0), told],
        // A slice that needs more than one record.
        &[Step::Write(slice, 3), Step::Look(0), told, Step::Restart(0), breaks(true), Step::Look(0), told],
    ] {
        history(steps);
    }
}

#[test]
fn whatever_breaks_and_restarts_in_whatever_order_no_record_is_taken_away() {
    let histories = std::env::var("RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORIES);
    let mut runner =
        TestRunner::new(Config { cases: histories, failure_persistence: None, ..Config::default() });
    let result = runner.run(&steps(), |steps| {
        history(&steps);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
