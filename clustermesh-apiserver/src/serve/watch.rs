//! The watches of one stream: what a client asked for, and what it is to be told next.
//!
//! A watch is a place in the cache's log and nothing more, so that a slow client costs no memory and holds nobody up: it is
//! told what lies behind its place when it has room. One whose place has left the log is cancelled with the revision from
//! which can be watched, as etcd does after a compaction, and lists again.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message;

use super::cache::{Cache, Change, Logged};
use super::range::Keys;
use super::record::{deletion, with_previous};
use super::view::View;
use super::wire::{ResponseHeader, WatchAsked, WatchCreateRequest, WatchFilter, WatchRequest, WatchResponse};

/// Answers end with the revision that fills them so far: a client that does not read holds two.
const ANSWER_BYTES: usize = 64 << 10;
/// Revisions in one answer, as in etcd.
const ANSWER_REVISIONS: usize = 1000;
/// Beyond this a client that wants fragments gets them: etcd's limit for a request.
const FRAGMENT_BYTES: usize = 1536 << 10;
/// Watches on one stream. What one takes is small and bounded.
const MAX_WATCHES: usize = 256;
/// A record's key is shorter.
const MAX_KEY_BYTES: usize = 1024;
/// The watch of an answer that is about all of a stream, or about one that was never made.
const NO_WATCH: i64 = -1;

/// etcd's words for why no watch is made.
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const TOO_MANY: &str = "etcdserver: too many requests";
const TOO_LONG: &str = "etcdserver: request is too large";

struct Watch {
    keys: Keys,
    /// The revision that it is told next: everything before is told.
    next: i64,
    puts: bool,
    deletes: bool,
    previous: bool,
    fragments: bool,
    /// Whether it wants to be told of progress while nothing happens.
    progress: bool,
    /// Whether it was told nothing since it was last time to tell of progress.
    idle: bool,
}

/// All watches of one stream.
pub(crate) struct Watches {
    view: View,
    watches: BTreeMap<i64, Watch>,
    next_id: i64,
    /// Answers that are due before everything else. A request leaves at most one.
    due: VecDeque<WatchResponse>,
    /// Asked for progress, which is told when everything up to there is.
    progress_asked: bool,
    /// Everything before this revision has been looked at for all watches.
    looked_at: i64,
    /// The watch that was told last, so that none of many waits for ever.
    last: i64,
}

impl Watches {
    pub(crate) fn new(view: View) -> Self {
        let (watches, due) = (BTreeMap::new(), VecDeque::new());
        Self { view, watches, next_id: 0, due, progress_asked: false, looked_at: 0, last: NO_WATCH }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.watches.len()
    }

    /// Whether an answer waits that must be taken before the next request.
    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Takes a request. Take what [`Self::next`] gives before the next one.
    pub(crate) fn request(&mut self, cache: &Cache, request: WatchRequest) {
        let head = cache.revision();
        match request.asked {
            Some(WatchAsked::Create(create)) => {
                let answer = match self.create(cache, create) {
                    Ok(watch_id) => WatchResponse { watch_id, created: true, ..at(head) },
                    Err((watch_id, reason)) => WatchResponse {
                        watch_id,
                        created: true,
                        canceled: true,
                        cancel_reason: reason.into(),
                        ..at(head)
                    },
                };
                self.due.push_back(answer);
            }
            Some(WatchAsked::Cancel(cancel)) => {
                let watch_id = cancel.watch_id;
                if self.watches.remove(&watch_id).is_some() {
                    self.due.push_back(WatchResponse { watch_id, canceled: true, ..at(head) });
                }
            }
            Some(WatchAsked::Progress(_)) => self.progress_asked = true,
            None => {}
        }
    }

