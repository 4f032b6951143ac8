//! The choice of a backend for a dialled address: the reader's protocol over entries that change under it,
//! the weighted choice of a group, and the choice of a slot.
//!
//! Map access, randomness and clocks stand behind [`Tables`], so that the very code that runs in the kernel
//! runs on the host under proptest. Never writes a map, never counts, never touches a socket.

use core::hint::cold_path;
use core::ptr::NonNull;

use crate::address::is_mapped;
use crate::alias::{chosen, column, one_of_two};
use crate::order::Seen;
use crate::read;
use crate::reading::Reading;
use crate::scan::{Scan, look, slow_path};
use crate::{
    BackendEntry, CLUSTER_USABLE, ClusterStates, FLAG_CANARY, FLAG_PLAIN_OK, Group, GroupTable, KeyWords,
    STATE_ACTIVE, ServiceCell, ServiceKey, SlotEntry, TableKey,
};

/// How often a changing entry is looked up before the program gives up.
pub const ATTEMPTS: u32 = 4;
/// Slots tried in the group that the fast path chose, before the slow path looks at every group.
const FAST_PATH_SLOTS: u32 = 3;

/// What a choice looks up.
///
/// # Safety
/// A pointer that an implementor returns is aligned and valid for reads until the choice is made. What it
/// points to may change at any time: it is read by aligned words, each of them volatile.
pub unsafe trait Tables {
    /// The cell under `key` in `SERVICES`.
    fn service(&mut self, key: &ServiceKey) -> Option<NonNull<ServiceCell>>;
    /// The table under `key` in `GROUPS`.
    fn table(&mut self, key: &TableKey) -> Option<NonNull<GroupTable>>;
    /// Element `index` of `SLOTS`.
    fn slot(&mut self, index: u32) -> Option<NonNull<SlotEntry>>;
    /// Element `id` of `BACKENDS`.
    fn backend(&mut self, id: u32) -> Option<NonNull<BackendEntry>>;
    /// The element of `CLUSTERS`.
    fn clusters(&mut self) -> Option<NonNull<ClusterStates>>;
    /// A uniformly distributed word.
    fn random(&mut self) -> u32;
    /// Whether the agent's heartbeat is older than its `yield_after`.
    fn heartbeat_is_old(&mut self) -> bool;
    /// Told whenever an entry changed while it was read.
    fn torn(&mut self);
    /// [`look`], where the implementor wants it.
    #[inline(always)]
    fn look(&mut self, group: NonNull<Group>, scan: &mut Scan) -> u32
    where
        Self: Sized,
    {
        look(self, group, scan)
    }
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The backend's address as words in memory order: 16 bytes in network order, IPv4 v4-mapped.
    pub address: [u64; 2],
    /// The backend's port as it lies in memory: network order.
    pub port: u16,
    /// Whether the backend isn't active, or its cluster is demoted.
    pub last_resort: bool,
    /// Index in `BACKENDS`.
    pub backend: u32,
    /// The backend's epoch.
    pub epoch: u32,
    /// Index in `COUNTERS`.
    pub counter: u32,
}

/// What to do with a dialled address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Rewrite it to the choice.
    Translate,
    /// Not a global service: leave it.
    NotAService,
    /// A global service without any backend: leave it.
    NoBackend,
    /// The heartbeat is too old and something else serves the frontend: leave it.
    Yield,
    /// The entry was still changing after the last attempt: leave it.
    GiveUp,
    /// The agent's canary: refuse it.
    Refuse,
}

/// Decides about one dialled address; `choice` is set if the verdict is to translate.
///
/// An entry that was overwritten or switched away from while it was read is looked up again, [`ATTEMPTS`] times in all.
///
/// The choice is no payload of the verdict, because the compiler would move the payload of the other verdicts
/// around too, and the verifier refuses to read what nobody has written.
#[inline(always)]
pub fn decide<T: Tables>(tables: &mut T, key: KeyWords, choice: &mut Choice) -> Verdict {
    let looked_up = key;
    for _ in 0..ATTEMPTS {
        *choice = Choice::NONE;
        let Some(cell) = tables.service(looked_up.key()) else { return Verdict::NotAService };
        if let Some(verdict) = attempt(tables, key, cell, choice) {
            return verdict;
        }
        cold_path();
        tables.torn();
    }
    Verdict::GiveUp
}

