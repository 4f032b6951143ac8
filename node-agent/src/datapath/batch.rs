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
/// After a call that wrote nothing: enough for the kernel's refill.
const PAUSE: Duration = Duration::from_millis(1);

/// Writes elements in as few calls as the kernel takes, or one by one where it knows no batches (before 5.6).
pub(super) fn update<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
    how: How,
) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "a key for every value");
    let written = whole(
        keys.len(),
        |from, to| sys::update_batch(map, &keys[from..to], &values[from..to], how),
        || std::thread::sleep(PAUSE),
    );
    match written {
        Err(error) if sys::knows_no_batches(&error) => {
            let mut pairs = keys.iter().zip(values);
            pairs.try_for_each(|(key, value)| sys::update(map, key, std::slice::from_ref(value), how))
        }
        written => written,
    }
}

/// Calls `write` for ranges of `0..count` until all is written. After a stop that may pass it goes on behind what was
/// written, in smaller pieces, and waits where that is nothing.
fn whole(
    count: usize,
    mut write: impl FnMut(usize, usize) -> Result<(), Stopped>,
    mut wait: impl FnMut(),
) -> io::Result<()> {
    let (mut done, mut piece, mut stalls) = (0, count, 0);
    while done < count {
        let end = count.min(done + piece);
        let Err(Stopped { written, source }) = write(done, end) else {
            (done, stalls) = (end, 0);
            continue;
        };
        if !may_pass(&source) {
            return Err(source);
        }
        done += written.min(end - done);
        piece = (piece / 2).max(1);
        stalls = if written > 0 { 0 } else { stalls + 1 };
        if stalls > STALLS {
            return Err(source);
        }
        if written == 0 {
            wait();
        }
    }
    Ok(())
}

fn may_pass(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

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
        whole(1000, write, || waits += 1).unwrap();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        assert!(waits > 0);
    }

    #[test]
    fn what_does_not_pass_ends_it_and_so_does_what_lasts() {
        let error = whole(10, |_, _| stopped(3, libc::E2BIG), || {}).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
        let mut waits = 0;
        let error = whole(10, |_, _| stopped(0, libc::ENOMEM), || waits += 1).unwrap_err();
        assert_eq!((error.raw_os_error(), waits), (Some(libc::ENOMEM), STALLS));
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
        let value = mesh_abi::ServiceCell::new(mesh_abi::ServiceEntry {
            head: Default::default(),
            key: mesh_abi::ServiceKey::new([0; 16], 80, mesh_abi::PROTOCOL_TCP),
            group_count: 0,
            flags: 0,
            zero: [0; 2],
            cells: [0; mesh_abi::MAX_GROUPS],
            groups: Default::default(),
            tail: Default::default(),
        });
        update(map.as_fd(), &keys, &vec![value; keys.len()], How::Plain).unwrap();
        let found = sys::dump::<u32, mesh_abi::ServiceCell>(map.as_fd(), usize::MAX, How::Plain).unwrap();
        assert_eq!(found.len(), keys.len());
    }
}
