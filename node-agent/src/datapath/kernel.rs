//! What this kernel lets this process do, found by trying and not by its version. Attaches nothing, leaves nothing behind.
#![allow(unsafe_code, reason = "the kernel is called with addresses")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya::maps::MapType;
use aya::sys::is_map_supported;
use serde::Serialize;

use super::grace::GracePeriods;
use super::{hint, sys};

/// The oldest Linux that runs the programs, by architecture: on x86-64 the oldest of `e2e/kernels/matrix` that loads them, on
/// arm64 by the kernel's history (compare-and-exchange in the JIT). Texts and documents name it; nothing is decided by it.
pub const MINIMUM: [(&str, &str); 2] = [("x86-64", "5.15"), ("arm64", "5.18")];

/// One thing that the kernel may or may not offer.
#[derive(Clone, Debug, Serialize)]
pub struct Feature {
    pub name: &'static str,
    /// Whether the agent can't run without.
    pub required: bool,
    pub present: bool,
    /// What it is for, and where it comes from.
    pub what: &'static str,
    /// What the kernel answered, and what to do; nothing where the feature is there.
    pub missing: Option<String>,
}

/// What the agent can't do without is missing.
#[derive(Debug, thiserror::Error)]
#[error(
    "the programs can't run here; nothing was attached. Missing: {}. Needed: Linux {} on x86-64, {} on arm64, \
     CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; `node-agent features` shows all", .missing.join("; "), MINIMUM[0].1, MINIMUM[1].1
)]
pub struct Unfit {
    missing: Vec<String>,
}

/// Probes everything.
pub(crate) fn features() -> Vec<Feature> {
    REQUIRED
        .iter()
        .map(|probe| probe.run(true))
        .chain(OPTIONAL.iter().map(|probe| probe.run(false)))
        .collect()
}

/// Refuses where something is missing without which the agent can't run.
///
/// # Errors
/// What is missing, and what to do.
pub fn check() -> Result<(), Unfit> {
    let features = REQUIRED.iter().map(|probe| probe.run(true));
    let missing: Vec<_> = features
        .filter_map(|feature| feature.missing.map(|text| format!("{}: {text}", feature.name)))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Unfit { missing }) }
}

/// Whether programs can tell to which MPTCP socket a subflow belongs.
pub(super) fn tells_mptcp() -> bool {
    // The context's socket, as the argument of the helper; what it returns is not looked at.
    let program = [MOV_R1_SOCKET, EXIT_IF_R1_IS_NULL, call(HELPER_SKC_TO_MPTCP_SOCK), MOV_R0_1, EXIT];
    load(CONNECT4, &program).is_ok()
}

/// `BPF_F_PREORDER`: before all programs without it, also those of cgroups below. Links take it since Linux 6.17, and in
/// updates of 6.8 and 6.12.
const PREORDER: u32 = 1 << 6;
/// `BPF_F_BEFORE`: first among its cgroup's. Since the same.
const BEFORE: u32 = 1 << 3;

/// The flags with which a new link's program comes before all others; none where the kernel takes none.
pub(super) fn first_flags() -> u32 {
    [PREORDER | BEFORE, PREORDER].into_iter().find(|flags| link(*flags).is_ok()).unwrap_or(0)
}

struct Probe {
    name: &'static str,
    what: &'static str,
    remedy: &'static str,
    ask: fn() -> io::Result<()>,
}

impl Probe {
    fn run(&self, required: bool) -> Feature {
        let missing = (self.ask)().err().map(|error| {
            let remedy = hint::of_probe(&error).unwrap_or_else(|| self.remedy.into());
            format!("{remedy} ({error})")
        });
        Feature { name: self.name, required, present: missing.is_none(), what: self.what, missing }
    }
}

const CGROUP_BPF: &str = "boot a newer Linux, with CONFIG_CGROUP_BPF";

