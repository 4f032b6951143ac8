//! Small integers that stand for something in the maps.

/// Hands out ids from `1` to `capacity - 1`.
#[derive(Debug)]
pub(crate) struct Ids {
    next: u32,
    capacity: u32,
    free: Vec<u32>,
}

impl Ids {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { next: 1, capacity, free: Vec::new() }
    }

    /// All ids but the ones in use, in any order.
    pub(crate) fn restored(capacity: u32, mut used: Vec<u32>) -> Self {
        used.sort_unstable();
        used.dedup();
        let next = used.last().map_or(1, |last| last.saturating_add(1));
        let free = (1..next).rev().filter(|id| used.binary_search(id).is_err()).collect();
        Self { next, capacity, free }
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop() {
            return Some(id);
        }
        let id = (self.next < self.capacity).then_some(self.next)?;
        self.next += 1;
        Some(id)
    }

    pub(crate) fn release(&mut self, id: u32) {
        self.free.push(id);
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
    }
}
