//! Values that many services and slices have in common, kept once.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Gives equal values the same place. Forgets what nobody uses any more, so it never holds much more than that.
#[derive(Debug)]
pub(super) struct Pool<T> {
    values: BTreeSet<Arc<T>>,
    /// How many values there may be before the unused ones go.
    limit: usize,
}

/// Below this nobody looks for unused values.
const SMALL: usize = 64;

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { values: BTreeSet::new(), limit: SMALL }
    }
}

impl<T: Ord> Pool<T> {
    pub(super) fn share(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return known.clone();
        }
        if self.values.len() >= self.limit {
            self.values.retain(|known| Arc::strong_count(known) > 1);
            self.limit = (self.values.len() * 2).max(SMALL);
        }
        let value = Arc::new(value);
        self.values.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_unused_ones_go() {
        let mut pool = Pool::default();
        let kept: Vec<_> = (0..10).map(|number| pool.share(number)).collect();
        assert!(Arc::ptr_eq(&kept[3], &pool.share(3)));
        (0..10_000).for_each(|number| drop(pool.share(number)));
        assert!(pool.values.len() <= SMALL, "{}", pool.values.len());
        assert!(Arc::ptr_eq(&kept[3], &pool.share(3)));
    }
}