/// In the order in which one understands them.
static REQUIRED: [Probe; 7] = [
    Probe {
        name: "connect-hooks",
        what: "rewrites what a socket dials (Linux 4.17)",
        remedy: CGROUP_BPF,
        ask: || all_load(&[CONNECT4, Hook::address(11)]),
    },
    Probe {
        name: "datagram-hooks",
        what: "rewrites where a datagram goes, and what it seems to come from (Linux 5.2)",
        remedy: CGROUP_BPF,
        ask: || all_load(&[14, 15, 19, 20].map(Hook::address)),
    },
    Probe {
        name: "peer-name-hooks",
        what: "shows an application what it had dialled; told when a socket is closed (Linux 5.9)",
        remedy: CGROUP_BPF,
        ask: || all_load(&[Hook::address(29), Hook::address(30), Hook { kind: CGROUP_SOCK, attach: 34 }]),
    },
    Probe {
        name: "cgroup-links",
        what: "attaches a program so that it stays when the agent ends (Linux 5.7)",
        remedy: CGROUP_BPF,
        ask: || link(0),
    },
    Probe {
        name: "coarse-clock",
        what: "reads the time without touching hardware (Linux 5.11)",
        remedy: "boot Linux 5.11 or newer",
        ask: || load(CONNECT4, &[call(HELPER_COARSE_NS), MOV_R0_1, EXIT]).map(drop),
    },
    Probe {
        name: "compare-and-exchange",
        what: "two CPUs take a cell for a socket, and one gets it (Linux 5.12; in arm64's JIT 5.18)",
        remedy: "boot Linux 5.12 or newer, on arm64 5.18 or newer: its JIT lacks the instruction before",
        ask: || load(CONNECT4, &COMPARE_AND_EXCHANGE).map(drop),
    },
    Probe {
        name: "pointer-arithmetic",
        what: "tells a socket by where it lies (CAP_PERFMON, Linux 5.8)",
        remedy: "boot Linux 5.8 or newer",
        ask: || load(CONNECT4, &[MOV_R2_R1, SUB_R2_R1, MOV_R0_1, EXIT]).map(drop),
    },
];

static OPTIONAL: [Probe; 6] = [
    Probe {
        name: "socket-storage",
        what: "remembers what a UDP socket had dialled (Linux 5.2)",
        remedy: "boot Linux 5.2 or newer; without it getpeername of UDP sockets shows the pod",
        ask: || match is_map_supported(MapType::SkStorage) {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            Err(error) => Err(io::Error::other(error.to_string())),
        },
    },
    Probe {
        name: "batches",
        what: "writes many entries in one call (Linux 5.6)",
        remedy: "boot Linux 5.6 or newer; without it entries are written one by one",
        ask: || answers_bad_descriptor(MAP_UPDATE_BATCH, &mut [0_u64, 0, 0, 0, BAD_MAP, 0, 0]),
    },
    Probe {
        name: "grace-periods",
        what: "waits until no program looks at what is retired (membarrier, or an array of maps)",
        remedy: "boot Linux 5.0 or newer, or one that offers membarrier(2)",
        ask: || GracePeriods::probe().map(drop).map_err(|error| io::Error::other(error.to_string())),
    },
    Probe {
        name: "mptcp",
        what: "MPTCP sockets show what they had dialled (Linux 5.19, CONFIG_MPTCP, CONFIG_DEBUG_INFO_BTF)",
        remedy: "boot Linux 5.19 or newer where MPTCP is used; without it such sockets show the pod that they got",
        ask: || if tells_mptcp() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) },
    },
    Probe {
        name: "preorder",
        what: "runs before other balancers, by BPF_F_PREORDER of a link (Linux 6.17, and updates of some before)",
        remedy: "boot a newer Linux where another balancer uses the hooks; without it the first attached goes first",
        ask: || link(PREORDER),
    },
    Probe {
        name: "before",
        what: "runs before other balancers, by BPF_F_BEFORE of a link (Linux 6.17, and updates of some before)",
        remedy: "boot a newer Linux where another balancer uses the hooks; without it the first attached goes first",
        ask: || link(BEFORE),
    },
];

