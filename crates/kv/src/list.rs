//! Lists of a peer's records: of everything, in an order in which a cut leaves the most useful part, and of single services.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use mesh_model::name::ServiceName;
use mesh_model::record::PREFIX;
use tokio::time::Instant;

use crate::fault::CallError;
use crate::raw::RawEntry;
use crate::session::{Entry, Session};
use crate::watch::{Event, PeerWatch};

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

/// How much of a list is read, and where it was cut.
struct Reading {
    /// So many more records may be read.
    left: u64,
    /// The last record that was read.
    last: Option<Place>,
    cut: Option<Place>,
}

impl Reading {
    /// The records of a page that may be read. The first that may not ends the list.
    fn take(&mut self, mut page: Vec<RawEntry>) -> Vec<Entry> {
        let count = page.len() as u64;
        let is_cut = count > self.left;
        if is_cut {
            page.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        }
        self.left = self.left.saturating_sub(count);
        let entries: Vec<Entry> = page.into_iter().map(Into::into).collect();
        self.last = entries.last().map(|entry| Place::of(&entry.key)).or_else(|| self.last.take());
        if is_cut {
            // Without a single record everything lies beyond.
            self.cut = Some(self.last.clone().unwrap_or_else(|| Place::of("")));
        }
        entries
    }
}

impl PeerWatch {
    pub(crate) async fn list(
        &mut self,
        session: &Session,
        sink: &mut (impl FnMut(Event) + Send),
    ) -> Result<(), CallError> {
        sink(Event::ListBegin);
        self.cut = None;
        let records = self.max_records;
        let mut reading = Reading { left: records, last: None, cut: None };
        let ranges = PARTS.map(|(from, end)| (format!("{PREFIX}{from}"), format!("{PREFIX}{end}")));
        let page = |page| {
            let entries = reading.take(page);
            if reading.cut.is_some() {
                sink(Event::ListCut { records });
            }
            if !entries.is_empty() {
                sink(Event::ListPage(entries));
            }
            if reading.cut.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let revision = self.raw.list(session, &ranges, page).await?;
        self.cut = reading.cut;
        self.listed_at = Some(Instant::now());
        sink(Event::ListEnd { revision });
        Ok(())
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
                let mut pages = session.list_range("reading a service", &from, &end).at(self.raw.revision());
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
