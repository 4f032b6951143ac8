//! The choice of a backend, over tables on the host that change between any two lookups.

#![allow(unsafe_code, clippy::unwrap_used, reason = "the tables are read as the kernel's are")]

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;

use mesh_abi::{
    ATTEMPTS, BackendEntry, CLUSTER_DEMOTED, Choice, ClusterStates, Group, GroupTable, MAX_CLUSTERS,
    MAX_GROUPS, PROTOCOL_TCP, STATE_ACTIVE, STATE_FREE, STATE_QUARANTINED, STATE_TERMINATING, ServiceCell,
    ServiceEntry, ServiceKey, SlotEntry, Stamp, TableKey, Tables, Verdict, decide,
};
use proptest::prelude::*;

const SERVICE: u32 = 7;

fn mapped(last: u16) -> [u8; 16] {
    let [high, low] = last.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, high, low]
}

fn key() -> ServiceKey {
    ServiceKey::new(mapped(1), 80, PROTOCOL_TCP)
}

/// One group as a test describes it: cluster, tier, weight and its backends' states.
#[derive(Clone, Debug)]
struct Wanted {
    tier: u8,
    weight: u32,
    demoted: bool,
    states: Vec<u32>,
}

/// What a writer does before a lookup, or before a word is drawn.
type Writer = Box<dyn FnMut(&mut World, u32)>;

struct World {
    cell: Box<UnsafeCell<ServiceCell>>,
    /// Of both versions of the service.
    tables: Box<UnsafeCell<[GroupTable; 2]>>,
    slots: Vec<SlotEntry>,
    backends: Vec<BackendEntry>,
    clusters: Box<ClusterStates>,
    random: u64,
    lookups: u32,
    torn: u32,
    /// Slots looked up that belong to no group.
    strays: u32,
    is_old: bool,
}

struct Reader {
    world: World,
    writer: Writer,
}

impl World {
    fn new(wanted: &[Wanted], seed: u64) -> Self {
        let mut groups = [Group::default(); MAX_GROUPS];
        // Element 0 of both arrays is never in use.
        let (mut slots, mut backends) = (vec![SlotEntry::default()], vec![BackendEntry::default()]);
        let mut clusters = Box::new(ClusterStates { state: [0; MAX_CLUSTERS] });
        for ((cluster, group), wanted) in (1_u16..).zip(&mut groups).zip(wanted) {
            let first = u32::try_from(slots.len()).unwrap();
            let count = u32::try_from(wanted.states.len()).unwrap();
            *group = Group {
                cluster,
                tier: wanted.tier,
                zero: 0,
                weight: wanted.weight,
                first,
                count,
                counter: cluster.into(),
            };
            clusters.state[usize::from(cluster)] = if wanted.demoted { CLUSTER_DEMOTED } else { 0 };
            for state in &wanted.states {
                let backend = u32::try_from(backends.len()).unwrap();
                let address = mapped(u16::try_from(backend).unwrap() + 100);
                backends.push(BackendEntry {
                    address,
                    port: [0, 80],
                    cluster,
                    protocol: PROTOCOL_TCP,
                    state: *state,
                    ..Default::default()
                });
                slots.push(SlotEntry { backend, service: SERVICE });
            }
        }
        let entry = entry(SERVICE, 1, wanted.len(), groups);
        let cell = Box::new(UnsafeCell::new(ServiceCell::new(&entry)));
        let tables = Box::new(UnsafeCell::new([GroupTable::of(&entry); 2]));
        Self {
            cell,
            tables,
            slots,
            backends,
            clusters,
            random: seed,
            lookups: 0,
            torn: 0,
            strays: 0,
            is_old: false,
        }
    }

    /// What the version says that counts.
    fn entry(&mut self) -> ServiceEntry {
        let (cell, tables) = (self.cell.get_mut(), self.tables.get_mut());
        cell.entry(cell.table().map(|key| &tables[key.version as usize]))
    }

    fn groups(&mut self) -> [Group; MAX_GROUPS] {
        self.entry().groups
    }

    /// Writes the table and the version that don't count, and switches to them.
    fn rewrite(&mut self, entry: &ServiceEntry) {
        let cell = self.cell.get_mut();
        let spare = cell.spare_table(SERVICE);
        self.tables.get_mut()[spare.version as usize] = GroupTable::of(entry);
        *cell = cell.prepared(entry).switched();
    }
}

