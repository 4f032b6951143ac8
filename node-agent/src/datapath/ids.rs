//! Small integers that stand for something in the maps.

/// Hands out ids from `1` to `capacity - 1`.
#[derive(Debug)]
pub(crate) struct Ids {
    next: u32,
    capacity: u32,
    free: Vec<u32>,
    /// Ids from `next` on that were in use at the start, the greatest first.
    ahead: Vec<u32>,
}

impl Ids {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { next: 1, capacity, free: Vec::new(), ahead: Vec::new() }
    }

    /// All ids but the ones in use, in any order. Whoever wrote the maps may have used any number, so that the gaps
    /// between them are walked only as far as ids are taken.
    pub(crate) fn restored(capacity: u32, mut used: Vec<u32>) -> Self {
        used.retain(|id| *id != 0);
        used.sort_unstable_by(|one, other| other.cmp(one));
        used.dedup();
        Self { ahead: used, ..Self::new(capacity) }
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop() {
            return Some(id);
        }
        while self.next < self.capacity {
            let id = self.next;
            self.next += 1;
            if self.ahead.last() != Some(&id) {
                return Some(id);
            }
            self.ahead.pop();
        }
        None
    }

    /// Gives an id back; one that the map has no room for is forgotten.
    pub(crate) fn release(&mut self, id: u32) {
        if (1..self.capacity).contains(&id) {
            self.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_ids_are_not_handed_out_again() {
        let mut ids = Ids::restored(6, vec![4, 2]);
        let taken: Vec<_> = std::iter::from_fn(|| ids.take()).collect();
        assert_eq!(taken, [1, 3, 5]);
        ids.release(2);
        assert_eq!(ids.take(), Some(2));
        assert_eq!(ids.take(), None);
    }

    #[test]
    fn an_id_given_back_before_its_turn_is_handed_out_once() {
        let mut ids = Ids::restored(6, vec![4, 2]);
        ids.release(4);
        let taken: Vec<_> = std::iter::from_fn(|| ids.take()).collect();
        assert_eq!(taken, [4, 1, 3, 5]);
    }

    #[test]
    fn wild_ids_cost_nothing_and_are_never_handed_out() {
        let mut ids = Ids::restored(u32::MAX, vec![u32::MAX, u32::MAX - 1, 0]);
        assert!(ids.free.is_empty());
        ids.release(u32::MAX);
        ids.release(0);
        assert_eq!((ids.take(), ids.take()), (Some(1), Some(2)));
    }
}