/// One attempt; nothing if the entry changed meanwhile.
#[inline(always)]
fn attempt<T: Tables>(
    tables: &mut T,
    key: KeyWords,
    cell: NonNull<ServiceCell>,
    choice: &mut Choice,
) -> Option<Verdict> {
    let mut reading = Reading::begin(cell)?;
    let verdict = verdict(tables, key, &mut reading, choice)?;
    reading.is_whole(key).then_some(verdict)
}

/// The verdict, if the entry is whole; nothing if it shows that it isn't.
#[inline(always)]
fn verdict<T: Tables>(
    tables: &mut T,
    key: KeyWords,
    reading: &mut Reading,
    choice: &mut Choice,
) -> Option<Verdict> {
    let flags = reading.flags();
    if flags & FLAG_CANARY != 0 {
        cold_path();
        return Some(Verdict::Refuse);
    }
    if flags & FLAG_PLAIN_OK != 0 && tables.heartbeat_is_old() {
        cold_path();
        return Some(Verdict::Yield);
    }
    if !choose(tables, reading, choice)? {
        cold_path();
        return Some(Verdict::NoBackend);
    }
    // User space puts backends of the frontend's family into a group; a socket is never given another's.
    if is_mapped(choice.address) != is_mapped(key.address) {
        cold_path();
        return Some(Verdict::NoBackend);
    }
    Some(Verdict::Translate)
}

/// False where the service has no backend; nothing if the entry changed meanwhile.
#[inline(always)]
fn choose<T: Tables>(tables: &mut T, reading: &mut Reading, choice: &mut Choice) -> Option<bool> {
    if fast_path(tables, reading, choice)? {
        return Some(true);
    }
    cold_path();
    let groups = reading.groups(tables)?;
    let mut scan = Scan::new(groups.first, reading.group_count(), reading.service(), tables.random());
    let pick = Pick::unpack(slow_path(tables, groups.first, groups.mask, &mut scan));
    reading.seen.add(scan.seen.word());
    if pick.backend == Pick::TORN.backend {
        return None;
    }
    if pick.backend == Pick::NOTHING.backend {
        return Some(false);
    }
    choice.take(tables.backend(pick.backend)?, pick);
    choice.last_resort = is_last_resort(tables, pick.backend)?;
    Some(true)
}

impl Choice {
    /// No choice yet.
    pub const NONE: Self =
        Self { address: [0; 2], port: 0, last_resort: false, backend: 0, epoch: 0, counter: 0 };

    /// Reads what the connection needs of the backend that was picked.
    #[inline(always)]
    fn take(&mut self, backend: NonNull<BackendEntry>, pick: Pick) {
        self.address = read::address(backend);
        self.port = read::port(backend);
        self.epoch = read::epoch(backend);
        self.backend = pick.backend;
        self.counter = pick.counter;
    }
}

/// Whether a backend that the slow path picked is one that nobody would choose unless in need.
#[inline(always)]
fn is_last_resort<T: Tables>(tables: &mut T, id: u32) -> Option<bool> {
    let backend = tables.backend(id)?;
    let cluster = read::owner(backend);
    Some(
        read::state(backend) != STATE_ACTIVE
            || read::cluster_state(tables.clusters()?, cluster) != CLUSTER_USABLE,
    )
}

/// A backend before its address is read, with its group's cell in `COUNTERS`.
#[derive(Clone, Copy)]
pub(crate) struct Pick {
    pub(crate) backend: u32,
    pub(crate) counter: u32,
}

impl Pick {
    /// Nothing to pick: backend 0 is never in use.
    pub(crate) const NOTHING: Self = Self { backend: 0, counter: 0 };
    /// The pick met a slot of another owner: the entry is out of date. No array has that many elements.
    pub(crate) const TORN: Self = Self { backend: u32::MAX, counter: 0 };