fn entry(id: u32, generation: u32, count: usize, groups: [Group; MAX_GROUPS]) -> ServiceEntry {
    let stamp = Stamp { id, generation };
    let group_count = u8::try_from(count).unwrap();
    ServiceEntry { head: stamp, key: key(), group_count, flags: 0, groups, tail: stamp }
}

const CELL_WORDS: usize = size_of::<ServiceCell>() / size_of::<u64>();
const TABLE_WORDS: usize = size_of::<GroupTable>() / size_of::<u64>();

/// Copies the words that are wanted.
fn copy_words<T: mesh_abi::Plain>(to: &mut T, from: &T, wanted: &[bool]) {
    assert_eq!(size_of_val(wanted) * size_of::<u64>(), size_of::<T>());
    let (to, from) = (std::ptr::from_mut(to).cast::<u64>(), std::ptr::from_ref(from).cast::<u64>());
    for (index, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
        // SAFETY: both are plain bytes, aligned as words are and as long as so many of them.
        unsafe { to.add(index).write(from.add(index).read()) };
    }
}

impl Reader {
    fn new(world: World) -> Self {
        Self { world, writer: Box::new(|_, _| {}) }
    }

    fn step(&mut self) {
        let lookups = self.world.lookups;
        (self.writer)(&mut self.world, lookups);
        self.world.lookups += 1;
    }

    fn decide(&mut self) -> (Verdict, Choice) {
        let mut choice = Choice::NONE;
        let verdict = decide(self, key().words(), &mut choice);
        (verdict, choice)
    }
}

// SAFETY: the tables live as long as the world and never move while it decides; a writer changes their
// elements in place and only between two calls.
unsafe impl Tables for Reader {
    fn service(&mut self, _: &ServiceKey) -> Option<NonNull<ServiceCell>> {
        self.step();
        NonNull::new(self.world.cell.get())
    }

    fn table(&mut self, key: &TableKey) -> Option<NonNull<GroupTable>> {
        self.step();
        let tables = NonNull::new(self.world.tables.get())?.cast::<GroupTable>();
        // SAFETY: there are tables of two versions.
        (key.service == SERVICE).then(|| unsafe { tables.add(key.version as usize & 1) })
    }

    fn slot(&mut self, index: u32) -> Option<NonNull<SlotEntry>> {
        self.step();
        let held = self.world.groups();
        let owned = held.iter().any(|group| (group.first..group.first + group.count).contains(&index));
        self.world.strays += u32::from(!owned);
        self.world.slots.get_mut(index as usize).map(NonNull::from)
    }

    fn backend(&mut self, id: u32) -> Option<NonNull<BackendEntry>> {
        self.step();
        self.world.backends.get_mut(id as usize).map(NonNull::from)
    }

    fn clusters(&mut self) -> Option<NonNull<ClusterStates>> {
        self.step();
        Some(NonNull::from(&mut *self.world.clusters))
    }

    fn random(&mut self) -> u32 {
        self.step();
        // SplitMix64.
        self.world.random = self.world.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.world.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word >> 32) as u32
    }

    fn heartbeat_is_old(&mut self) -> bool {
        self.world.is_old
    }

    fn torn(&mut self) {
        self.world.torn += 1;
    }
}

fn state() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(STATE_ACTIVE), 1 => Just(STATE_TERMINATING), 1 => Just(STATE_QUARANTINED), 1 => Just(STATE_FREE)]
}

fn groups() -> impl Strategy<Value = Vec<Wanted>> {
    let group = (0..3_u8, 0..5_u32, any::<bool>(), proptest::collection::vec(state(), 0..3))
        .prop_map(|(tier, weight, demoted, states)| Wanted { tier, weight, demoted, states });
    proptest::collection::vec(group, 0..=MAX_GROUPS).prop_map(|mut groups| {
        groups.sort_by_key(|group| group.tier);
        groups
    })
}

/// The order in which backends are preferred, written down once more, plainly.
fn rank(group: &Wanted, state: u32) -> Option<(bool, u32, bool, u8)> {
    (state != STATE_FREE).then_some((group.demoted, state, group.weight == 0, group.tier))
}

