//! Writes of many elements: goes on where the kernel stopped in the middle of a batch.
//!
//! The kernel allocates the elements of a large hash from stores that it refills beside the call, and refuses an element
//! when one is empty for a moment; what it wrote before that stands, and it says how much that was.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use mesh_abi::Plain;

use super::sys::{self, How, Stopped};

/// How often in a row a batch may stop at the same element before it is given up.
const STALLS: u32 = 100;
/// After so many refusals in a row it is the map that refuses, and not the element.
const HOPELESS: usize = 32;
/// After a call that wrote nothing: enough for the kernel's refill.
const PAUSE: Duration = Duration::from_millis(1);

/// Writes elements in as few calls as the kernel takes, or one by one where it knows no batches (before 5.6). Gives the
/// places of those that it refused, ascending.
pub(super) fn update<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
    how: How,
) -> Vec<(usize, io::Error)> {
    assert_eq!(keys.len(), values.len(), "a key for every value");
    let batch = |from: usize, to: usize| sys::update_batch(map, &keys[from..to], &values[from..to], how);
    let single = |at: usize| {
        let written = sys::update(map, &keys[at], std::slice::from_ref(&values[at]), how);
        written.map_err(|source| Stopped { written: 0, source })
    };
    let mut batches = true;
    let write = |from: usize, to: usize| {
        if batches {
            match batch(from, to) {
                Err(stopped) if sys::knows_no_batches(&stopped.source) => batches = false,
                written => return written,
            }
        }
        (from..to).try_for_each(|at| single(at).map_err(|stopped| Stopped { written: at - from, ..stopped }))
    };
    whole(keys.len(), write, || std::thread::sleep(PAUSE))
}

/// Calls `write` for ranges of `0..count` until all is written or refused. After a stop that may pass it goes on behind
/// what was written, in smaller pieces, and waits where that is nothing; any other stop refuses one element.
fn whole(
    count: usize,
    mut write: impl FnMut(usize, usize) -> Result<(), Stopped>,
    mut wait: impl FnMut(),
) -> Vec<(usize, io::Error)> {
    let mut refused = Vec::new();
    let (mut done, mut piece, mut stalls, mut patience, mut hopeless) = (0, count, 0, STALLS, 0);
    while done < count {
        let end = count.min(done + piece);
        let Err(Stopped { written, source }) = write(done, end) else {
            (done, stalls, hopeless) = (end, 0, 0);
            piece = piece.saturating_mul(2);
            continue;
        };
        let written = written.min(end - done);
        done += written;
        if written > 0 {
            (stalls, hopeless) = (0, 0);
        }
        if may_pass(&source) && stalls < patience {
            piece = (piece / 2).max(1);
            stalls += 1;
            if written == 0 {
                wait();
            }
            continue;
        }
        // One element has used up the patience of the call.
        (stalls, patience) = (0, if may_pass(&source) { 1 } else { patience });
        hopeless += 1;
        if hopeless > HOPELESS {
            refused.extend((done..count).map(|at| (at, again(&source))));
            return refused;
        }
        refused.push((done, source));
        done += 1;
    }
    refused
}

fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn may_pass(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::scan;
    use super::*;

    fn stopped(written: usize, errno: i32) -> Result<(), Stopped> {
        Err(Stopped { written, source: io::Error::from_raw_os_error(errno) })
    }

    #[test]
    fn a_batch_that_stops_in_the_middle_goes_on_behind_what_was_written() {
        let (mut seen, mut calls, mut waits) = (Vec::new(), 0, 0);
        let write = |from: usize, to: usize| {
            calls += 1;
            // Every other call stops; every fourth has written nothing.
            let written = match calls % 4 {
                1 => (to - from) / 3,
                3 => 0,
                _ => to - from,
            };
            seen.extend(from..from + written);
            if calls % 2 == 1 { stopped(written, libc::ENOMEM) } else { Ok(()) }
        };
        assert!(whole(1000, write, || waits += 1).is_empty());
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        assert!(waits > 0);
    }

    fn places(refused: &[(usize, io::Error)]) -> Vec<usize> {
        refused.iter().map(|(at, _)| *at).collect()
    }

    #[test]
    fn an_element_that_is_refused_keeps_none_of_the_others_from_being_written() {
        for errno in [libc::EPERM, libc::ENOMEM] {
            let bad = [0, 7, 8, 500, 999];
            let (mut seen, mut waits) = (Vec::new(), 0);
            let write = |from: usize, to: usize| {
                let stop = (from..to).find(|at| bad.contains(at));
                let end = stop.unwrap_or(to);
                seen.extend(from..end);
                stop.map_or(Ok(()), |stop| stopped(stop - from, errno))
            };
            let refused = whole(1000, write, || waits += 1);
            assert_eq!(places(&refused), bad, "{errno}");
            assert!(refused.iter().all(|(_, error)| error.raw_os_error() == Some(errno)));
            assert_eq!(seen.len(), 1000 - bad.len());
            assert!(waits <= STALLS + 8, "{waits} pauses");
        }
    }

    #[test]
    fn a_map_that_refuses_everything_is_not_tried_for_every_element() {
        let mut calls = 0;
        let write = |_, _| {
            calls += 1;
            stopped(0, libc::EPERM)
        };
        let refused = whole(100_000, write, || {});
        assert_eq!(places(&refused), (0..100_000).collect::<Vec<_>>());
        assert_eq!(calls, HOPELESS + 1);
    }

    /// What `whole` relies on. Needs CAP_BPF.
    #[test]
    fn the_kernel_says_how_far_it_came() {
        let map = sys::create_hash((4, 8), 6).unwrap();
        let keys: Vec<u32> = (0..10).collect();
        let values: Vec<u64> = (0..10).collect();
        let Stopped { written, source } =
            sys::update_batch(map.as_fd(), &keys, &values, How::Plain).unwrap_err();
        assert_eq!((written, source.raw_os_error()), (6, Some(libc::E2BIG)));
        assert_eq!(sys::lookup::<u32, u64>(map.as_fd(), &5).unwrap(), Some(5));
        assert_eq!(sys::lookup::<u32, u64>(map.as_fd(), &6).unwrap(), None);
    }

    /// As many and as large elements as made the kernel run out of prepared ones. Needs CAP_BPF.
    #[test]
    fn a_hundred_thousand_large_elements_are_written_whole() {
        const COUNT: u32 = 100_000;
        let map = sys::create_hash((4, 856), COUNT).unwrap();
        let keys: Vec<u32> = (0..COUNT).collect();
        let entry = mesh_abi::EarlierEntry {
            head: Default::default(),
            key: mesh_abi::ServiceKey::new([0; 16], 80, mesh_abi::PROTOCOL_TCP),
            group_count: 0,
            flags: 0,
            zero: [0; 2],
            cells: [0; mesh_abi::MAX_GROUPS],
            groups: Default::default(),
            tail: Default::default(),
        };
        let value = mesh_abi::EarlierCell { lock: Default::default(), current: 0, versions: [entry; 2] };
        assert!(update(map.as_fd(), &keys, &vec![value; keys.len()], How::Plain).is_empty());
        let found = scan::dump::<u32, mesh_abi::EarlierCell>(map.as_fd(), usize::MAX, How::Plain).unwrap();
        assert_eq!(found.len(), keys.len());
    }
}
