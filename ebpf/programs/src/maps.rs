//! The maps, and how a choice reaches them. Sizes here are only placeholders: the loader sets them. Names are
//! part of the contract with user space, they are the names of the pins.

use core::hint::cold_path;
use core::ptr::{NonNull, addr_of, addr_of_mut};

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::btf_map;
use mesh_abi::{
    BackendEntry, ClusterStates, Control, Counter, Cpu, Group, GroupTable, LOOK_TORN, Origin, Outcome,
    ReplyEntry, ReplyKey, Scan, ServiceCell, ServiceKey, SlotEntry, Sockets, TableKey, Tables,
};

/// Entries come and go by the thousand, and a preallocated element is reused even sooner.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static SERVICES: HashMap<ServiceKey, ServiceCell, 1024, NO_PREALLOC> = HashMap::new();
#[btf_map]
static GROUPS: HashMap<TableKey, GroupTable, 1024, NO_PREALLOC> = HashMap::new();
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
#[btf_map]
static CPUS: PerCpuArray<Cpu, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static ORIGINS: SkStorage<Origin> = SkStorage::new();
#[btf_map]
pub(crate) static SOCKETS: Array<Sockets, 1> = Array::new();
/// Of its own: whatever else is remembered by the thousand must not push out what a reply will ask for.
#[btf_map]
pub(crate) static REPLIES: LruHashMap<ReplyKey, ReplyEntry, 1024> = LruHashMap::new();

/// Whether this kernel tells an MPTCP socket by its subflow (`bpf_skc_to_mptcp_sock`, Linux 5.19, with CONFIG_MPTCP): set
/// by the loader. Where it is 0 the verifier never looks at the call.
#[unsafe(no_mangle)]
pub static MPTCP: u32 = 0;

/// The maps as [`mesh_abi::decide`] sees them, from the CPU that the program runs on, where it stays until it ends.
pub(crate) struct Maps {
    cpu: NonNull<Cpu>,
}

// SAFETY: the kernel keeps array elements for as long as the map lives, and hash elements until the program
// ends (their memory may be given to another key, which `decide` notices); it aligns values to eight bytes.
unsafe impl Tables for Maps {
    #[inline(always)]
    fn service(&mut self, key: &ServiceKey) -> Option<NonNull<ServiceCell>> {
        SERVICES.get_ptr_mut(key).and_then(NonNull::new)
    }

    #[inline(always)]
    fn table(&mut self, key: &TableKey) -> Option<NonNull<GroupTable>> {
        GROUPS.get_ptr_mut(key).and_then(NonNull::new)
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

    /// A word for choosing and for nothing that must be hard to guess: the upper half of a linear congruential generator
    /// (Knuth's MMIX) for each CPU. The kernel's generator, which only seeds it, would take a fifth of the hook's
    /// time. Two draws may be the same where one program is preempted by another.
    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: the helper takes nothing and returns a word.
        let kernels = || u64::from(unsafe { bpf_get_prandom_u32() });
        // SAFETY: the element lives as long as the map and is this CPU's.
        let state = unsafe { &mut (*self.cpu.as_ptr()).random };
        if *state == 0 {
            cold_path();
            *state = kernels() << 32 | kernels();
        }
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 32) as u32
    }

    #[inline(always)]
    fn heartbeat_is_old(&mut self) -> bool {
        let Some(control) = CONTROL.get_ptr(0) else { return false };
        // SAFETY: the element lives as long as the map. A heartbeat torn by a concurrent write is at worst
        // too old, and then one connection passes to whatever else serves the frontend.
        let (heartbeat, limit) = unsafe {
            (
                addr_of!((*control).heartbeat_ns).read_volatile(),
                addr_of!((*control).yield_after_ns).read_volatile(),
            )
        };
        // SAFETY: the helper takes nothing and returns CLOCK_MONOTONIC, as of the last tick: exact enough for
        // seconds, and it reads no hardware.
        limit != 0 && unsafe { bpf_ktime_get_coarse_ns() }.saturating_sub(heartbeat) > limit
    }

    #[inline(always)]
    fn torn(&mut self) {
        self.count(Outcome::Retried);
    }

    #[inline(always)]
    fn look(&mut self, group: NonNull<Group>, scan: &mut Scan) -> u32 {
        mesh_look(group.as_ptr(), scan)
    }
}

/// [`mesh_abi::look`] as a function that the verifier takes on its own, once for each program, whatever its callers know
/// and however often they call it: for that it has a name that is seen outside (a global function, Linux 5.13 with
/// pointers). As part of the loop around it, it would take up to all of what the verifier allows, by kernel.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mesh_look(group: *mut Group, scan: *mut Scan) -> u32 {
    // To the verifier any caller may pass nothing.
    let (Some(group), Some(mut scan), Some(mut maps)) =
        (NonNull::new(group), NonNull::new(scan), Maps::of_this_cpu())
    else {
        return LOOK_TORN;
    };
    // SAFETY: the caller's state is nobody else's meanwhile.
    mesh_abi::look(&mut maps, group, unsafe { scan.as_mut() })
}

impl Maps {
    /// Nothing where the kernel has no element for this CPU, as is never the case.
    #[inline(always)]
    pub(crate) fn of_this_cpu() -> Option<Self> {
        CPUS.get_ptr_mut(0).and_then(NonNull::new).map(|cpu| Self { cpu })
    }

    /// Counts an outcome. Not atomic: a program that is preempted by another on the same CPU between load and
    /// store loses a count, which a statistic can bear and an atomic instruction per connect is not worth.
    #[inline(always)]
    pub(crate) fn count(&mut self, outcome: Outcome) {
        // SAFETY: the element is this CPU's, and has a count of every outcome.
        unsafe { *addr_of_mut!((*self.cpu.as_ptr()).outcomes).cast::<u64>().add(outcome as usize) += 1 };
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
