//! Plans against a model of the maps, step by step, with readers that are interrupted between their lookups.

use std::collections::{BTreeMap, BTreeSet};

use mesh_abi::{
    GroupTable, STATE_ACTIVE, STATE_FREE, STATE_QUARANTINED, ServiceCell, ServiceEntry, ServiceKey, TableKey,
};
use mesh_model::address::Address;
use mesh_model::change::GroupChange;
use mesh_model::desired::{BackendState, DesiredBackend, DesiredGroup, DesiredService, Frontend};
use mesh_model::name::ClusterId;
use mesh_model::snapshot::Protocol;
use proptest::prelude::*;

use super::actual::{Actual, Capacity, MirrorGroup, service_key};
use super::plan::{Plan, Retired, Shortage};
use super::restore::{Contents, restore};
use super::shares::Share;

const CAPACITY: Capacity = Capacity { services: 8, slots: 256, backends: 64, counters: 16 };
/// For services of many groups.
const ROOMY: Capacity = Capacity { services: 8, slots: 4096, backends: 512, counters: 64 };

/// The maps, written one element at a time.
#[derive(Clone, Debug)]
struct Maps {
    /// The entries that count are always what the cells and tables say.
    contents: Contents,
    cells: BTreeMap<ServiceKey, ServiceCell>,
    tables: BTreeMap<TableKey, GroupTable>,
}

/// The writes of one entry: its table, the version that doesn't count, the switch.
const ENTRY_WRITES: usize = 3;

impl Maps {
    fn new() -> Self {
        Self::of(CAPACITY)
    }

    fn of(capacity: Capacity) -> Self {
        let slots = vec![Default::default(); capacity.slots as usize];
        let contents = Contents { slots, ..Contents::default() };
        Self { contents, cells: BTreeMap::new(), tables: BTreeMap::new() }
    }

    fn entry(&self, cell: &ServiceCell) -> ServiceEntry {
        cell.entry(cell.table().and_then(|key| self.tables.get(&key)))
    }

    /// Writes a part of an entry.
    fn write(&mut self, key: &ServiceKey, entry: &ServiceEntry, part: usize) {
        let found = self.cells.get(key).copied();
        match part {
            0 if entry.is_wide() => {
                let place =
                    found.map_or(TableKey::new(entry.head.id, 0), |cell| cell.spare_table(entry.head.id));
                let is_read = self.cells.values().any(|cell| cell.table() == Some(place));
                assert!(!is_read, "the table that counts was written under its readers");
                self.tables.insert(place, GroupTable::of(entry));
            }
            0 => {}
            1 => {
                let cell = found.map_or_else(|| ServiceCell::new(entry), |cell| cell.prepared(entry));
                self.cells.insert(*key, cell);
            }
            // A new cell counts as it is.
            _ => {
                let cell = found.expect("it was prepared");
                let counts = cell.entry(cell.table().and_then(|key| self.tables.get(&key))) == *entry;
                self.cells.insert(*key, if counts { cell } else { cell.switched() });
            }
        }
        self.contents.services.retain(|(other, _)| other != key);
        let entry = self.cells.get(key).map(|cell| (*key, self.entry(cell)));
        self.contents.services.extend(entry);
        self.contents.tables = self.tables.keys().map(|key| key.service).collect();
    }

    /// Carries out the `step`th write of a plan; false behind its end.
    fn step(&mut self, plan: &Plan, mut step: usize) -> bool {
        if let Some((id, entry)) = plan.backends.get(step) {
            self.contents.backends.retain(|(other, _)| other != id);
            if entry.state != STATE_FREE {
                self.contents.backends.push((*id, *entry));
            }
            return true;
        }
        step -= plan.backends.len();
        if let Some((index, entry)) = plan.slots.get(step) {
            self.contents.slots[*index as usize] = *entry;
            return true;
        }
        step -= plan.slots.len();
        if let Some((key, entry)) = plan.services.get(step / ENTRY_WRITES) {
            self.write(key, entry, step % ENTRY_WRITES);
            return true;
        }
        step -= plan.services.len() * ENTRY_WRITES;
        let Some(key) = plan.deleted.get(step) else { return false };
        self.cells.remove(key);
        self.contents.services.retain(|(other, _)| other != key);
        true
    }