proptest! {
    /// With at most two backends in each of at most sixteen groups every one of them is looked at.
    #[test]
    fn only_the_best_rank_is_ever_chosen(wanted in groups(), seed in any::<u64>()) {
        let ranks: Vec<_> = wanted
            .iter()
            .flat_map(|group| group.states.iter().map(move |state| rank(group, *state)))
            .collect();
        let best = ranks.iter().flatten().min();
        let mut reader = Reader::new(World::new(&wanted, seed));
        for _ in 0..20 {
            let (verdict, choice) = reader.decide();
            prop_assert_eq!(reader.world.strays, 0);
            let Some(best) = best else {
                prop_assert_eq!(verdict, Verdict::NoBackend);
                continue;
            };
            prop_assert_eq!(verdict, Verdict::Translate);
            let chosen = ranks[choice.backend as usize - 1];
            prop_assert_eq!(chosen.as_ref(), Some(best));
            prop_assert_eq!(choice.last_resort, best.0 || best.1 != STATE_ACTIVE);
        }
        prop_assert_eq!(reader.world.torn, 0);
    }

    /// Also where the fast path's cluster is demoted and the slow path has to share.
    #[test]
    fn shares_follow_the_weights(weights in proptest::collection::vec(1..6_u32, 1..6), demoted in any::<bool>(), seed in any::<u64>()) {
        let group = |weight, demoted| Wanted { tier: 0, weight, demoted, states: vec![STATE_ACTIVE; 2] };
        let mut wanted: Vec<_> = weights.iter().map(|weight| group(*weight, false)).collect();
        wanted.extend(demoted.then(|| group(9, true)));
        let mut reader = Reader::new(World::new(&wanted, seed));
        let mut counts = BTreeMap::<u32, f64>::new();
        let times = 4000_u32;
        for _ in 0..times {
            *counts.entry(reader.decide().1.counter).or_default() += 1.0;
        }
        let total = f64::from(weights.iter().sum::<u32>());
        for (counter, weight) in (1..).zip(&weights) {
            let share = f64::from(*weight) / total;
            // Six standard deviations.
            let slack = 6.0 * (share * (1.0 - share) / f64::from(times)).sqrt();
            let got = counts.get(&counter).copied().unwrap_or(0.0) / f64::from(times);
            prop_assert!((got - share).abs() <= slack, "{got} for {share}");
        }
    }

    /// A writer hands slots, backends and entry to another service before any one lookup; a reader that had
    /// begun never comes out with the other service's backend.
    #[test]
    fn a_reader_in_the_middle_of_a_rewrite_never_gets_anothers_backend(at in 0..12_u32, whole in any::<bool>(), count in 1..4_usize, seed in any::<u64>()) {
        let wanted = vec![Wanted { tier: 0, weight: 1, demoted: false, states: vec![STATE_ACTIVE; 4] }; count];
        let mut reader = Reader::new(World::new(&wanted, seed));
        reader.writer = Box::new(move |world, lookup| {
            if lookup == at {
                // The element now stands under another key, for another service with slots of its own.
                let mut groups = world.groups();
                if !whole {
                    groups[0] = Group { first: 1, count: 4, ..groups[0] };
                    groups[1..].fill(Group::default());
                    for slot in &mut world.slots {
                        slot.service = SERVICE + 1;
                    }
                }
                let mut other = entry(SERVICE + 1, 9, 1, groups);
                other.key = ServiceKey::new(mapped(2), 80, PROTOCOL_TCP);
                // One copy, over the version that counts; the tables of both wait for a grace period.
                let current = world.cell.get_mut().current;
                *world.cell.get_mut() = ServiceCell { current, ..ServiceCell::new(&other) };
            }
        });
        let (verdict, choice) = reader.decide();
        // Either the reader was through before the writer came, or it noticed.
        let was_through = reader.world.lookups <= at;
        prop_assert_eq!(verdict == Verdict::Translate, was_through, "{:?} {:?}", verdict, choice);
        prop_assert!(was_through || verdict == Verdict::GiveUp);
    }

    /// The version that a reader has found is switched away from, and of the one after the next any words lie over it. The
    /// slots stay the service's, so nothing but the count of switches shows it where the stamps are none of these words.
    #[test]
    fn a_version_overwritten_under_its_reader_is_noticed_in_whatever_order_its_words_come(
        at in 1..12_u32,
        words in proptest::collection::vec(any::<bool>(), CELL_WORDS + TABLE_WORDS),
        active in any::<bool>(),
        counts in proptest::collection::vec(1..4_usize, 3),
        seed in any::<u64>()
    ) {
        // Without an active backend the slow path looks too.
        let states = vec![if active { STATE_ACTIVE } else { STATE_TERMINATING }; 4];
        // From two groups to three a table comes, and back it goes.
        let wanted = vec![Wanted { tier: 0, weight: 1, demoted: false, states }; 3];
        let mut world = World::new(&wanted, seed);
        let all = world.groups();
        let counted = move |counter: u32| {
            let count = counts[counter as usize - 1];
            let mut groups = [Group::default(); MAX_GROUPS];
            for (group, from) in groups.iter_mut().zip(&all).take(count) {
                *group = Group { counter, tier: 1, ..*from };
            }
            entry(SERVICE, counter, count, groups)
        };
        *world.cell.get_mut() = ServiceCell::new(&counted(1));
        world.tables.get_mut().fill(GroupTable::of(&counted(1)));
        let mut reader = Reader::new(world);
        reader.writer = Box::new(move |world, lookup| {
            if lookup == at {
                world.rewrite(&counted(2));
                let third = world.cell.get_mut().prepared(&counted(3));
                copy_words(world.cell.get_mut(), &third, &words[..CELL_WORDS]);
                copy_words(&mut world.tables.get_mut()[0], &GroupTable::of(&counted(3)), &words[CELL_WORDS..]);
            }
        });
        let (verdict, choice) = reader.decide();
        prop_assert_eq!(verdict, Verdict::Translate);
        let was_through = reader.world.lookups <= at;
        prop_assert_eq!(reader.world.torn, u32::from(!was_through));
        prop_assert_eq!(choice.counter, if was_through { 1 } else { 2 });
    }

    /// Half of an entry is new and half is old, as a copy without atomicity leaves it, and then it is whole.
    #[test]
    fn a_torn_entry_is_read_again(torn_for in 0..=ATTEMPTS, seed in any::<u64>()) {
        let wanted = vec![Wanted { tier: 0, weight: 1, demoted: false, states: vec![STATE_ACTIVE] }];
        let mut reader = Reader::new(World::new(&wanted, seed));
        let mut seen = 0;
        reader.world.cell.get_mut().versions[0].tail.generation = 2;
        reader.writer = Box::new(move |world, _| {
            if seen == torn_for {
                world.cell.get_mut().versions[0].head.generation = 2;
            }
            seen += 1;
        });
        let (verdict, _) = reader.decide();
        let wanted = if torn_for < ATTEMPTS { Verdict::Translate } else { Verdict::GiveUp };
        prop_assert_eq!(verdict, wanted);
        prop_assert_eq!(reader.world.torn, torn_for);
    }
}

