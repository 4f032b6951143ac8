//! The order in which a peer's records are listed, so that a cut leaves the most useful part. Never asks for them.

use mesh_model::record::PREFIX;

use crate::entry::{Entry, RawEntry};

/// The parts of the key space in the order in which they are listed: what is small and decides on the rest comes first.
const PARTS: [(&str, &str); 5] = [
    ("synced/", "\u{7f}"),
    ("", "endpoints/"),
    ("services/", "synced/"),
    ("endpoints/", "nodes/"),
    ("nodes/", "services/"),
];

/// The parts as ranges of keys: from, and where it ends.
pub(crate) fn ranges() -> [(String, String); PARTS.len()] {
    PARTS.map(|(from, end)| (format!("{PREFIX}{from}"), format!("{PREFIX}{end}")))
}

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
pub(crate) struct Reading {
    /// So many more records may be read.
    left: u64,
    /// The last record that was read.
    last: Option<Place>,
    cut: Option<Place>,
}

impl Reading {
    /// Of which so many records may be read.
    pub(crate) fn of(records: u64) -> Self {
        Self { left: records, last: None, cut: None }
    }

    /// Behind which it was cut, if it was.
    pub(crate) fn cut(&self) -> Option<&Place> {
        self.cut.as_ref()
    }

    /// The records of a page that may be read. The first that may not ends the list.
    pub(crate) fn take(&mut self, mut page: Vec<RawEntry>) -> Vec<Entry> {
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