    fn apply(&mut self, plan: &Plan) {
        let mut step = 0;
        while self.step(plan, step) {
            step += 1;
        }
    }

    /// Plans and writes, and frees nothing.
    fn carry_out(&mut self, actual: &mut Actual, changes: &[(Frontend, Option<DesiredService>)]) -> Plan {
        let mut plan = actual.plan(changes);
        self.apply(&plan);
        actual.written(&mut plan);
        plan
    }

    fn release(&mut self, actual: &mut Actual, retired: Retired) {
        let cleared = actual.release(retired);
        for (id, _) in cleared.backends {
            self.contents.backends.retain(|(other, _)| *other != id);
        }
        for key in cleared.tables {
            assert!(!self.cells.values().any(|cell| cell.table() == Some(key)), "a table in use is deleted");
            self.tables.remove(&key);
        }
        self.contents.tables = self.tables.keys().map(|key| key.service).collect();
    }

    /// The backends behind every frontend, by cluster, as a reader finds them; panics where a lookup fails.
    fn read(&self) -> BTreeMap<Frontend, BTreeMap<u16, BTreeSet<(Address, u16)>>> {
        let mut all = BTreeMap::new();
        for (key, entry) in &self.contents.services {
            let frontend = super::actual::frontend_of(key).unwrap();
            assert_eq!(entry.head, entry.tail, "a torn entry, or a table that is none of its");
            let groups: &mut BTreeMap<_, BTreeSet<_>> = all.entry(frontend).or_default();
            for group in &entry.groups[..usize::from(entry.group_count)] {
                for index in group.first..group.first + group.count {
                    let slot = self.contents.slots[index as usize];
                    assert_eq!(slot.service, entry.head.id, "a slot of another service");
                    let backend = self.backend(slot.backend);
                    assert_eq!(backend.cluster, group.cluster);
                    let backend = (Address::from(backend.address), u16::from_be_bytes(backend.port));
                    groups.entry(group.cluster).or_default().insert(backend);
                }
            }
        }
        all
    }

    fn backend(&self, id: u32) -> mesh_abi::BackendEntry {
        let found = self.contents.backends.iter().find(|(other, _)| *other == id);
        found.unwrap_or_else(|| panic!("backend {id} is missing")).1
    }
}

/// A program that has looked an entry up and goes on later.
struct Reader {
    frontend: Frontend,
    key: ServiceKey,
    cell: ServiceCell,
    /// A slot that it has read.
    backend: Option<u32>,
}

impl Reader {
    fn start(maps: &Maps, slot_too: bool) -> Vec<Self> {
        let readers = maps.cells.iter().map(|(key, cell)| {
            let frontend = super::actual::frontend_of(key).unwrap();
            let entry = maps.entry(cell);
            let first = entry.groups[..usize::from(entry.group_count)].first();
            let backend = first.filter(|_| slot_too).map(|group| {
                let last = group.first + group.count - 1;
                maps.contents.slots[last as usize].backend
            });
            Self { frontend, key: *key, cell: *cell, backend }
        });
        readers.collect()
    }

    /// Whatever the reader's old entry leads to is a backend that the frontend had or has.
    fn finish(&self, maps: &Maps, allowed: &BTreeSet<(Frontend, Address, u16)>) {
        let entry = maps.entry(&self.cell);
        if entry.head != entry.tail {
            // The table is no longer the version's. The reader notices; it has to be worth looking up again.
            let now = maps.cells.get(&self.key).map(|cell| cell.current);
            assert_ne!(now, Some(self.cell.current), "the version counts, and its table is another's");
            return;
        }
        for group in &entry.groups[..usize::from(entry.group_count)] {
            for index in group.first..group.first + group.count {
                let slot = maps.contents.slots[index as usize];
                if slot.service != entry.head.id {
                    continue; // The reader notices and looks up again.
                }
                self.check(maps, slot.backend, allowed);
            }
        }
        if let Some(backend) = self.backend {
            self.check(maps, backend, allowed);
        }
    }