#[test]
fn a_table_that_is_another_versions_or_missing_is_not_read() {
    let wanted = vec![Wanted { tier: 0, weight: 1, demoted: false, states: vec![STATE_ACTIVE] }; 3];
    let damages: [fn(&mut GroupTable); 3] = [
        |table| table.head.generation = 7,
        |table| table.tail.generation = 7,
        |table| (table.head.id, table.tail.id) = (SERVICE + 1, SERVICE + 1),
    ];
    for damage in damages {
        let mut reader = Reader::new(World::new(&wanted, 1));
        assert_eq!(reader.decide().0, Verdict::Translate);
        damage(&mut reader.world.tables.get_mut()[0]);
        assert_eq!((reader.decide().0, reader.world.torn), (Verdict::GiveUp, ATTEMPTS));
    }
    let mut reader = Reader::new(World::new(&wanted, 1));
    let other = SERVICE + 1;
    let cell = reader.world.cell.get_mut();
    (cell.versions[0].head.id, cell.versions[0].tail.id) = (other, other);
    assert_eq!(reader.decide().0, Verdict::GiveUp);
}

#[test]
fn an_old_heartbeat_yields_only_with_the_flag() {
    let wanted = vec![Wanted { tier: 0, weight: 1, demoted: false, states: vec![STATE_ACTIVE] }];
    let mut reader = Reader::new(World::new(&wanted, 1));
    reader.world.is_old = true;
    assert_eq!(reader.decide().0, Verdict::Translate);
    reader.world.cell.get_mut().versions[0].flags = mesh_abi::FLAG_PLAIN_OK;
    assert_eq!(reader.decide().0, Verdict::Yield);
    reader.world.cell.get_mut().versions[0].flags = mesh_abi::FLAG_CANARY;
    assert_eq!(reader.decide().0, Verdict::Refuse);
}
