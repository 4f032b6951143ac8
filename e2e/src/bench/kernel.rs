//! The kernel's side: an empty hook to compare with, and the statistics of programs.
#![allow(unsafe_code, reason = "the kernel is called with addresses")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::MapData;
use aya::programs::loaded_programs;

const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const CGROUP_SOCK_ADDR: u32 = 18;
const INET4_CONNECT: u32 = 10;

/// The beginning of `union bpf_attr` for loading a program, up to what older kernels know too.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LinkAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// # Safety
/// `T` is the attribute that `command` takes, and its addresses are valid until the call returns.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for the attribute; the kernel reads `size_of::<T>()` bytes of it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: both commands give a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A hook of two instructions on a cgroup: what any hook costs. Detached when dropped.
#[derive(Debug)]
pub(crate) struct EmptyHook {
    _link: OwnedFd,
    _program: OwnedFd,
    pub(crate) id: u32,
}

impl EmptyHook {
    pub(crate) fn attach(cgroup: &Path) -> Result<Self> {
        // r0 = 1; exit
        let instructions: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
        let name = "empty";
        let mut attr = LoadAttr {
            kind: CGROUP_SOCK_ADDR,
            count: 2,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            expected_attach_type: INET4_CONNECT,
            ..LoadAttr::default()
        };
        attr.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: instructions and license outlive the call.
        let program = unsafe { bpf(PROG_LOAD, &mut attr) }.context("loading the empty program")?;
        let folder = File::open(cgroup).with_context(|| format!("opening {}", cgroup.display()))?;
        let number = |fd: i32| u32::try_from(fd).expect("an open descriptor is not negative");
        let mut attr = LinkAttr {
            program: number(program.as_raw_fd()),
            target: number(folder.as_raw_fd()),
            attach_type: INET4_CONNECT,
            flags: 0,
        };
        // SAFETY: the attribute holds no addresses.
        let link = unsafe { bpf(LINK_CREATE, &mut attr) }.context("attaching the empty program")?;
        let id = program_id(&program).context("asking for the empty program's id")?;
        Ok(Self { _link: link, _program: program, id })
    }
}

fn program_id(program: &OwnedFd) -> Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
    Ok(id.with_context(|| format!("{path} names no program"))?.trim().parse()?)
}

/// The id of the program of this name that uses the map pinned there: others of its name are other instances'.
pub(crate) fn program_of(name: &str, map_pin: &Path) -> Result<u32> {
    let map = MapData::from_pin(map_pin).with_context(|| format!("opening {}", map_pin.display()))?;
    let map = map.info()?.id();
    let mut programs = loaded_programs().flatten();
    let found = programs.find(|program| {
        program.name() == name.as_bytes()
            && program.map_ids().ok().flatten().is_some_and(|ids| ids.contains(&map))
    });
    Ok(found.with_context(|| format!("no program {name} uses {}", map_pin.display()))?.id())
}

/// What the kernel counted of a program while statistics were on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunTime {
    nanoseconds: u64,
    runs: u64,
}

impl RunTime {
    /// Mean nanoseconds of the runs since then.
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn since(self, before: Self) -> Option<f64> {
        let runs = self.runs - before.runs;
        (runs > 0).then(|| (self.nanoseconds - before.nanoseconds) as f64 / runs as f64)
    }
}

pub(crate) fn run_time(program: u32) -> Result<RunTime> {
    let found = loaded_programs().flatten().find(|found| found.id() == program);
    let found = found.with_context(|| format!("program {program} is gone"))?;
    let nanoseconds = u64::try_from(found.run_time().as_nanos())?;
    Ok(RunTime { nanoseconds, runs: found.run_count() })
}

/// Lets this process open as many files as it may.
pub(crate) fn raise_open_files() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes, then reads, a limit that outlives the calls.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if raised { Ok(()) } else { Err(io::Error::last_os_error()).context("raising RLIMIT_NOFILE") }
}