    fn check(&self, maps: &Maps, id: u32, allowed: &BTreeSet<(Frontend, Address, u16)>) {
        let backend = maps.backend(id);
        let found = (self.frontend, Address::from(backend.address), u16::from_be_bytes(backend.port));
        assert!(allowed.contains(&found), "{found:?} was never a backend of the frontend");
    }
}

type Want = Vec<(u16, Vec<(u8, bool)>)>;

fn frontend(index: u8) -> Frontend {
    Frontend { address: [10, 96, 0, index].into(), port: 80, protocol: Protocol::Tcp }
}

fn service(want: &Want) -> DesiredService {
    let groups = want.iter().map(|(cluster, backends)| {
        let mut backends: Vec<_> = backends
            .iter()
            .map(|(host, active)| {
                let state = if *active { BackendState::Active } else { BackendState::Terminating };
                DesiredBackend::new([10, 0, u8::try_from(*cluster).unwrap(), *host], 8080, state)
            })
            .collect();
        backends.sort();
        backends.dedup_by_key(|backend| backend.address);
        let weight = u32::try_from(backends.len()).unwrap();
        DesiredGroup { cluster: ClusterId::new(u64::from(*cluster)).unwrap(), tier: 0, weight, backends }
    });
    let mut groups: Vec<_> = groups.collect();
    groups.sort_by_key(|group| group.cluster);
    groups.dedup_by_key(|group| group.cluster);
    DesiredService { service: "ns/svc".parse().unwrap(), port_name: None, plain_ok: false, groups }
}

fn want() -> impl Strategy<Value = Option<Want>> {
    let backends = prop::collection::vec((0_u8..20, any::<bool>()), 1..12);
    // Up to more groups than a cell has room for.
    prop::option::weighted(0.8, prop::collection::vec((1_u16..7, backends), 0..5))
}

/// Changes by frontend, whether a grace period follows, whether the agent restarts after that.
type Turn = (Vec<(u8, Option<Want>)>, bool, bool);

fn history() -> impl Strategy<Value = Vec<Turn>> {
    let changes = prop::collection::vec((0_u8..4, want()), 1..4);
    prop::collection::vec((changes, any::<bool>(), any::<bool>()), 1..12)
}

fn changes_of(changes: &[(u8, Option<Want>)]) -> Vec<(Frontend, Option<DesiredService>)> {
    let by_frontend: BTreeMap<_, _> = changes.iter().map(|(index, want)| (frontend(*index), want)).collect();
    by_frontend.into_iter().map(|(frontend, want)| (frontend, want.as_ref().map(service))).collect()
}

fn backends_of(desired: &DesiredService) -> impl Iterator<Item = (Address, u16)> + '_ {
    desired.groups.iter().flat_map(|group| &group.backends).map(|backend| (backend.address, backend.port))
}

/// From the one set of hosts to the other, in cluster 1's group behind the first frontend.
fn group_change(before: &BTreeSet<u8>, after: &BTreeSet<u8>) -> GroupChange {
    let backend = |host: &u8| DesiredBackend::new([10, 0, 1, *host], 8080, BackendState::Active);
    GroupChange {
        frontend: frontend(1),
        cluster: ClusterId::new(1).unwrap(),
        gone: before.difference(after).map(backend).collect(),
        come: after.difference(before).map(backend).collect(),
    }
}

