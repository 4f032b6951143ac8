//! Answers ranges as etcd does, its oddities included.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::cache::Cache;
use super::record::Stored;
use super::view::View;
use super::wire::{RangeRequest, SortOrder, SortTarget};

/// Some keys: one, those before an end, or all from a key on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    One(Bytes),
    Before { from: Bytes, end: Bytes },
    From(Bytes),
}

impl Keys {
    /// As a request says it: no end is one key, an end of one zero byte is no end at all.
    pub(crate) fn new(key: Bytes, end: Bytes) -> Self {
        match &end[..] {
            [] => Self::One(key),
            [0] => Self::From(key),
            _ => Self::Before { from: key, end },
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Before { from, end } => &from[..] <= key && key < &end[..],
            Self::From(from) => &from[..] <= key,
        }
    }

    /// Whether no key can be among them.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Before { from, end } if from >= end)
    }

    /// Not for empty ranges, which have no bounds.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            Self::One(key) => (Bound::Included(&key[..]), Bound::Included(&key[..])),
            Self::Before { from, end } => (Bound::Included(&from[..]), Bound::Excluded(&end[..])),
            Self::From(from) => (Bound::Included(&from[..]), Bound::Unbounded),
        }
    }
}

/// Why a request is refused, in etcd's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RangeRefused {
    #[error("etcdserver: key is not provided")]
    NoKey,
    #[error("etcdserver: invalid sort option")]
    Sort,
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("etcdserver: mvcc: required revision is a future revision")]
    Future,
}

/// What a range holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<Arc<Stored>>,
    /// Whether the limit left some out.
    pub(crate) more: bool,
    /// Of all keys within the range, whatever else the request wants of them.
    pub(crate) count: i64,
}

/// Answers a request from what the cache holds, as far as the reader sees it.
pub(crate) fn range(cache: &Cache, view: &View, request: &RangeRequest) -> Result<Found, RangeRefused> {
    if request.key.is_empty() {
        return Err(RangeRefused::NoKey);
    }
    let order = SortOrder::try_from(request.sort_order).map_err(|_| RangeRefused::Sort)?;
    let target = SortTarget::try_from(request.sort_target).map_err(|_| RangeRefused::Sort)?;
    let keys = Keys::new(request.key.clone(), request.range_end.clone());
    let mut records = cache.records(&keys, request.revision, view)?;
    let count = i64::try_from(records.len()).unwrap_or(i64::MAX);
    if request.count_only {
        return Ok(Found { count, ..Found::default() });
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    // etcd reads one more than the limit, to know whether there are more, before it sorts by anything but the key where no
    // order is given: what it sorts then is the beginning of the range, not the range.
    if let Some(limit) = limit.filter(|_| order == SortOrder::None && !is_pruned(request)) {
        records.truncate(limit.saturating_add(1));
    }
    records.retain(|record| is_wanted(request, record));
    sort(&mut records, order, target);
    let more = limit.is_some_and(|limit| records.len() > limit);
    records.truncate(limit.unwrap_or(usize::MAX));
    Ok(Found { records, more, count })
}

fn is_pruned(request: &RangeRequest) -> bool {
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    bounds.iter().any(|bound| *bound != 0)
}

/// Whether a record lies within the revisions asked for; 0 is no bound.
fn is_wanted(request: &RangeRequest, record: &Stored) -> bool {
    let within =
        |revision: i64, min: i64, max: i64| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    within(record.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(record.create_revision, request.min_create_revision, request.max_create_revision)
}

/// Records come sorted by key; those alike in what they are sorted by stay so.
fn sort(records: &mut [Arc<Stored>], order: SortOrder, target: SortTarget) {
    let by_key = target == SortTarget::Key;
    let compare = |one: &Arc<Stored>, other: &Arc<Stored>| match target {
        SortTarget::Key => one.key.cmp(&other.key),
        SortTarget::Version => one.version.cmp(&other.version),
        SortTarget::Create => one.create_revision.cmp(&other.create_revision),
        SortTarget::Mod => one.mod_revision.cmp(&other.mod_revision),
        SortTarget::Value => one.value.cmp(&other.value),
    };
    match order {
        SortOrder::None | SortOrder::Ascend if by_key => {}
        SortOrder::None | SortOrder::Ascend => records.sort_by(compare),
        SortOrder::Descend => records.sort_by(|one, other| Ordering::reverse(compare(one, other))),
    }
}
