//! The slow path to a backend, where the fast one met none: the order of the fallbacks, and the best backend among
//! slots of all groups. Never writes a map, never counts.

use core::ptr::NonNull;

use crate::order::Seen;
use crate::pick::{GroupView, Pick, Tables, below, next_random};
use crate::read;
use crate::{BackendEntry, Group, STATE_ACTIVE, STATE_FREE, STATE_QUARANTINED, STATE_TERMINATING, SlotEntry};

/// Slots that the slow path looks at, over all groups: two in each of sixteen groups, all of a group of 32
/// that stands alone.
const SCAN_SLOTS: u32 = 32;

/// The slow path: looks at [`SCAN_SLOTS`] slots, of all groups in turn; the best rank wins,
/// groups of one rank share by weight and by how many of their slots are of that rank. Kept out of line, so
/// that the fast path stays short. `mask` keeps an index below the number of groups that there is room for. Returns a packed
/// [`Pick`].
#[inline(never)]
pub(crate) fn slow_path<T: Tables>(
    tables: &mut T,
    groups: NonNull<Group>,
    mask: usize,
    scan: &mut Scan,
) -> u64 {
    let mut step = 0u32;
    while step < SCAN_SLOTS && scan.groups != 0 {
        step += 1;
        // SAFETY: there is room for more groups than the mask says.
        let group = unsafe { read::group(groups, scan.index as usize & mask) };
        match tables.look(group, scan) {
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

/// The slow path's state between two slots, with the best backend that it has met. It lies in memory, of which the
/// verifier knows nothing.
#[repr(C)]
#[derive(Debug)]
pub struct Scan {
    /// Everything that was read of the groups.
    pub(crate) seen: Seen,
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
    pub(crate) fn new(first: NonNull<Group>, groups: u32, service: u32, random: u32) -> Self {
        let first_tier = u32::from(read::tier(first));
        let mut seen = Seen::NOTHING;
        seen.add(first_tier.into());
        Self {
            seen,
            service,
            groups,
            first_tier,
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

/// A step of the slow path: looks at one slot of one group. Returns whether another may be better.
#[inline(always)]
pub fn look<T: Tables>(tables: &mut T, group: NonNull<Group>, scan: &mut Scan) -> u32 {
    let group = GroupView::read(group, &mut scan.seen);
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
