//! The bpf(2) calls that the eBPF library lacks: typed element access, batches, atomic link updates, and the
//! grace period. Never decides anything.
#![allow(unsafe_code, reason = "the kernel is called with addresses")]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mesh_abi::Plain;

const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const MAP_NEXT_KEY: libc::c_int = 4;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO: libc::c_int = 15;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const MAP_UPDATE_BATCH: libc::c_int = 26;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// `union bpf_attr` for single elements.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ElementAttr {
    map_fd: u32,
    zero: u32,
    key: u64,
    /// Value or next key.
    value: u64,
    flags: u64,
}

/// `union bpf_attr` for batches (kernel 5.6).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr` for opening a pin.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` for asking about an object.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info` for a cgroup link.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CgroupLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    zero: u32,
    cgroup: u64,
    attach_type: u32,
    zero_2: u32,
}

/// `union bpf_attr` for updating a link (kernel 5.7).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// # Safety
/// `T` is the attribute that `command` takes, and what its addresses point to is as large as the command
/// reads or writes and lives until the call returns.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller vouches for the attribute; the kernel reads and writes `size_of::<T>()` bytes of it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

fn address<T: ?Sized>(of: *const T) -> u64 {
    of.cast::<u8>() as u64
}

/// The value under a key; nothing where there is none. `V` is as large as the map's values.
pub(super) fn lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::zeroed();
    let mut attr = ElementAttr {
        map_fd: raw(map),
        key: address(&raw const *key),
        value: address(value.as_mut_ptr()),
        ..ElementAttr::default()
    };
    // SAFETY: key and value are as large as the map's (checked when it was opened) and outlive the call.
    match unsafe { bpf(MAP_LOOKUP, &mut attr) } {
        // SAFETY: `V` is plain: any bytes make one, and the kernel wrote all of them.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The values of all CPUs under an index. `cpus` is the number of possible CPUs; `V` is a multiple of 8 bytes.
pub(super) fn lookup_per_cpu<V: Plain>(map: BorrowedFd<'_>, index: u32, cpus: usize) -> io::Result<Vec<V>> {
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    let mut values = Vec::<V>::with_capacity(cpus);
    let mut attr = ElementAttr {
        map_fd: raw(map),
        key: address(&raw const index),
        value: address(values.as_mut_ptr()),
        ..ElementAttr::default()
    };
    // SAFETY: the kernel writes one value for each possible CPU, for which there is room.
    unsafe { bpf(MAP_LOOKUP, &mut attr) }?;
    // SAFETY: all of them were written, and any bytes make a plain value.
    unsafe { values.set_len(cpus) };
    Ok(values)
}

/// Writes one element. For a per-CPU map, `value` is the values of all CPUs.
pub(super) fn update<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &[V],
    how: How,
) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: raw(map),
        key: address(&raw const *key),
        value: address(value.as_ptr()),
        flags: how as u64,
        ..ElementAttr::default()
    };
    // SAFETY: key and value are as large as the map's and outlive the call.
    unsafe { bpf(MAP_UPDATE, &mut attr) }.map(drop)
}

/// Deletes a key; false where it was not there.
pub(super) fn delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attr = ElementAttr { map_fd: raw(map), key: address(&raw const *key), ..ElementAttr::default() };
    // SAFETY: the key is as large as the map's and outlives the call.
    match unsafe { bpf(MAP_DELETE, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How an element is read or written.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(super) enum How {
    /// As the map does it: an array in place, a hash by replacing the element.
    Plain = 0,
    /// In place, under the lock in the map's values (`BPF_F_LOCK`, kernel 5.1); a key that is not there is
    /// inserted.
    Locked = 4,
}

/// A batch ended early: how many of its elements were written, and why it stopped.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) written: usize,
    pub(super) source: io::Error,
}

/// Writes elements in one call.
pub(super) fn update_batch<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
    how: How,
) -> Result<(), Stopped> {
    assert_eq!(keys.len(), values.len(), "a key for every value");
    let mut attr = BatchAttr {
        keys: address(keys.as_ptr()),
        values: address(values.as_ptr()),
        count: u32::try_from(keys.len()).expect("plans are far below 2^32 elements"),
        map_fd: raw(map),
        elem_flags: how as u64,
        ..BatchAttr::default()
    };
    // SAFETY: both arrays hold `count` elements of the map's sizes and outlive the call.
    unsafe { bpf(MAP_UPDATE_BATCH, &mut attr) }.map(drop).map_err(|source| {
        // Where it didn't begin, the kernel leaves the number as it was.
        let written = if knows_no_batches(&source) { 0 } else { attr.count };
        let written = usize::try_from(written).expect("u32 fits usize");
        Stopped { written, source }
    })
}

/// The kernel's own "not supported", which has no name in user space.
const ENOTSUPP: i32 = 524;

pub(super) fn knows_no_batches(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP))
}

/// Elements read per call.
const DUMP: usize = 4096;

/// The first `limit` elements of a map, or a few more: of an array in the order of their indices, of a hash in
/// no order. What changes meanwhile may be seen or not.
pub(super) fn dump<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    limit: usize,
    how: How,
) -> io::Result<Vec<(K, V)>> {
    match dump_batched(map, limit, how) {
        Err(error) if knows_no_batches(&error) => dump_one_by_one(map, limit),
        other => other,
    }
}