    fn create(&mut self, cache: &Cache, request: WatchCreateRequest) -> Result<i64, (i64, &'static str)> {
        let WatchCreateRequest { key, range_end, start_revision, watch_id, .. } = &request;
        if key.len().max(range_end.len()) > MAX_KEY_BYTES {
            return Err((NO_WATCH, TOO_LONG));
        }
        // Without a key everything from the smallest one on is meant.
        let from = if key.is_empty() { Bytes::from_static(&[0]) } else { key.clone() };
        let keys = Keys::new(from, range_end.clone());
        if keys.is_empty() {
            return Err((NO_WATCH, EMPTY_RANGE));
        }
        if self.watches.contains_key(watch_id) && *watch_id != 0 {
            return Err((NO_WATCH, DUPLICATE));
        }
        if self.watches.len() >= MAX_WATCHES {
            return Err((NO_WATCH, TOO_MANY));
        }
        let id = if *watch_id == 0 { self.free_id() } else { *watch_id };
        let next = if *start_revision == 0 { cache.revision() + 1 } else { *start_revision };
        let lets = |filter: WatchFilter| !request.filters.contains(&(filter as i32));
        let watch = Watch {
            keys,
            next,
            puts: lets(WatchFilter::NoPut),
            deletes: lets(WatchFilter::NoDelete),
            previous: request.prev_kv,
            fragments: request.fragment,
            progress: request.progress_notify,
            idle: false,
        };
        self.looked_at = self.looked_at.min(next);
        self.watches.insert(id, watch);
        Ok(id)
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// It is time to tell of progress: whoever wanted that and was told nothing since the last time is told now.
    pub(crate) fn tick(&mut self, cache: &Cache) {
        let head = cache.revision();
        for (watch_id, watch) in self.watches.iter_mut().filter(|(_, watch)| watch.progress) {
            if watch.idle && watch.next > head && self.due.len() < MAX_WATCHES {
                self.due.push_back(WatchResponse { watch_id: *watch_id, ..at(head) });
            }
            watch.idle = true;
        }
    }

    /// The next answer; none while the stream has been told everything.
    pub(crate) fn next(&mut self, cache: &Cache) -> Option<WatchResponse> {
        if let Some(due) = self.due.pop_front() {
            return Some(due);
        }
        if self.looked_at <= cache.revision() {
            let behind = self.last.saturating_add(1);
            let ids: Vec<i64> =
                self.watches.range(behind..).chain(self.watches.range(..behind)).map(|(id, _)| *id).collect();
            for id in ids {
                if let Some(answer) = self.next_of(cache, id) {
                    self.last = id;
                    return Some(answer);
                }
            }
            self.looked_at = cache.revision() + 1;
        }
        std::mem::take(&mut self.progress_asked)
            .then(|| WatchResponse { watch_id: NO_WATCH, ..at(cache.revision()) })
    }

    /// The next answer of one watch, of which the log may hold nothing.
    fn next_of(&mut self, cache: &Cache, id: i64) -> Option<WatchResponse> {
        let watch = self.watches.get_mut(&id)?;
        if watch.next > cache.revision() {
            return None;
        }
        if watch.next < cache.first() {
            self.watches.remove(&id);
            return Some(WatchResponse {
                header: Some(ResponseHeader::default()),
                watch_id: id,
                canceled: true,
                compact_revision: cache.first(),
                ..WatchResponse::default()
            });
        }
        let events = watch.collect(cache, &self.view);
        if events.is_empty() {
            return None;
        }
        watch.idle = false;
        let answer = WatchResponse { watch_id: id, events, ..at(watch.next - 1) };
        if watch.fragments && answer.encoded_len() >= FRAGMENT_BYTES {
            self.due.extend(fragments(answer));
            return self.due.pop_front();
        }
        Some(answer)
    }
}

impl Watch {
    /// Events of whole revisions from its place on, which moves behind them.
    fn collect(&mut self, cache: &Cache, view: &View) -> Vec<Bytes> {
        let (mut events, mut bytes, mut revisions) = (Vec::new(), 0, 0);
        for logged in cache.changes_from(self.next) {
            let before = events.len();
            self.events_of(logged, cache, view, &mut events);
            bytes += events[before..].iter().map(Bytes::len).sum::<usize>();
            revisions += usize::from(events.len() > before);
            if bytes >= ANSWER_BYTES || revisions >= ANSWER_REVISIONS {
                self.next = logged.revision + 1;
                return events;
            }
        }
        self.next = cache.revision() + 1;
        events
    }

    fn events_of(&self, logged: &Logged, cache: &Cache, view: &View, events: &mut Vec<Bytes>) {
        for change in logged.changes.iter().filter(|change| self.keys.contains(&change.key)) {
            let before = change.before.as_ref().filter(|record| view.sees(record));
            let is_put = change.now.as_ref().is_some_and(|record| view.sees(record));
            // What was not seen before and is not seen now did not happen.
            if !is_put && before.is_none() || !(if is_put { self.puts } else { self.deletes }) {
                continue;
            }
            let event = event_of(change, is_put, logged.revision);
            // etcd reads what was before at the revision before, which may be compacted.
            let previous = before.filter(|_| self.previous && logged.revision > cache.compacted());
            events.push(previous.map_or_else(|| event.clone(), |record| with_previous(&event, record)));
        }
    }
}

/// A change as a reader sees it: what is taken out of its sight is deleted.
fn event_of(change: &Change, is_put: bool, revision: i64) -> Bytes {
    match change.now {
        Some(_) if !is_put => deletion(&change.key, revision),
        _ => change.event.clone(),
    }
}

/// The beginning of an answer at a revision.
fn at(revision: i64) -> WatchResponse {
    let header = ResponseHeader { revision, ..ResponseHeader::default() };
    WatchResponse { header: Some(header), ..WatchResponse::default() }
}

/// Parts of an answer that are small enough, one event at least in each.
fn fragments(mut whole: WatchResponse) -> Vec<WatchResponse> {
    let events = std::mem::take(&mut whole.events);
    let mut parts: Vec<WatchResponse> = Vec::new();
    let mut size = usize::MAX;
    for event in events {
        // Tag and length of an event take less.
        let takes = event.len() + 8;
        if size.saturating_add(takes) >= FRAGMENT_BYTES {
            parts.push(WatchResponse { fragment: true, ..whole.clone() });
            size = whole.encoded_len() + 2;
        }
        size += takes;
        parts.last_mut().expect("the first event begins one").events.push(event);
    }
    if let Some(last) = parts.last_mut() {
        last.fragment = false;
    }
    parts
}