    /// In one word, as a function of an eBPF program can return it.
    #[inline(always)]
    pub(crate) const fn pack(self) -> u64 {
        self.backend as u64 | (self.counter as u64) << 32
    }

    #[inline(always)]
    const fn unpack(packed: u64) -> Self {
        Self { backend: packed as u32, counter: (packed >> 32) as u32 }
    }
}

/// The fast path: choose among the first tier's groups by weight as if all of their clusters were usable,
/// then see whether the chosen one is. Falling back only then leaves the shares of the others as they should
/// be, and costs the state of one cluster instead of all.
///
/// False where the slow path has to look; nothing if a slot has another owner.
#[inline(always)]
fn fast_path<T: Tables>(tables: &mut T, reading: &mut Reading, choice: &mut Choice) -> Option<bool> {
    let mut random = tables.random();
    let group = first_choice(tables, reading, random)?;
    if group.count == 0 || group.weight == 0 {
        return Some(false);
    }
    if read::cluster_state(tables.clusters()?, group.cluster) != CLUSTER_USABLE {
        return Some(false);
    }
    for _ in 0..FAST_PATH_SLOTS {
        random = next_random(random);
        let slot = read::owned_slot(tables.slot(group.slot(below(random, group.count)))?, reading.service())?;
        let backend = tables.backend(slot.backend)?;
        if read::state(backend) == STATE_ACTIVE {
            choice.take(backend, Pick { backend: slot.backend, counter: group.counter });
            return Some(true);
        }
        cold_path();
    }
    Some(false)
}

/// The group that the random word chooses by weight; nothing if its table shows that it isn't the entry's.
#[inline(always)]
fn first_choice<T: Tables>(tables: &mut T, reading: &mut Reading, random: u32) -> Option<GroupView> {
    let group = if reading.is_wide() {
        let table = reading.table(tables)?;
        let cell = read::cell(table, column(random));
        reading.seen.add(cell.into());
        // SAFETY: a table has as many groups as columns, and the index is below that number.
        unsafe { read::group(read::table_groups(table), chosen(cell, random)) }
    } else {
        let threshold = read::threshold(reading.version);
        reading.seen.add(threshold.into());
        // SAFETY: a version has two groups.
        unsafe { read::group(read::inline_groups(reading.version), one_of_two(threshold, random)) }
    };
    Some(GroupView::read(group, &mut reading.seen))
}

/// A group's fields, read at once: the verifier follows every value of a live index on its own, and so the
/// index must not outlive this.
#[derive(Clone, Copy)]
pub(crate) struct GroupView {
    pub(crate) cluster: u16,
    pub(crate) tier: u32,
    pub(crate) weight: u32,
    first: u32,
    pub(crate) count: u32,
    pub(crate) counter: u32,
}

impl GroupView {
    #[inline(always)]
    pub(crate) fn read(from: NonNull<Group>, seen: &mut Seen) -> Self {
        let group = Self {
            cluster: read::cluster(from),
            tier: u32::from(read::tier(from)),
            weight: read::weight(from),
            first: read::first(from),
            count: read::count(from),
            counter: read::counter(from),
        };
        seen.add(group.cluster.into());
        seen.add(group.tier.into());
        seen.add(group.weight.into());
        seen.add(group.first.into());
        seen.add(group.count.into());
        seen.add(group.counter.into());
        group
    }

    /// Index in `SLOTS` of the slot at `at`.
    #[inline(always)]
    pub(crate) const fn slot(&self, at: u32) -> u32 {
        self.first.wrapping_add(at)
    }
}

/// Maps a uniform word to a number below `bound`; 0 if `bound` is 0.
#[inline(always)]
pub(crate) const fn below(random: u32, bound: u32) -> u32 {
    ((random as u64 * bound as u64) >> 32) as u32
}

/// A step of a linear congruential generator whose high bits, the ones that [`below`] uses, are good (the
/// constants of PCG's 32-bit state).
#[inline(always)]
pub(crate) const fn next_random(random: u32) -> u32 {
    random.wrapping_mul(747_796_405).wrapping_add(2_891_336_453)
}
