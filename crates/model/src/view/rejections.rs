//! What is shown of rejections: a count by reason and the last texts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::record::{Reason, Rejection};

/// How many texts are kept.
pub const RECENT_REJECTIONS: usize = 16;

/// Counts and last texts; bounded, whatever a peer writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    by_reason: BTreeMap<Reason, u64>,
    recent: VecDeque<Arc<str>>,
}

impl Rejections {
    /// Counts `count` rejections of which `first` is shown.
    pub fn add(&mut self, first: &Rejection, count: u64) {
        *self.by_reason.entry(first.reason()).or_default() += count;
        let text: Arc<str> = match count {
            1 => first.to_string().into(),
            _ => format!("{first} (and {} more)", count.saturating_sub(1)).into(),
        };
        // A peer that repeats one fault must not push the others out.
        self.recent.retain(|known| *known != text);
        if self.recent.len() == RECENT_REJECTIONS {
            self.recent.pop_front();
        }
        self.recent.push_back(text);
    }

    pub(crate) fn by_reason(&self) -> &BTreeMap<Reason, u64> {
        &self.by_reason
    }

    /// Oldest first.
    pub(crate) fn recent(&self) -> Vec<Arc<str>> {
        self.recent.iter().cloned().collect()
    }
}
