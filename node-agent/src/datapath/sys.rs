//! The bpf(2) calls that the eBPF library lacks: typed element access, batches, atomic link updates. Never decides
//! anything.
#![allow(unsafe_code, reason = "the kernel is called with addresses")]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::fence;

use mesh_abi::Plain;

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const MAP_UPDATE_BATCH: libc::c_int = 26;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// `union bpf_attr` for single elements.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct ElementAttr {
    pub(super) map_fd: u32,
    pub(super) zero: u32,
    pub(super) key: u64,
    /// Value or next key.
    pub(super) value: u64,
    pub(super) flags: u64,
}

/// `union bpf_attr` for batches (kernel 5.6).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct BatchAttr {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map_fd: u32,
    pub(super) elem_flags: u64,
    pub(super) flags: u64,
}

/// `union bpf_attr` for pins.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
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
pub(super) unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // The kernel puts no barrier between two writes of arrays: without this one arm64 may show programs a slot before the
    // backend that it names (docs/kernels.md). What this CPU stored before is seen first, be it stored by the kernel.
    fence(SeqCst);
    // SAFETY: the caller vouches for the attribute; the kernel reads and writes `size_of::<T>()` bytes of it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(super) fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

pub(super) fn address<T: ?Sized>(of: *const T) -> u64 {
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

/// Opens what is pinned at a path.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { path: address(path.as_ptr()), ..ObjectAttr::default() };
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { bpf(OBJ_GET, &mut attr) }?;
    Ok(owned(fd))
}

/// Pins an object at a path where there is nothing.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { path: address(path.as_ptr()), fd: raw(object), ..ObjectAttr::default() };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { bpf(OBJ_PIN, &mut attr) }.map(drop)
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

/// `CLOCK_MONOTONIC` in nanoseconds: what `bpf_ktime_get_ns` gives to a program.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the address is that of a timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0, "the monotonic clock is always there");
    let part = |value: i64| u64::try_from(value).expect("the monotonic clock is not negative");
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// What a map is to be like; `union bpf_attr` for creating one.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct MapAttr {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
    /// What the maps in an outer map are like: a descriptor.
    pub(super) inner: u32,
}

impl MapAttr {
    #[cfg(test)]
    pub(super) const HASH: u32 = 1;
    pub(super) const ARRAY: u32 = 2;
    pub(super) const ARRAY_OF_MAPS: u32 = 12;
    #[cfg(test)]
    pub(super) const NO_PREALLOC: u32 = 1;
}

/// Creates a map that nobody else knows.
pub(super) fn create_map(mut attr: MapAttr) -> io::Result<OwnedFd> {
    // SAFETY: the attribute holds no addresses.
    let fd = unsafe { bpf(MAP_CREATE, &mut attr) }?;
    Ok(owned(fd))
}

/// # Panics
/// The kernel gave no descriptor although it said so.
pub(super) fn owned(fd: libc::c_long) -> OwnedFd {
    let fd = libc::c_int::try_from(fd).expect("descriptors are ints");
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A map of keys and values of these sizes, without elements allocated in advance: as `SERVICES` is made.
#[cfg(test)]
pub(super) fn create_hash((key, value): (u32, u32), capacity: u32) -> io::Result<OwnedFd> {
    let (kind, flags) = (MapAttr::HASH, MapAttr::NO_PREALLOC);
    let attr = MapAttr { kind, key_size: key, value_size: value, max_entries: capacity, flags, inner: 0 };
    create_map(attr)
}

#[cfg(test)]
#[path = "long_program.rs"]
mod long_program;
#[cfg(test)]
pub(super) use long_program::LongProgram;