fn dump_batched<K: Plain, V: Plain>(map: BorrowedFd<'_>, limit: usize, how: How) -> io::Result<Vec<(K, V)>> {
    let mut elements = Vec::new();
    // A hash bucket must fit into one call; the kernel says ENOSPC where it does not.
    let mut room = limit.clamp(64, DUMP);
    // Hash maps keep a bucket number there, array maps an index: four bytes both.
    let (mut position, mut next) = (0_u32, 0_u32);
    let mut first = true;
    loop {
        let mut keys = Vec::<K>::with_capacity(room);
        let mut values = Vec::<V>::with_capacity(room);
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { address(&raw const position) },
            out_batch: address(&raw mut next),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: u32::try_from(room).expect("room is small"),
            map_fd: raw(map),
            elem_flags: how as u64,
            ..BatchAttr::default()
        };
        // SAFETY: keys and values have room for `count` elements of the map's sizes, and `position` and `next`
        // for the position; all outlive the call.
        let result = unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) };
        let finished = match &result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 20 => {
                room *= 4;
                continue;
            }
            Err(_) => return result.map(|_| Vec::new()),
        };
        let count = usize::try_from(attr.count).expect("u32 fits usize");
        // SAFETY: the kernel wrote `count` elements, and any bytes make plain values.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        elements.extend(keys.into_iter().zip(values));
        if finished || elements.len() >= limit {
            return Ok(elements);
        }
        (position, first) = (next, false);
    }
}

fn dump_one_by_one<K: Plain, V: Plain>(map: BorrowedFd<'_>, limit: usize) -> io::Result<Vec<(K, V)>> {
    let mut elements = Vec::new();
    let mut key: Option<K> = None;
    while elements.len() < limit
        && let Some(next) = next_key(map, key.as_ref())?
    {
        elements.extend(lookup(map, &next)?.map(|value| (next, value)));
        key = Some(next);
    }
    Ok(elements)
}

fn next_key<K: Plain>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next = MaybeUninit::<K>::zeroed();
    let mut attr = ElementAttr {
        map_fd: raw(map),
        key: key.map_or(0, |key| address(&raw const *key)),
        value: address(next.as_mut_ptr()),
        ..ElementAttr::default()
    };
    // SAFETY: both keys are as large as the map's and outlive the call.
    match unsafe { bpf(MAP_NEXT_KEY, &mut attr) } {
        // SAFETY: `K` is plain, and the kernel wrote all of it.
        Ok(_) => Ok(Some(unsafe { next.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens what is pinned at a path.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { path: address(path.as_ptr()), ..ObjectAttr::default() };
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { bpf(OBJ_GET, &mut attr) }?;
    let fd = libc::c_int::try_from(fd).expect("descriptors are ints");
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a link run another program from the next call on, without a moment in between.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr =
        LinkUpdateAttr { link_fd: raw(link), new_prog_fd: raw(program), ..LinkUpdateAttr::default() };
    // SAFETY: the attribute holds no addresses.
    unsafe { bpf(LINK_UPDATE, &mut attr) }.map(drop)
}

/// Takes a link's program off its cgroup at once. Removing the pin alone leaves that to a worker of the
/// kernel's, and to whoever else holds the link.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link_fd: raw(link), ..LinkUpdateAttr::default() };
    // SAFETY: the attribute holds no addresses.
    unsafe { bpf(LINK_DETACH, &mut attr) }.map(drop)
}

/// The id of the cgroup that a pinned link serves, which is the inode number of the cgroup's directory; 0 where
/// the cgroup is gone.
pub(super) fn link_cgroup(link: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = CgroupLinkInfo::default();
    let mut attr = InfoAttr {
        fd: raw(link),
        length: u32::try_from(size_of::<CgroupLinkInfo>()).expect("a few bytes"),
        info: address(&raw mut info),
    };
    // SAFETY: the kernel writes at most `length` bytes of `info`.
    unsafe { bpf(OBJ_GET_INFO, &mut attr) }?;
    Ok(info.cgroup)
}

/// Returns once every program that was running at the call has ended: `membarrier(2)` with
/// `MEMBARRIER_CMD_GLOBAL` waits for an RCU grace period (kernel 4.3), and programs run inside RCU read sections.
pub fn wait_grace_period() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes no addresses.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `CLOCK_MONOTONIC` in nanoseconds: what `bpf_ktime_get_ns` gives to a program.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the address is that of a timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0, "the monotonic clock is always there");
    let part = |value: i64| u64::try_from(value).expect("the monotonic clock is not negative");
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// Number of possible CPUs: how many values a per-CPU map gives.
pub(super) fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let ranges = text.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()? + 1 - first.parse::<usize>().ok()?)
    });
    ranges.sum::<Option<usize>>().ok_or_else(|| io::Error::other(format!("no list of CPUs: {text:?}")))
}

/// A map of keys and values of these sizes, without elements allocated in advance: as `SERVICES` is made.
#[cfg(test)]
pub(super) fn create_hash((key, value): (u32, u32), capacity: u32) -> io::Result<OwnedFd> {
    const MAP_CREATE: libc::c_int = 0;
    const HASH: u32 = 1;
    const NO_PREALLOC: u32 = 1;
    let mut attr = [HASH, key, value, capacity, NO_PREALLOC];
    // SAFETY: these are the beginning of the attribute, which holds no addresses.
    let fd = unsafe { bpf(MAP_CREATE, &mut attr) }?;
    let fd = libc::c_int::try_from(fd).expect("descriptors are ints");
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