const PROG_LOAD: libc::c_int = 5;
const MAP_UPDATE_BATCH: libc::c_int = 26;
const LINK_CREATE: libc::c_int = 28;
/// `count` 0 and `map_fd` -1, as the batch calls take them.
const BAD_MAP: u64 = 0xffff_ffff_0000_0000;

const CGROUP_SOCK: u32 = 9;
const CGROUP_SOCK_ADDR: u32 = 18;
const CONNECT4: Hook = Hook::address(10);

/// Numbers of a program's type and of the hook it is for (`enum bpf_prog_type`, `enum bpf_attach_type`).
#[derive(Clone, Copy)]
struct Hook {
    kind: u32,
    attach: u32,
}

impl Hook {
    const fn address(attach: u32) -> Self {
        Self { kind: CGROUP_SOCK_ADDR, attach }
    }
}

/// `struct bpf_insn`: operation, source and destination register, offset, immediate.
type Instruction = [u8; 8];

const fn instruction(op: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    let ([a, b], [c, d, e, f]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
    let registers =
        if cfg!(target_endian = "big") { destination << 4 | source } else { source << 4 | destination };
    [op, registers, a, b, c, d, e, f]
}

const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

const HELPER_COARSE_NS: i32 = 160;
const HELPER_SKC_TO_MPTCP_SOCK: i32 = 196;
const MOV_R0_1: Instruction = instruction(0xb7, 0, 0, 0, 1);
const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);
const MOV_R2_R1: Instruction = instruction(0xbf, 2, 1, 0, 0);
const SUB_R2_R1: Instruction = instruction(0x1f, 2, 1, 0, 0);
/// `r1 = ctx->sk`: the field's offset in `struct bpf_sock_addr`.
const MOV_R1_SOCKET: Instruction = instruction(0x79, 1, 1, 64, 0);
/// Jumps over the call that follows.
const EXIT_IF_R1_IS_NULL: Instruction = instruction(0x15, 1, 0, 1, 0);
const COMPARE_AND_EXCHANGE: [Instruction; 6] = [
    // *(u64 *)(r10 - 8) = 0; r0 = 0; r1 = 1
    instruction(0x7a, 10, 0, -8, 0),
    instruction(0xb7, 0, 0, 0, 0),
    instruction(0xb7, 1, 0, 0, 1),
    instruction(0xdb, 10, 1, -8, 0xf1),
    MOV_R0_1,
    EXIT,
];

/// The beginning of `union bpf_attr` for loading a program.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

fn all_load(hooks: &[Hook]) -> io::Result<()> {
    hooks.iter().try_for_each(|hook| load(*hook, &[MOV_R0_1, EXIT]).map(drop))
}

fn load(hook: Hook, program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        kind: hook.kind,
        count: u32::try_from(program.len()).expect("a few instructions"),
        instructions: sys::address(program.as_ptr()),
        license: sys::address(c"GPL".as_ptr()),
        attach: hook.attach,
        ..LoadAttr::default()
    };
    // SAFETY: instructions and licence outlive the call, which only reads them.
    let fd = unsafe { sys::bpf(PROG_LOAD, &mut attr) }?;
    let fd = libc::c_int::try_from(fd).expect("descriptors are ints");
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether links to cgroups take these flags: a program is good, the cgroup is none, and the kernel looks at the flags
/// first.
fn link(flags: u32) -> io::Result<()> {
    let program = load(CONNECT4, &[MOV_R0_1, EXIT])?;
    let bad = -1_i32 as u32;
    let mut attr = [number(program.as_fd()), bad, CONNECT4.attach, flags, 0, 0, 0, 0];
    answers_bad_descriptor(LINK_CREATE, &mut attr)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

/// A kernel that knows the command, and takes what stands in the attribute, says that the descriptor is bad.
fn answers_bad_descriptor<T>(command: libc::c_int, attr: &mut T) -> io::Result<()> {
    // SAFETY: the attribute holds no addresses that the kernel would look at before it has a descriptor.
    match unsafe { sys::bpf(command, attr) } {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("the kernel took a bad descriptor")),
    }
}
