//! The choice of a backend for a dialled address: the reader's protocol over entries that change under it,
//! the weighted choice of a group, the choice of a slot, and the order of the fallbacks.
//!
//! Map access, randomness and clocks stand behind [`Tables`], so that the very code that runs in the kernel
//! runs on the host under proptest. Never writes a map, never counts, never touches a socket.

use core::hint::cold_path;
use core::ptr::NonNull;

use crate::address::is_mapped;
use crate::alias;
use crate::read;
use crate::{
    BackendEntry, CLUSTER_USABLE, ClusterStates, FLAG_CANARY, FLAG_PLAIN_OK, KeyWords, MAX_GROUPS,
    STATE_ACTIVE, STATE_FREE, STATE_QUARANTINED, STATE_TERMINATING, ServiceEntry, ServiceKey, SlotEntry,
};

/// How often a changing entry is looked up before the program gives up.
pub const ATTEMPTS: u32 = 3;
/// Slots tried in the group that the quick way chose, before the thorough way looks at every group.
const QUICK_SLOTS: u32 = 3;
/// Slots that the thorough way looks at, over all groups: two in each of sixteen groups, all of a group of 32
/// that stands alone.
const SCAN_SLOTS: u32 = 32;

/// What a choice looks up.
///
/// # Safety
/// A pointer that an implementor returns is aligned and valid for reads until the choice is made. What it
/// points to may change at any time: it is read by aligned words, each of them volatile.
pub unsafe trait Tables {
    /// The entry under `key` in `SERVICES`.
    fn service(&mut self, key: &ServiceKey) -> Option<NonNull<ServiceEntry>>;
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
    fn look(&mut self, entry: NonNull<ServiceEntry>, scan: &mut Scan) -> u32
    where
        Self: Sized,
    {
        look(self, entry, scan)
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
/// An entry counts as whole if it stands under the key that was looked up and its head and tail are equal
/// before *and* after everything else was read; otherwise it is looked up again, [`ATTEMPTS`] times in all.
///
/// The choice is no payload of the verdict, because the compiler would move the payload of the other verdicts
/// around too, and the verifier refuses to read what nobody has written.
#[inline(always)]
pub fn decide<T: Tables>(tables: &mut T, key: KeyWords, choice: &mut Choice) -> Verdict {
    let looked_up = key;
    for _ in 0..ATTEMPTS {
        *choice = Choice::NONE;
        let Some(entry) = tables.service(looked_up.key()) else { return Verdict::NotAService };
        if let Some(verdict) = attempt(tables, key, entry, choice) {
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
    entry: NonNull<ServiceEntry>,
    choice: &mut Choice,
) -> Option<Verdict> {
    let head = read::head(entry);
    if head != read::tail(entry) || !read::stands_under(entry, key) {
        return None;
    }
    let if_whole = |verdict| read::is_whole(entry, head).then_some(verdict);
    let flags = read::flags(entry);
    if flags & FLAG_CANARY != 0 {
        cold_path();
        return if_whole(Verdict::Refuse);
    }
    if flags & FLAG_PLAIN_OK != 0 && tables.heartbeat_is_old() {
        cold_path();
        return if_whole(Verdict::Yield);
    }
    if !choose(tables, entry, read::service_id(head), choice)? {
        cold_path();
        return if_whole(Verdict::NoBackend);
    }
    // User space puts backends of the frontend's family into a group; a socket is never given another's.
    if is_mapped(choice.address) != is_mapped(key.address) {
        cold_path();
        return if_whole(Verdict::NoBackend);
    }
    if_whole(Verdict::Translate)
}

/// False where the service has no backend; nothing if the entry changed meanwhile.
#[inline(always)]
fn choose<T: Tables>(
    tables: &mut T,
    entry: NonNull<ServiceEntry>,
    service: u32,
    choice: &mut Choice,
) -> Option<bool> {
    if quick(tables, entry, service, choice)? {
        return Some(true);
    }
    cold_path();
    let pick = Pick::unpack(thorough(tables, entry, service));
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

/// Whether a backend that the thorough way picked is one that nobody would choose unless in need.
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
struct Pick {
    backend: u32,
    counter: u32,
}

impl Pick {
    /// Nothing to pick: backend 0 is never in use.
    const NOTHING: Self = Self { backend: 0, counter: 0 };
    /// The pick met a slot of another owner: the entry is out of date. No array has that many elements.
    const TORN: Self = Self { backend: u32::MAX, counter: 0 };

    /// In one word, as a function of an eBPF program can return it.
    #[inline(always)]
    const fn pack(self) -> u64 {
        self.backend as u64 | (self.counter as u64) << 32
    }

    #[inline(always)]
    const fn unpack(packed: u64) -> Self {
        Self { backend: packed as u32, counter: (packed >> 32) as u32 }
    }
}

/// The quick way: choose among the first tier's groups by weight as if all of their clusters were usable,
/// then see whether the chosen one is. Falling back only then leaves the shares of the others as they should
/// be, and costs the state of one cluster instead of all.
///
/// False where the thorough way has to look; nothing if a slot has another owner.
#[inline(always)]
fn quick<T: Tables>(
    tables: &mut T,
    entry: NonNull<ServiceEntry>,
    service: u32,
    choice: &mut Choice,
) -> Option<bool> {
    let mut random = tables.random();
    let cell = read::cell(entry, alias::column(random));
    let group = GroupView::read(entry, alias::chosen(cell, random));
    if group.count == 0 || group.weight == 0 {
        return Some(false);
    }
    if read::cluster_state(tables.clusters()?, group.cluster) != CLUSTER_USABLE {
        return Some(false);
    }
    for _ in 0..QUICK_SLOTS {
        random = next_random(random);
        let slot = read::owned_slot(tables.slot(group.slot(below(random, group.count)))?, service)?;
        let backend = tables.backend(slot.backend)?;
        if read::state(backend) == STATE_ACTIVE {
            choice.take(backend, Pick { backend: slot.backend, counter: group.counter });
            return Some(true);
        }
        cold_path();
    }
    Some(false)
}

/// The thorough way: looks at [`SCAN_SLOTS`] slots, of all groups in turn; the best rank wins,
/// groups of one rank share by weight and by how many of their slots are of that rank. Kept out of line, so
/// that the quick way stays short. Returns a packed [`Pick`].
#[inline(never)]
fn thorough<T: Tables>(tables: &mut T, entry: NonNull<ServiceEntry>, service: u32) -> u64 {
    let random = tables.random();
    let mut scan = Scan::new(entry, service, random);
    let mut step = 0u32;
    while step < SCAN_SLOTS && scan.groups != 0 {
        step += 1;
        match tables.look(entry, &mut scan) {
            LOOK_NEXT => {}
            LOOK_DONE => break,
            _ => return Pick::TORN.pack(),
        }
    }
    scan.pick().pack()
}

/// Answers of [`look`]: another slot may be better.
const LOOK_NEXT: u32 = 0;
/// None can be better.
const LOOK_DONE: u32 = 1;
/// The entry changed meanwhile.
pub const LOOK_TORN: u32 = 2;

/// The thorough way's state between two slots, with the best backend that it has met. It lies in memory, of which the
/// verifier knows nothing.
#[repr(C)]
#[derive(Debug)]
pub struct Scan {
    service: u32,
    groups: u32,
    first_tier: u32,
    random: u32,
    /// The group to look at, and the slot in it, modulo their number.
    index: u32,
    at: u32,
    rank: u32,
    /// Sum of the weights met at this rank.
    total: u32,
    backend: u32,
    counter: u32,
}

impl Scan {
    #[inline(always)]
    fn new(entry: NonNull<ServiceEntry>, service: u32, random: u32) -> Self {
        Self {
            service,
            groups: read::group_count(entry),
            first_tier: u32::from(read::tier(entry, 0)),
            random,
            index: 0,
            at: random,
            rank: u32::MAX,
            total: 0,
            backend: Pick::NOTHING.backend,
            counter: Pick::NOTHING.counter,
        }
    }

    #[inline(always)]
    const fn pick(&self) -> Pick {
        Pick { backend: self.backend, counter: self.counter }
    }

    /// A reservoir: what is met at the best rank ends up taken in proportion to its weight, and of weight 0
    /// the first is.
    #[inline(always)]
    fn offer(&mut self, rank: u32, group: &GroupView, backend: u32) {
        if rank > self.rank || rank & RANK_UNFIT != 0 {
            return;
        }
        let better = rank < self.rank;
        self.total = if better { group.weight } else { self.total.wrapping_add(group.weight) };
        if better || below(self.random, self.total) < group.weight {
            (self.backend, self.counter) = (backend, group.counter);
        }
        self.rank = rank;
    }

    /// Goes on to the next group, or to the next slots of all; says whether that is of any use.
    #[inline(always)]
    fn advance(&mut self) -> u32 {
        self.index = self.index.wrapping_add(1);
        if self.index >= self.groups {
            // A round is over; nothing can be better than what is as good as can be in the first tier. Below it
            // a group that has only shown bad slots so far may still have a good one.
            if self.rank <= self.first_tier {
                return LOOK_DONE;
            }
            self.index = 0;
            self.at = self.at.wrapping_add(1);
        }
        LOOK_NEXT
    }
}

/// A step of the thorough way: looks at one slot of one group. Returns whether another may be better.
#[inline(always)]
pub fn look<T: Tables>(tables: &mut T, entry: NonNull<ServiceEntry>, scan: &mut Scan) -> u32 {
    let group = GroupView::read(entry, scan.index as usize % MAX_GROUPS);
    scan.random = next_random(scan.random);
    if group.count != 0 {
        let Some((slot, backend)) = owned(tables, group.slot(scan.at % group.count), scan.service) else {
            return LOOK_TORN;
        };
        let Some(clusters) = tables.clusters() else { return LOOK_TORN };
        let rank = rank(read::cluster_state(clusters, group.cluster), read::state(backend), &group);
        scan.offer(rank, &group, slot.backend);
    }
    scan.advance()
}

/// A slot of the service, and the backend in it; nothing if it is another's.
#[inline(always)]
fn owned<T: Tables>(tables: &mut T, index: u32, service: u32) -> Option<(SlotEntry, NonNull<BackendEntry>)> {
    let slot = read::owned_slot(tables.slot(index)?, service)?;
    Some((slot, tables.backend(slot.backend)?))
}

/// Lower is better: usable before demoted clusters, then active before terminating before quarantined
/// backends, then groups with a weight, then the tier.
#[inline(always)]
const fn rank(cluster: u32, state: u32, group: &GroupView) -> u32 {
    // The states count up from active, so a free one wraps to an unfit one.
    let class = state.wrapping_sub(STATE_ACTIVE) & 7;
    let weightless = (group.weight == 0) as u32 * RANK_WEIGHTLESS;
    (cluster & 0xff) << 16 | class << 12 | weightless | group.tier
}

/// The least rank of a group without a weight.
const RANK_WEIGHTLESS: u32 = 1 << 8;
/// Stands in the rank of a backend whose state is none to choose.
const RANK_UNFIT: u32 = 4 << 12;

const _: () = assert!(STATE_ACTIVE < STATE_TERMINATING && STATE_TERMINATING < STATE_QUARANTINED);
const _: () = assert!(STATE_QUARANTINED - STATE_ACTIVE < 4 && STATE_FREE.wrapping_sub(STATE_ACTIVE) & 4 == 4);

/// A group's fields, read at once: the verifier follows every value of a live index on its own, and so the
/// index must not outlive this.
#[derive(Clone, Copy)]
struct GroupView {
    cluster: u16,
    tier: u32,
    weight: u32,
    first: u32,
    count: u32,
    counter: u32,
}

impl GroupView {
    /// The group at `index`, which must be below [`MAX_GROUPS`].
    #[inline(always)]
    fn read(entry: NonNull<ServiceEntry>, index: usize) -> Self {
        Self {
            cluster: read::cluster(entry, index),
            tier: u32::from(read::tier(entry, index)),
            weight: read::weight(entry, index),
            first: read::first(entry, index),
            count: read::count(entry, index),
            counter: read::counter(entry, index),
        }
    }

    /// Index in `SLOTS` of the slot at `at`.
    #[inline(always)]
    const fn slot(&self, at: u32) -> u32 {
        self.first.wrapping_add(at)
    }
}

/// Maps a uniform word to a number below `bound`; 0 if `bound` is 0.
#[inline(always)]
const fn below(random: u32, bound: u32) -> u32 {
    ((random as u64 * bound as u64) >> 32) as u32
}

/// A step of a linear congruential generator whose high bits, the ones that [`below`] uses, are good (the
/// constants of PCG's 32-bit state).
#[inline(always)]
const fn next_random(random: u32) -> u32 {
    random.wrapping_mul(747_796_405).wrapping_add(2_891_336_453)
}
