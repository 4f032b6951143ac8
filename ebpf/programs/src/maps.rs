//! The maps, and how a choice reaches them. Sizes here are only placeholders: the loader sets them. Names are
//! part of the contract with user space, they are the names of the pins.

use core::ptr::NonNull;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::btf_map;
use mesh_abi::{
    BackendEntry, CELLS as CELL_COUNT, ClusterStates, Control, Counter, OUTCOMES as OUTCOME_COUNT, Origin,
    Outcome, ReplyEntry, ReplyKey, ServiceCell, ServiceEntry, ServiceKey, SlotEntry, Tables, current,
};

/// Entries come and go by the thousand, and a preallocated element is reused even sooner.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static SERVICES: HashMap<ServiceKey, ServiceCell, 1024, NO_PREALLOC> = HashMap::new();
#[btf_map]
static SLOTS: Array<SlotEntry, 1024> = Array::new();
#[btf_map]
static BACKENDS: Array<BackendEntry, 1024> = Array::new();
#[btf_map]
static CLUSTERS: Array<ClusterStates, 1> = Array::new();
#[btf_map]
static CONTROL: Array<Control, 1> = Array::new();
#[btf_map]
static COUNTERS: PerCpuArray<Counter, 1024> = PerCpuArray::new();
/// By outcome; the element after the last is the state of the random numbers, 0 until the first is drawn: it is wanted
/// whenever an outcome is counted, and so costs no cache line of its own.
#[btf_map]
static OUTCOMES: PerCpuArray<u64, { OUTCOME_COUNT as usize + 1 }> = PerCpuArray::new();
#[btf_map]
pub(crate) static ORIGINS: SkStorage<Origin> = SkStorage::new();
#[btf_map]
pub(crate) static OWNERS: Array<u64, { CELL_COUNT as usize }> = Array::new();
#[btf_map]
pub(crate) static CELLS: Array<Origin, { CELL_COUNT as usize }> = Array::new();
/// Of its own: whatever else is remembered by the thousand must not push out what a reply will ask for.
#[btf_map]
pub(crate) static REPLIES: LruHashMap<ReplyKey, ReplyEntry, 1024> = LruHashMap::new();

/// The maps as [`mesh_abi::decide`] sees them.
pub(crate) struct Maps;

// SAFETY: the kernel keeps array elements for as long as the map lives, and hash elements until the program
// ends (their memory may be given to another key, which `decide` notices); it aligns values to eight bytes.
unsafe impl Tables for Maps {
    #[inline(always)]
    fn service(&mut self, key: &ServiceKey) -> Option<NonNull<ServiceEntry>> {
        SERVICES.get_ptr_mut(key).and_then(NonNull::new).map(current)
    }

    #[inline(always)]
    fn slot(&mut self, index: u32) -> Option<NonNull<SlotEntry>> {
        SLOTS.get_ptr_mut(index).and_then(NonNull::new)
    }

    #[inline(always)]
    fn backend(&mut self, id: u32) -> Option<NonNull<BackendEntry>> {
        BACKENDS.get_ptr_mut(id).and_then(NonNull::new)
    }

    #[inline(always)]
    fn clusters(&mut self) -> Option<NonNull<ClusterStates>> {
        CLUSTERS.get_ptr_mut(0).and_then(NonNull::new)
    }

    #[inline(always)]
    fn random(&mut self) -> u32 {
        random()
    }

    #[inline(always)]
    fn heartbeat_is_old(&mut self) -> bool {
        let Some(control) = CONTROL.get_ptr(0) else { return false };
        // SAFETY: the element lives as long as the map. A heartbeat torn by a concurrent write is at worst
        // too old, and then one connection passes to whatever else serves the frontend.
        let (heartbeat, limit) = unsafe {
            (
                core::ptr::addr_of!((*control).heartbeat_ns).read_volatile(),
                core::ptr::addr_of!((*control).yield_after_ns).read_volatile(),
            )
        };
        // SAFETY: the helper takes nothing and returns CLOCK_MONOTONIC, as of the last tick: exact enough for
        // seconds, and it reads no hardware.
        limit != 0 && unsafe { bpf_ktime_get_coarse_ns() }.saturating_sub(heartbeat) > limit
    }

    #[inline(always)]
    fn torn(&mut self) {
        count(Outcome::Retried);
    }
}

/// A uniformly distributed word, for choosing and for nothing that must be hard to guess: the upper half of a linear
/// congruential generator (Knuth's MMIX) for each CPU. The kernel's generator, which only seeds it, would
/// take a fifth of the hook's time. Two draws may be the same where one program is preempted by another.
#[inline(always)]
fn random() -> u32 {
    // SAFETY: the helper takes nothing and returns a word.
    let kernels = || unsafe { bpf_get_prandom_u32() };
    let Some(cell) = OUTCOMES.get_ptr_mut(OUTCOME_COUNT) else { return kernels() };
    // SAFETY: the cell is this CPU's.
    unsafe {
        let mut state = *cell;
        if state == 0 {
            state = u64::from(kernels()) << 32 | u64::from(kernels());
        }
        *cell = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*cell >> 32) as u32
    }
}

/// Counts an outcome. Not atomic: a program that is preempted by another on the same CPU between load and
/// store loses a count, which a statistic can bear and an atomic instruction per connect is not worth.
#[inline(always)]
pub(crate) fn count(outcome: Outcome) {
    if let Some(cell) = OUTCOMES.get_ptr_mut(outcome as u32) {
        // SAFETY: the cell is this CPU's.
        unsafe { *cell += 1 };
    }
}

/// Counts a connection of a (service, cluster).
#[inline(always)]
pub(crate) fn count_connection(index: u32, last_resort: bool) {
    if let Some(cell) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the cell is this CPU's.
        unsafe {
            (*cell).connections += 1;
            if last_resort {
                (*cell).last_resort += 1;
            }
        }
    }
}
