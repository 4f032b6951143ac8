//! Lists of a peer's records: of everything, in an order in which a cut leaves the most useful part, and of single services.

use std::collections::BTreeSet;

use mesh_model::name::ServiceName;
use mesh_model::record::PREFIX;
use tokio::time::Instant;

use crate::fault::{CallError, CallReason};
use crate::session::{PAGE_KEYS, Page, Session};
use crate::watch::{Event, MIN_PAGE_KEYS, PeerWatch};

/// The parts of the key space in the order in which they are listed: what is small and decides on the rest comes first.
const PARTS: [(&str, &str); 5] = [
    ("synced/", "\u{7f}"),
    ("", "endpoints/"),
    ("services/", "synced/"),
    ("endpoints/", "nodes/"),
    ("nodes/", "services/"),
];

/// A key's place in the order of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    part: usize,
    key: String,
}

impl Place {
    pub(crate) fn of(key: &str) -> Self {
        let below = key.strip_prefix(PREFIX).unwrap_or(key);
        let part = PARTS.iter().position(|(from, end)| (*from..*end).contains(&below));
        Self { part: part.unwrap_or(PARTS.len()), key: key.to_owned() }
    }
}

impl PeerWatch {
    pub(crate) async fn list(
        &mut self,
        session: &Session,
        sink: &mut (impl FnMut(Event) + Send),
    ) -> Result<i64, CallError> {
        sink(Event::ListBegin);
        self.landmarks.clear();
        self.position = None;
        self.cut = None;
        let (mut revision, mut left) = (None, self.max_records);
        for (from, end) in PARTS {
            let (from, end) = (format!("{PREFIX}{from}"), format!("{PREFIX}{end}"));
            let pages = session.list_range("listing the records", &from, &end);
            let mut pages = pages.with_limit(self.page_keys).at(revision);
            while let Some(page) = pages.next().await.map_err(|error| self.slower(error))? {
                revision = Some(page.revision);
                let page = self.cut(page, &mut left, sink);
                self.take(page, sink);
                if self.cut.is_some() {
                    break;
                }
            }
            if self.cut.is_some() {
                break;
            }
        }
        self.page_keys = (self.page_keys * 2).min(PAGE_KEYS);
        self.listed_at = Some(Instant::now());
        let revision = revision.unwrap_or_default();
        self.position = Some(revision);
        sink(Event::ListEnd { revision });
        Ok(revision)
    }

    /// A page that takes too long over this path is tried smaller next time.
    fn slower(&mut self, error: CallError) -> CallError {
        if matches!(error.reason, CallReason::Deadline) {
            self.page_keys = (self.page_keys / 8).max(MIN_PAGE_KEYS);
        }
        error
    }

    /// Ends the list with the last record that may be read.
    fn cut(&mut self, mut page: Page, left: &mut u64, sink: &mut (impl FnMut(Event) + Send)) -> Page {
        let count = page.entries.len() as u64;
        if count > *left {
            page.entries.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            let last = page.entries.last().map(|entry| Place::of(&entry.key));
            // Without a single record everything lies beyond.
            self.cut = Some(last.or_else(|| self.last.clone()).unwrap_or_else(|| Place::of("")));
            sink(Event::ListCut { records: self.max_records });
        }
        self.last = page.entries.last().map(|entry| Place::of(&entry.key)).or_else(|| self.last.take());
        *left = left.saturating_sub(count);
        page
    }

    fn take(&mut self, page: Page, sink: &mut (impl FnMut(Event) + Send)) {
        for entry in &page.entries {
            self.note(&entry.key, &entry.value);
            self.landmarks.see(&entry.key, entry.mod_revision, Some(&entry.value));
        }
        if !page.entries.is_empty() {
            sink(Event::ListPage(page.entries));
        }
    }

    /// Reads services at the revision that is known, so that the changes go on behind them.
    pub(crate) async fn read(
        &mut self,
        session: &Session,
        services: BTreeSet<ServiceName>,
        sink: &mut (impl FnMut(Event) + Send),
    ) -> Result<(), CallError> {
        let (mut entries, mut left) = (Vec::new(), self.max_records);
        for service in &services {
            for part in ["services", "endpoints"] {
                let key = format!("{PREFIX}{part}/{}/{service}", self.cluster);
                let end = if part == "services" { format!("{key}\0") } else { format!("{key}0") };
                let from = if part == "services" { key } else { format!("{key}/") };
                let mut pages = session.list_range("reading a service", &from, &end).at(self.position);
                while let Some(page) = pages.next().await? {
                    let count = page.entries.len() as u64;
                    if count > left {
                        break;
                    }
                    left -= count;
                    entries.extend(page.entries);
                }
            }
        }
        sink(Event::Read { services, entries });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_place_and_endpoints_come_behind_services() {
        let keys = [
            "synced/a/services",
            "alive/a",
            "clusters/a",
            "services/a/ns/s",
            "endpoints/a/ns/s/1",
            "nodes/a/n",
        ];
        let places: Vec<Place> = keys.iter().map(|key| Place::of(&format!("{PREFIX}{key}"))).collect();
        assert!(places.is_sorted(), "{places:?}");
        assert!(places.iter().all(|place| place.part < PARTS.len()));
        assert!(Place::of(&format!("{PREFIX}zzz")).part < PARTS.len());
    }

    #[test]
    fn the_parts_are_the_whole_key_space() {
        let mut parts = PARTS;
        parts.sort_unstable();
        assert!(parts.windows(2).all(|pair| pair[0].1 == pair[1].0), "{parts:?}");
        assert_eq!((parts[0].0, parts[4].1), ("", "\u{7f}"));
    }
}
