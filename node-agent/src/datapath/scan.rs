//! Reading many elements of a map. Never decides anything.
#![allow(unsafe_code, reason = "the kernel is called with addresses")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use mesh_abi::Plain;

use super::sys::{BatchAttr, ElementAttr, How, address, bpf, knows_no_batches, lookup, raw};

const MAP_NEXT_KEY: libc::c_int = 4;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
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

pub(super) fn next_key<K: Plain>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
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

/// `count` elements of an array from `first` on.
pub(super) fn range<V: Plain>(map: BorrowedFd<'_>, first: u32, count: u32, how: How) -> io::Result<Vec<V>> {
    match range_batched(map, first, count, how) {
        Err(error) if knows_no_batches(&error) => {
            let read = |index| Ok(lookup(map, &index)?.ok_or(io::ErrorKind::NotFound)?);
            (first..first + count).map(read).collect()
        }
        other => other,
    }
}

fn range_batched<V: Plain>(map: BorrowedFd<'_>, first: u32, count: u32, how: How) -> io::Result<Vec<V>> {
    let len = usize::try_from(count).expect("u32 fits usize");
    let mut keys = Vec::<u32>::with_capacity(len);
    let mut values = Vec::<V>::with_capacity(len);
    // The position is the index before the one that is read next.
    let (position, mut next) = (first.wrapping_sub(1), 0_u32);
    let mut attr = BatchAttr {
        in_batch: if first == 0 { 0 } else { address(&raw const position) },
        out_batch: address(&raw mut next),
        keys: address(keys.as_mut_ptr()),
        values: address(values.as_mut_ptr()),
        count,
        map_fd: raw(map),
        elem_flags: how as u64,
        ..BatchAttr::default()
    };
    // SAFETY: keys and values have room for `count` elements of the map's sizes, and `position` and `next` for the
    // position; all outlive the call.
    let result = unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) };
    match result {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
        _ => {}
    }
    let read = usize::try_from(attr.count).expect("u32 fits usize");
    // SAFETY: the kernel wrote that many elements, and any bytes make plain values.
    unsafe { values.set_len(read.min(len)) };
    Ok(values)
}