proptest! {
    #[test]
    fn no_prefix_of_a_plan_exposes_a_missing_backend(history in history()) {
        let mut maps = Maps::of(ROOMY);
        let mut actual = Actual::new(ROOMY);
        let mut desired: BTreeMap<Frontend, DesiredService> = BTreeMap::new();
        let mut waiting = Retired::default();
        let mut ever = BTreeSet::new();
        let mut readers: Vec<Reader> = Vec::new();
        for (changes, grace, restart) in history {
            let changes = changes_of(&changes);
            for (frontend, change) in &changes {
                match change {
                    Some(service) => {
                        ever.extend(backends_of(service).map(|(address, port)| (*frontend, address, port)));
                        desired.insert(*frontend, service.clone());
                    }
                    None => drop(desired.remove(frontend)),
                }
            }
            let mut plan = actual.plan(&changes);
            prop_assert!(plan.refused.is_empty(), "{:?}", plan.refused);
            let mut step = 0;
            readers.extend(Reader::start(&maps, true));
            while maps.step(&plan, step) {
                step += 1;
                maps.read();
                readers.iter().for_each(|reader| reader.finish(&maps, &ever));
                readers.extend(Reader::start(&maps, step % 2 == 0));
            }
            waiting.append(actual.written(&mut plan));
            if grace {
                // A grace period ends only after every reader that was there at its start.
                readers.clear();
                maps.release(&mut actual, std::mem::take(&mut waiting));
            }
            if restart {
                readers.clear();
                let restored = restore(&maps.contents, ROOMY);
                prop_assert_eq!(restored.damaged, 0);
                actual = restored.actual;
                waiting = restored.leftover;
                // A restarted agent plans everything once it knows everything.
                let all: Vec<_> = desired.iter().map(|(f, s)| (*f, Some(s.clone()))).collect();
                let mut plan = actual.plan(&all);
                maps.apply(&plan);
                waiting.append(actual.written(&mut plan));
            }
            let expected: BTreeMap<_, _> = desired
                .iter()
                .map(|(frontend, service)| {
                    let groups = service.groups.iter().map(|group| {
                        let backends = group.backends.iter().map(|b| (b.address, b.port)).collect();
                        (group.cluster.value(), backends)
                    });
                    (*frontend, groups.collect::<BTreeMap<_, BTreeSet<_>>>())
                })
                .collect();
            prop_assert_eq!(maps.read(), expected);
        }
        // Planning the same again writes nothing.
        let again: Vec<_> = desired.iter().map(|(f, s)| (*f, Some(s.clone()))).collect();
        prop_assert!(actual.plan(&again).is_empty());
        // Nothing leaks: with everything deleted, everything is free.
        let gone: Vec<_> = desired.keys().map(|frontend| (*frontend, None)).collect();
        let mut plan = actual.plan(&gone);
        maps.apply(&plan);
        waiting.append(actual.written(&mut plan));
        maps.release(&mut actual, waiting);
        prop_assert_eq!(actual.backend_count(), 0);
        prop_assert_eq!(actual.free_slots(), ROOMY.slots);
        prop_assert!(maps.contents.services.is_empty() && maps.contents.backends.is_empty());
        prop_assert!(maps.tables.is_empty(), "{:?}", maps.tables.keys());
    }

    #[test]
    fn what_changes_of_a_group_leads_where_the_whole_would(
        first in prop::collection::btree_set(0_u8..40, 1..30),
        turns in prop::collection::vec((prop::collection::btree_set(0_u8..40, 1..30), any::<bool>()), 1..8),
    ) {
        let wanted = |hosts: &BTreeSet<u8>| {
            service(&vec![(1, hosts.iter().map(|host| (*host, true)).collect()), (2, vec![(1, true)])])
        };
        let (mut maps, mut actual, mut held) = (Maps::new(), Actual::new(CAPACITY), first);
        maps.carry_out(&mut actual, &[(frontend(1), Some(wanted(&held)))]);
        // A service that shares backends, so that not all that goes is gone.
        maps.carry_out(&mut actual, &[(frontend(2), Some(wanted(&BTreeSet::from([1, 2, 3]))))]);
        let ever: BTreeSet<_> = (1..=2).flat_map(|index| {
            let all = wanted(&(0..40).collect());
            backends_of(&all).map(|(address, port)| (frontend(index), address, port)).collect::<Vec<_>>()
        }).collect();
        for (hosts, small) in turns {
            // Most changes are of few backends.
            let hosts: BTreeSet<u8> = if small {
                held.iter().skip(1).chain(hosts.first()).copied().collect()
            } else {
                hosts
            };
            let mut plan = Plan::default();
            let change = group_change(&held, &hosts);
            if !actual.plan_change(&change, &mut plan) {
                prop_assert!(plan.is_empty() && actual.written(&mut plan).is_empty());
                plan = actual.plan(&[(frontend(1), Some(wanted(&hosts)))]);
            }
            let slots = change.gone.len().max(change.come.len());
            let mut readers = Reader::start(&maps, true);
            let mut step = 0;
            while maps.step(&plan, step) {
                step += 1;
                maps.read();
                readers.iter().for_each(|reader| reader.finish(&maps, &ever));
                readers.extend(Reader::start(&maps, step % 2 == 0));
            }
            prop_assert!(plan.slots.len() <= slots || plan.slots.len() == hosts.len(), "{:?}", plan.slots);
            let retired = actual.written(&mut plan);
            maps.release(&mut actual, retired);
            let read: BTreeSet<_> = maps.read()[&frontend(1)][&1].iter().copied().collect();
            let expected: BTreeSet<_> = backends_of(&wanted(&hosts)).take(hosts.len()).collect();
            prop_assert_eq!(read, expected);
            // The whole finds nothing left to do: weights, too, are as they should be.
            prop_assert!(actual.plan(&[(frontend(1), Some(wanted(&hosts)))]).is_empty());
            held = hosts;
        }
        prop_assert_eq!(restore(&maps.contents, CAPACITY).damaged, 0);
    }

    #[test]
    fn a_backend_is_active_while_any_service_calls_it_active(first in any::<bool>(), second in any::<bool>()) {
        let mut maps = Maps::new();
        let mut actual = Actual::new(CAPACITY);
        let one = |active| service(&vec![(1, vec![(1, active)])]);
        maps.carry_out(&mut actual, &[(frontend(1), Some(one(true)))]);
        maps.carry_out(&mut actual, &[(frontend(2), Some(one(first)))]);
        maps.carry_out(&mut actual, &[(frontend(1), Some(one(second)))]);
        prop_assert_eq!(maps.contents.backends.len(), 1);
        let active = maps.contents.backends[0].1.state == STATE_ACTIVE;
        prop_assert_eq!(active, first || second);
    }
}

