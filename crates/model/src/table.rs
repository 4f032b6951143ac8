//! What a list and the changes after it add up to: the one list/watch state machine of sources and peers.
//!
//! A list is applied whole when it ends. Entries that it no longer holds go then, but only on complete
//! knowledge: until that they stay, marked stale, and [`Table::drop_stale`] removes them. Never does I/O.

use imbl::{OrdMap, OrdSet};

/// Whether what is not said counts as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// The source has said everything: what it does not mention does not exist.
    Complete,
    /// The source may have more to say: nothing is deleted.
    Partial,
}

/// Entries by key. Cloning is cheap; values are best `Arc`s.
#[derive(Clone, Debug)]
pub struct Table<K: Ord, V> {
    entries: OrdMap<K, V>,
    /// The list being received.
    listing: Option<OrdMap<K, V>>,
    /// Entries that were deleted or not listed while knowledge was partial.
    stale: OrdSet<K>,
}

impl<K: Ord + Clone, V: Clone + PartialEq> Default for Table<K, V> {
    fn default() -> Self {
        Self { entries: OrdMap::new(), listing: None, stale: OrdSet::new() }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Table<K, V> {
    /// Begins a list. One that was begun before and has not ended is forgotten.
    pub fn begin_list(&mut self) {
        self.listing = Some(OrdMap::new());
    }

    /// An entry was listed or changed. During a list it becomes visible when that ends. Returns whether
    /// something visible changed.
    pub fn put(&mut self, key: K, value: V) -> bool {
        if let Some(listing) = &mut self.listing {
            // An unchanged value keeps its identity, so that comparing two snapshots stays cheap.
            let same = self.entries.get(&key).filter(|old| **old == value).cloned();
            listing.insert(key, same.unwrap_or(value));
            return false;
        }
        self.stale.remove(&key);
        if self.entries.get(&key) == Some(&value) {
            return false;
        }
        self.entries.insert(key, value);
        true
    }

    /// An entry exists but its new value is no good: the last good one, if any, stays.
    pub fn keep(&mut self, key: &K) {
        match &mut self.listing {
            Some(listing) => {
                if let (false, Some(old)) = (listing.contains_key(key), self.entries.get(key)) {
                    listing.insert(key.clone(), old.clone());
                }
            }
            None => {
                self.stale.remove(key);
            }
        }
    }

    /// An entry was deleted. Returns whether something visible changed.
    pub fn delete(&mut self, key: &K, knowledge: Knowledge) -> bool {
        if let Some(listing) = &mut self.listing {
            listing.remove(key);
            return false;
        }
        match knowledge {
            Knowledge::Complete => {
                self.stale.remove(key);
                self.entries.remove(key).is_some()
            }
            Knowledge::Partial => {
                if self.entries.contains_key(key) {
                    self.stale.insert(key.clone());
                }
                false
            }
        }
    }

    /// Ends a list and applies it whole. Returns the keys whose visible value changed; none when no list was
    /// begun.
    pub fn end_list(&mut self, knowledge: Knowledge) -> Vec<K> {
        let Some(mut new) = self.listing.take() else { return Vec::new() };
        let old = std::mem::take(&mut self.entries);
        self.stale = OrdSet::new();
        if knowledge == Knowledge::Partial {
            for (key, value) in &old {
                if !new.contains_key(key) {
                    new.insert(key.clone(), value.clone());
                    self.stale.insert(key.clone());
                }
            }
        }
        let changed = changed_keys(&old, &new);
        self.entries = new;
        changed
    }

    /// Knowledge has become complete without a list: what is stale goes. Returns the keys that went.
    pub fn drop_stale(&mut self) -> Vec<K> {
        let stale: Vec<K> = std::mem::take(&mut self.stale).into_iter().collect();
        for key in &stale {
            self.entries.remove(key);
        }
        stale
    }

    /// What is visible now.
    pub fn entries(&self) -> &OrdMap<K, V> {
        &self.entries
    }

    /// The value of a key in the list that is being received, else the visible one.
    pub(crate) fn latest(&self, key: &K) -> Option<&V> {
        self.listing.as_ref().unwrap_or(&self.entries).get(key)
    }

    /// The entry with the last key, in the list that is being received, else among the visible ones.
    pub(crate) fn last(&self) -> Option<(&K, &V)> {
        self.listing.as_ref().unwrap_or(&self.entries).get_max().map(|(key, value)| (key, value))
    }

    /// Forgets an entry for want of room, in the list that is being received, else among the visible ones.
    pub(crate) fn evict(&mut self, key: &K) {
        self.stale.remove(key);
        self.listing.as_mut().unwrap_or(&mut self.entries).remove(key);
    }

    /// The first key that is not less than `from`, if it fits; among what is being listed or what is visible.
    pub(crate) fn find_key(&self, from: &K, fits: impl Fn(&K) -> bool) -> Option<&K> {
        let all = self.listing.iter().chain([&self.entries]);
        all.filter_map(|entries| entries.range(from.clone()..).next())
            .map(|(key, _)| key)
            .find(|key| fits(key))
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }
}

fn changed_keys<K: Ord + Clone, V: Clone + PartialEq>(old: &OrdMap<K, V>, new: &OrdMap<K, V>) -> Vec<K> {
    use imbl::ordmap::DiffItem;
    old.diff(new)
        .map(|item| match item {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => {
                key.clone()
            }
        })
        .collect()
}
