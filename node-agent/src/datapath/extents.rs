//! Hands out extents of the slot array: a buddy allocator over `[0, capacity)`.
//!
//! Knows nothing of what stands in the slots. An extent's size is a power of two and it is aligned to its
//! size, so an extent can be found again from its first slot and the number of slots in use.

use std::collections::BTreeSet;

use hashbrown::HashMap;

/// A run of slots that belongs to one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First slot.
    pub(crate) first: u32,
    /// log2 of the number of slots.
    pub(crate) order: u8,
    /// Id of the cluster whose group it is.
    pub(crate) cluster: u16,
}

impl Extent {
    /// The smallest order that holds `count` slots.
    pub(crate) fn order_for(count: u32) -> u8 {
        // Beyond 2^31 there is no power of two; order 32 is never to be had.
        let order = count.max(1).checked_next_power_of_two().map_or(u32::BITS, u32::trailing_zeros);
        u8::try_from(order).expect("a u32 has at most 32 trailing zeros")
    }

    /// Number of slots.
    pub(crate) fn capacity(self) -> u32 {
        1 << self.order
    }
}

/// The free extents of a slot array.
#[derive(Debug)]
pub(crate) struct Extents {
    /// First slots of the free extents by order.
    free: Vec<BTreeSet<u32>>,
    free_slots: u32,
    /// Slots that are not free, by cluster.
    taken: HashMap<u16, u32>,
}

impl Extents {
    /// All of `capacity` slots are free. At most 2^31 slots are used.
    pub(crate) fn new(capacity: u32) -> Self {
        let capacity = capacity.min(1 << 31);
        let free = vec![BTreeSet::new(); 32];
        let mut extents = Self { free, free_slots: capacity, taken: HashMap::new() };
        let mut first = 0;
        for order in (0..32_u8).rev() {
            if capacity & (1 << order) != 0 {
                extents.free[usize::from(order)].insert(first);
                first += 1 << order;
            }
        }
        extents
    }

    /// Number of free slots; fragmentation may still refuse an extent of that size.
    pub(crate) fn free_slots(&self) -> u32 {
        self.free_slots
    }

    /// Number of slots in the cluster's extents, whether they are in use or wait for their grace period.
    pub(crate) fn slots_of(&self, cluster: u16) -> u32 {
        self.taken.get(&cluster).copied().unwrap_or(0)
    }

    /// Takes an extent of at least `count` slots for a cluster.
    pub(crate) fn allocate(&mut self, count: u32, cluster: u16) -> Option<Extent> {
        let order = Extent::order_for(count);
        let found = (order..32).find(|o| !self.free[usize::from(*o)].is_empty())?;
        let first = self.free[usize::from(found)].pop_first().expect("the order was found non-empty");
        for smaller in (order..found).rev() {
            self.free[usize::from(smaller)].insert(first + (1 << smaller));
        }
        let extent = Extent { first, order, cluster };
        self.count(extent);
        Some(extent)
    }

    /// Takes exactly the given extent, as found in the maps; false where any part of it is taken already or
    /// it is not aligned to its size.
    pub(crate) fn reserve(&mut self, extent: Extent) -> bool {
        if extent.order >= 32 || !extent.first.is_multiple_of(extent.capacity()) {
            return false;
        }
        let Some(found) = (extent.order..32).find(|order| {
            let block = extent.first & !((1_u32 << order) - 1);
            self.free[usize::from(*order)].contains(&block)
        }) else {
            return false;
        };
        let mut block = extent.first & !((1_u32 << found) - 1);
        self.free[usize::from(found)].remove(&block);
        for smaller in (extent.order..found).rev() {
            let upper = block + (1 << smaller);
            if extent.first >= upper {
                self.free[usize::from(smaller)].insert(block);
                block = upper;
            } else {
                self.free[usize::from(smaller)].insert(upper);
            }
        }
        self.count(extent);
        true
    }

    fn count(&mut self, extent: Extent) {
        self.free_slots -= extent.capacity();
        *self.taken.entry(extent.cluster).or_default() += extent.capacity();
    }

    /// Gives an extent back.
    pub(crate) fn release(&mut self, extent: Extent) {
        self.free_slots += extent.capacity();
        if let Some(taken) = self.taken.get_mut(&extent.cluster) {
            *taken -= extent.capacity();
        }
        let Extent { mut first, mut order, .. } = extent;
        while order < 31 {
            let buddy = first ^ (1 << order);
            if !self.free[usize::from(order)].remove(&buddy) {
                break;
            }
            first &= !(1 << order);
            order += 1;
        }
        self.free[usize::from(order)].insert(first);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_capacity_that_is_no_power_of_two_is_used_whole() {
        let mut extents = Extents::new(13);
        let taken: Vec<_> = std::iter::from_fn(|| extents.allocate(1, 1)).collect();
        assert_eq!(taken.len(), 13);
        assert_eq!(extents.free_slots(), 0);
    }

    fn extent(first: u32, order: u8) -> Extent {
        Extent { first, order, cluster: 1 }
    }

    #[test]
    fn a_reserved_extent_is_not_handed_out() {
        let mut extents = Extents::new(16);
        assert!(extents.reserve(extent(4, 2)));
        assert!(!extents.reserve(extent(4, 0)), "taken");
        assert!(!extents.reserve(extent(0, 3)), "part of it is taken");
        assert!(!extents.reserve(extent(1, 1)), "not aligned");
        assert!(!extents.reserve(extent(16, 0)), "outside");
        assert_eq!(extents.free_slots(), 12);
        assert_eq!(extents.allocate(8, 1), Some(extent(8, 3)));
        assert_eq!(extents.slots_of(1), 12);
    }

    proptest! {
        #[test]
        fn extents_never_overlap_and_all_come_back(
            capacity in 1_u32..300,
            steps in prop::collection::vec((any::<bool>(), 1_u32..40), 1..100),
        ) {
            let mut extents = Extents::new(capacity);
            let mut held: Vec<Extent> = Vec::new();
            for (take, size) in steps {
                if take {
                    if let Some(extent) = extents.allocate(size, u16::try_from(size % 3).expect("small")) {
                        prop_assert!(extent.capacity() >= size);
                        prop_assert!(extent.first + extent.capacity() <= capacity);
                        for other in &held {
                            let apart = extent.first + extent.capacity() <= other.first
                                || other.first + other.capacity() <= extent.first;
                            prop_assert!(apart, "{extent:?} overlaps {other:?}");
                        }
                        held.push(extent);
                    }
                } else if !held.is_empty() {
                    let index = usize::try_from(size).expect("small") % held.len();
                    extents.release(held.swap_remove(index));
                }
                let used: u32 = held.iter().map(|extent| extent.capacity()).sum();
                prop_assert_eq!(extents.free_slots(), capacity - used);
                prop_assert_eq!((0..3).map(|cluster| extents.slots_of(cluster)).sum::<u32>(), used);
            }
            // A copy that reserves what is held agrees about what is left.
            let mut copy = Extents::new(capacity);
            for extent in &held {
                prop_assert!(copy.reserve(*extent));
            }
            prop_assert_eq!(copy.free_slots(), extents.free_slots());
            for extent in held.drain(..) {
                extents.release(extent);
            }
            prop_assert_eq!(extents.free, Extents::new(capacity).free);
        }
    }
}