#[test]
fn one_backends_change_costs_a_slot_whatever_the_size() {
    let capacity = Capacity { services: 8, slots: 4096, backends: 4096, counters: 16 };
    let mut actual = Actual::new(capacity);
    let hosts = |range: std::ops::Range<u16>| {
        let backends = range.map(|host| {
            DesiredBackend::new([10, 0, (host >> 8) as u8, host as u8], 80, BackendState::Active)
        });
        let group = DesiredGroup {
            cluster: ClusterId::new(1).unwrap(),
            tier: 0,
            weight: 1,
            backends: backends.collect(),
        };
        DesiredService {
            service: "ns/svc".parse().unwrap(),
            port_name: None,
            plain_ok: false,
            groups: vec![group],
        }
    };
    actual.plan(&[(frontend(1), Some(hosts(0..1000)))]);
    let replaced = actual.plan(&[(frontend(1), Some(hosts(1..1001)))]);
    assert_eq!((replaced.backends.len(), replaced.slots.len(), replaced.services.len()), (1, 1, 0));
    let shrunk = actual.plan(&[(frontend(1), Some(hosts(2..1001)))]);
    assert_eq!((shrunk.backends.len(), shrunk.slots.len(), shrunk.services.len()), (0, 1, 1));
}

#[test]
fn a_full_map_cuts_one_frontend_and_keeps_the_others() {
    let capacity = Capacity { services: 2, slots: 16, backends: 4, counters: 2 };
    let mut actual = Actual::new(capacity);
    let small = service(&vec![(1, vec![(1, true)])]);
    let large = service(&vec![(1, (1..10).map(|host| (host, true)).collect())]);
    let plan = actual.plan(&[(frontend(1), Some(small.clone())), (frontend(2), Some(large.clone()))]);
    assert_eq!(plan.refused, [(frontend(2), Shortage::Backends)]);
    let sizes = |actual: &Actual| [1, 2].map(|n| actual.held(&frontend(n)).unwrap().groups[0].len());
    assert_eq!(sizes(&actual), [1, 3], "as many as there is room for");
    assert!(actual.plan(&[(frontend(2), Some(large))]).is_empty(), "and the same again");
    let plan = actual.plan(&[(frontend(2), Some(small.clone()))]);
    assert!(plan.refused.is_empty());
    let plan = actual.plan(&[(frontend(3), Some(small))]);
    assert_eq!(plan.refused, [(frontend(3), Shortage::Services)]);
    assert_eq!(actual.frontends().count(), 2);
}

