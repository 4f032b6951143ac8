//! Changes that became visible in etcd at once.

use std::collections::BTreeMap;

use super::PeerView;
use crate::record::RecordKey;

impl PeerView {
    /// Applies the changes of one or more whole revisions; `None` is a deletion.
    ///
    /// What counts is which `synced` markers stand after all of them, wherever among the changes they come or go: a
    /// deletion of everything takes endpoints and services before the marker, and is still no word of the exporter.
    pub fn apply<'a>(&mut self, changes: impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone) {
        let markers: BTreeMap<_, _> = changes.clone().filter(|(key, _)| is_marker(key)).collect();
        let (come, gone): (Vec<_>, Vec<_>) = markers.into_iter().partition(|(_, value)| value.is_some());
        let records = changes.filter(|(key, _)| !is_marker(key));
        for (key, value) in gone.into_iter().chain(records).chain(come) {
            match value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
    }
}

fn is_marker(key: &str) -> bool {
    // Most keys are none, and parsing costs.
    key.contains("/synced/") && matches!(key.parse(), Ok(RecordKey::Synced(..)))
}
