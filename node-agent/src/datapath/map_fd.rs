//! One open map: its shape is checked once, when it is opened. Never decides what it holds.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::MapData;
use mesh_abi::Plain;

use super::batch;
use super::hint::Hint;
use super::maps::{MapError, Refused};
use super::scan;
use super::sys::{self, How};

/// One open map whose keys and values have the sizes of its users' types.
#[derive(Debug)]
pub(super) struct MapFd {
    name: &'static str,
    data: MapData,
    pub(super) capacity: u32,
}

impl MapFd {
    pub(super) fn open<K: Plain, V: Plain>(folder: &Path, name: &'static str) -> Result<Self, MapError> {
        let path = folder.join(name);
        let opened = MapData::from_pin(&path).and_then(|data| Ok((data.info()?, data)));
        let (info, data) = opened.map_err(|source| {
            let hint = Hint::of(&source).or("is the agent of this instance installed on this node?");
            MapError::Open { name, path, hint, source: Box::new(source) }
        })?;
        let (key, value) = (size_of::<K>(), size_of::<V>());
        let same = |found: u32, wanted: usize| usize::try_from(found).is_ok_and(|found| found == wanted);
        if !same(info.key_size(), key) || !same(info.value_size(), value) {
            let (found_key, found_value) = (info.key_size(), info.value_size());
            return Err(MapError::Shape { name, found_key, found_value, key, value });
        }
        Ok(Self { name, data, capacity: info.max_entries() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    pub(super) fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> MapError {
        let name = self.name;
        move |source| MapError::Call { action, name, source }
    }

    pub(super) fn lookup<K: Plain, V: Plain>(&self, key: &K) -> Result<Option<V>, MapError> {
        sys::lookup(self.fd(), key).map_err(self.failed("reading"))
    }

    pub(super) fn lookup_per_cpu<V: Plain>(&self, index: u32, cpus: usize) -> Result<Vec<V>, MapError> {
        sys::lookup_per_cpu(self.fd(), index, cpus).map_err(self.failed("reading"))
    }

    pub(super) fn update<K: Plain, V: Plain>(&self, key: &K, value: &[V]) -> Result<(), MapError> {
        sys::update(self.fd(), key, value, How::Plain).map_err(self.failed("writing"))
    }

    pub(super) fn dump<K: Plain, V: Plain>(&self, limit: usize, how: How) -> Result<Vec<(K, V)>, MapError> {
        let capacity = usize::try_from(self.capacity).unwrap_or(usize::MAX);
        scan::dump(self.fd(), limit.min(capacity), how).map_err(self.failed("reading"))
    }

    pub(super) fn update_all<K: Plain, V: Plain>(
        &self,
        entries: &[(K, V)],
        flag: &'static str,
        how: How,
    ) -> Vec<Refused> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
        let refused = batch::update(self.fd(), &keys, &values, how);
        let error = |source: io::Error| match source.raw_os_error() {
            Some(libc::E2BIG) => MapError::Full { name: self.name, capacity: self.capacity, flag },
            _ => MapError::Call { action: "writing", name: self.name, source },
        };
        refused.into_iter().map(|(index, source)| Refused { index, error: error(source) }).collect()
    }

    /// Elements of an array.
    pub(super) fn read_range<V: Plain>(&self, first: u32, count: u32) -> Result<Vec<V>, MapError> {
        let end = first.saturating_add(count).min(self.capacity);
        if first >= end {
            return Ok(Vec::new());
        }
        let read = scan::range(self.fd(), first, end - first, How::Plain);
        read.map_err(self.failed("reading"))
    }
}