#[test]
fn neither_a_plan_nor_a_restart_lifts_a_quarantine() {
    let mut maps = Maps::new();
    let wanted = |first, second| service(&vec![(1, vec![(1, first), (2, second)])]);
    maps.carry_out(&mut Actual::new(CAPACITY), &[(frontend(1), Some(wanted(true, true)))]);
    let id = maps.contents.slots[maps.contents.services[0].1.groups[0].first as usize].backend;
    let backends = maps.contents.backends.iter_mut();
    backends.filter(|(other, _)| *other == id).for_each(|(_, entry)| entry.state = STATE_QUARANTINED);
    let mut actual = restore(&maps.contents, CAPACITY).actual;
    // It terminates and is back, also behind another frontend.
    for (port, first) in [(1, true), (1, false), (1, true), (2, true)] {
        maps.carry_out(&mut actual, &[(frontend(port), Some(wanted(first, true)))]);
        assert_eq!(maps.backend(id).state, STATE_QUARANTINED);
    }
    let others = maps.contents.backends.iter().filter(|(other, _)| *other != id);
    assert!(others.clone().count() > 0 && others.into_iter().all(|(_, entry)| entry.state == STATE_ACTIVE));
    let larger = Capacity { slots: 512, ..CAPACITY };
    let (moved, plan) = actual.moved_to(larger);
    let states: Vec<u32> = plan.backends.iter().map(|(_, entry)| entry.state).collect();
    assert_eq!(states.iter().filter(|state| **state == STATE_QUARANTINED).count(), 1, "{states:?}");
    let held = moved.held(&frontend(1)).unwrap();
    let held: Vec<u32> = moved.members(&held.groups[0]).map(|(_, state)| state).collect();
    assert_eq!(held, [STATE_QUARANTINED, STATE_ACTIVE], "the mirror says the same");
    let mut one = maps.clone();
    let mut plan = actual.plan(&[(frontend(1), None), (frontend(2), None)]);
    one.apply(&plan);
    let retired = actual.written(&mut plan);
    one.release(&mut actual, retired);
    one.carry_out(&mut actual, &[(frontend(1), Some(wanted(true, true)))]);
    assert!(one.contents.backends.iter().all(|(_, entry)| entry.state == STATE_ACTIVE), "it is another one");
}

#[test]
fn a_service_entry_with_foreign_slots_is_written_again() {
    let mut maps = Maps::new();
    let mut actual = Actual::new(CAPACITY);
    let wanted = service(&vec![(1, vec![(1, true), (2, true)])]);
    maps.carry_out(&mut actual, &[(frontend(1), Some(wanted.clone()))]);
    let entry = maps.contents.services[0].1;
    maps.contents.slots[entry.groups[0].first as usize].service = 999;
    let mut restored = restore(&maps.contents, CAPACITY);
    assert_eq!(restored.damaged, 1);
    let plan = restored.actual.plan(&[(frontend(1), Some(wanted))]);
    assert_eq!(plan.services[0].0, service_key(&frontend(1)));
    maps.apply(&plan);
    assert_eq!(maps.read()[&frontend(1)][&1].len(), 2);
}

#[test]
fn a_group_of_more_slots_than_there_can_be_is_damage_and_not_the_end() {
    let mut maps = Maps::new();
    let mut actual = Actual::new(CAPACITY);
    let wanted = service(&vec![(1, vec![(1, true), (2, true)])]);
    maps.carry_out(&mut actual, &[(frontend(1), Some(wanted.clone()))]);
    for count in [257, 1 << 31, (1 << 31) + 1, u32::MAX] {
        let mut wild = maps.clone();
        wild.contents.services[0].1.groups[0].count = count;
        let mut restored = restore(&wild.contents, CAPACITY);
        assert_eq!(restored.damaged, 1, "{count}");
        wild.carry_out(&mut restored.actual, &[(frontend(1), Some(wanted.clone()))]);
        assert_eq!(wild.read()[&frontend(1)][&1].len(), 2, "{count}");
        // `bpf dump` says so in a line or two.
        wild.contents.services[0].1.groups[0].count = count;
        let states = mesh_abi::ClusterStates { state: [0; mesh_abi::MAX_CLUSTERS] };
        let lines = super::dump::lines(&wild.contents, &states, &mesh_admin::api::Names::default());
        assert!(lines.len() < 300, "{} lines", lines.len());
        assert!(lines.iter().any(|line| line.starts_with("damaged")), "{lines:?}");
    }
}

#[test]
fn an_entry_that_refuses_connects_is_damage_under_any_address_but_the_canarys() {
    let mut maps = Maps::new();
    let mut actual = Actual::new(CAPACITY);
    let wanted = service(&vec![(1, vec![(1, true)])]);
    maps.carry_out(&mut actual, &[(frontend(1), Some(wanted.clone()))]);
    maps.contents.services[0].1.flags |= mesh_abi::FLAG_CANARY;
    let mut restored = restore(&maps.contents, CAPACITY);
    assert_eq!((restored.damaged, restored.actual.frontends().count()), (1, 1));
    maps.carry_out(&mut restored.actual, &[(frontend(1), Some(wanted))]);
    assert_eq!(maps.contents.services[0].1.flags & mesh_abi::FLAG_CANARY, 0);
    maps.contents.services[0].1.flags |= mesh_abi::FLAG_CANARY;
    let mut restored = restore(&maps.contents, CAPACITY);
    maps.carry_out(&mut restored.actual, &[(frontend(1), None)]);
    assert_eq!(maps.contents.services, []);
}

#[test]
fn a_change_that_does_not_fit_what_is_held_plans_nothing() {
    let mut actual = Actual::new(CAPACITY);
    let hosts = |hosts: &[u8]| BTreeSet::from_iter(hosts.iter().copied());
    let refuses = |actual: &mut Actual, change: &GroupChange| {
        let mut plan = Plan::default();
        let refused = !actual.plan_change(change, &mut plan);
        assert!(!refused || plan.is_empty() && actual.written(&mut plan).is_empty());
        refused
    };
    assert!(refuses(&mut actual, &group_change(&hosts(&[1]), &hosts(&[2]))), "no such frontend");
    actual.plan(&[(frontend(1), Some(service(&vec![(1, vec![(1, true), (2, true)])])))]);
    assert!(refuses(&mut actual, &group_change(&hosts(&[3]), &hosts(&[4]))), "3 is no member");
    assert!(refuses(&mut actual, &group_change(&hosts(&[1]), &hosts(&[2]))), "2 is one already");
    assert!(refuses(&mut actual, &group_change(&hosts(&[1, 2]), &hosts(&[]))), "nothing would be left");
    let many: Vec<u8> = (3..40).collect();
    assert!(refuses(&mut actual, &group_change(&hosts(&[]), &hosts(&many))), "the extent is too small");
    assert!(!refuses(&mut actual, &group_change(&hosts(&[1]), &hosts(&[3]))));
}

#[test]
fn a_damaged_canary_is_written_again_and_what_it_held_is_free() {
    let mut maps = Maps::new();
    let mut actual = Actual::new(CAPACITY);
    maps.apply(&actual.plan_canary());
    assert!(actual.plan_canary().is_empty());
    // Somebody gave the canary the groups of a service.
    maps.carry_out(&mut actual, &[(frontend(1), Some(service(&vec![(1, vec![(1, true), (2, true)])])))]);
    let entry = maps.contents.services[1].1;
    maps.contents.services[0].1.groups = entry.groups;
    maps.contents.services[0].1.group_count = entry.group_count;
    maps.contents.services.truncate(1);
    let mut restored = restore(&maps.contents, CAPACITY);
    assert_eq!(restored.damaged, 1);
    let mut plan = restored.actual.plan_canary();
    maps.apply(&plan);
    let retired = restored.actual.written(&mut plan);
    maps.release(&mut restored.actual, retired);
    maps.release(&mut restored.actual, restored.leftover);
    assert_eq!((restored.actual.free_slots(), restored.actual.backend_count()), (CAPACITY.slots, 0));
    assert_eq!(restore(&maps.contents, CAPACITY).damaged, 0);
}

/// Hosts of a cluster behind a frontend, beside one of cluster 1.
fn beside_own(cluster: u16, hosts: std::ops::Range<u8>) -> DesiredService {
    service(&vec![(1, vec![(1, true)]), (cluster, hosts.map(|host| (host, true)).collect())])
}

#[test]
fn a_peer_beyond_its_share_is_cut_and_its_neighbours_are_as_desired() {
    let mut actual = Actual::new(Capacity { services: 8, slots: 256, backends: 64, counters: 64 });
    let share = Share { backends: 15, slots: 64 };
    actual.bound_peers(ClusterId::new(1).unwrap(), share);
    let mut maps = Maps::new();
    let held = |actual: &Actual, index: u8, cluster: u16| {
        let groups = &actual.held(&frontend(index)).unwrap().groups;
        groups.iter().find(|group| group.cluster.value() == cluster).map_or(0, MirrorGroup::len)
    };
    for index in 1..=3 {
        let plan = maps.carry_out(&mut actual, &[(frontend(index), Some(beside_own(2, 0..100)))]);
        assert_eq!(plan.refused, [(frontend(index), Shortage::BackendShare(ClusterId::new(2).unwrap()))]);
        assert_eq!(
            (held(&actual, index, 1), held(&actual, index, 2)),
            (1, 15),
            "the group of another is whole"
        );
    }
    // A neighbour has all of its share.
    let plan = maps.carry_out(&mut actual, &[(frontend(4), Some(beside_own(3, 0..15)))]);
    assert!(plan.refused.is_empty());
    // Everything is replaced at once, again and again, before any grace period is over.
    for round in 1..=5 {
        let hosts = round * 20..round * 20 + 15;
        let mut plan = actual.plan(&[(frontend(1), Some(beside_own(2, hosts)))]);
        maps.apply(&plan);
        // What it retired waits.
        let _waits = actual.written(&mut plan);
        assert!(actual.backends.count_of(2) <= share.backends && actual.extents.slots_of(2) <= share.slots);
        assert_eq!(held(&actual, 1, 1), 1);
    }
}

#[test]
fn a_group_without_a_larger_extent_keeps_its_own() {
    let mut actual = Actual::new(Capacity { services: 8, slots: 256, backends: 64, counters: 64 });
    actual.bound_peers(ClusterId::new(1).unwrap(), Share { backends: 60, slots: 10 });
    let mut maps = Maps::new();
    maps.carry_out(&mut actual, &[(frontend(1), Some(beside_own(2, 0..8)))]);
    let plan = maps.carry_out(&mut actual, &[(frontend(1), Some(beside_own(2, 4..20)))]);
    assert_eq!(plan.refused, [(frontend(1), Shortage::SlotShare(ClusterId::new(2).unwrap()))]);
    let mut hosts: Vec<_> = maps.read()[&frontend(1)][&2].iter().map(|(address, _)| *address).collect();
    hosts.sort_unstable();
    let all: Vec<_> = backends_of(&beside_own(2, 0..20)).map(|(address, _)| address).collect();
    assert_eq!(hosts, all[5..13], "what stays, then what comes first; nothing of what has gone");
}
