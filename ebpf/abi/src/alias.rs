//! Choosing a group by weight with one random word and no loop: Vose's alias method (IEEE Transactions on
//! Software Engineering 17(9), 1991), tables built by user space, read by the programs.
//!
//! The random word names one of sixteen columns; each column belongs to one group up to a threshold and to one
//! other group, its alias, above it. The thresholds are such that every group of the first tier gets its share.
//!
//! Of two groups, one threshold chooses.

use crate::entry::INLINE_GROUPS;
use crate::group::{Group, MAX_GROUPS};

/// Bits of a cell and of a random word that name a column.
const COLUMN_BITS: u32 = 4;
const _: () = assert!(1 << COLUMN_BITS == MAX_GROUPS);
/// A column that belongs to one group alone.
const FULL: u32 = (1 << (u32::BITS - COLUMN_BITS)) - 1;

/// The cells of a service entry for its groups, which are sorted by tier: shares of the first tier only,
/// exact to 2^-28. Groups beyond [`MAX_GROUPS`] get nothing. If no group of the first tier has a weight, the
/// cells name group 0.
pub fn alias_cells(groups: &[Group]) -> [u32; MAX_GROUPS] {
    let mut left = scaled_weights(groups);
    let total = left.iter().sum::<u64>() / MAX_GROUPS as u64;
    let mut cells = [0; MAX_GROUPS];
    if total == 0 {
        return cells;
    }
    let mut open = [true; MAX_GROUPS];
    // Every round fills one column: an open one with less than a column's worth is topped up by one with more.
    while let Some(small) = (0..MAX_GROUPS).find(|&column| open[column] && left[column] < total) {
        let Some(large) = (0..MAX_GROUPS).find(|&column| open[column] && left[column] > total) else { break };
        let threshold = (left[small] << (u32::BITS - COLUMN_BITS)) / total;
        cells[small] = (threshold as u32) << COLUMN_BITS | large as u32;
        left[large] -= total - left[small];
        open[small] = false;
    }
    for column in (0..MAX_GROUPS).filter(|&column| open[column]) {
        cells[column] = FULL << COLUMN_BITS | column as u32;
    }
    cells
}

/// The weights of the first tier's groups, times the number of columns.
fn scaled_weights(groups: &[Group]) -> [u64; MAX_GROUPS] {
    let mut scaled = [0; MAX_GROUPS];
    let tier = groups.first().map_or(0, |group| group.tier);
    for (column, group) in scaled.iter_mut().zip(groups).filter(|(_, group)| group.tier == tier) {
        *column = u64::from(group.weight) * MAX_GROUPS as u64;
    }
    scaled
}

/// The threshold of a first group that is always chosen.
const ALWAYS: u32 = 1 << 31;

/// What lies below chooses the first of two groups, whose order is by tier: shares of the first tier only, exact to
/// 2^-31. If no group of the first tier has a weight, it is the first.
pub(crate) fn threshold(groups: [Group; INLINE_GROUPS]) -> u32 {
    let [first, second] = groups;
    let other = if second.tier == first.tier { u64::from(second.weight) } else { 0 };
    let share = (u64::from(first.weight) * u64::from(ALWAYS)).checked_div(u64::from(first.weight) + other);
    share.map_or(ALWAYS, |share| share as u32)
}

/// Which of two groups a random word chooses.
#[inline(always)]
pub(crate) const fn one_of_two(threshold: u32, random: u32) -> usize {
    (random >> 1 >= threshold) as usize
}

/// The column that a random word names.
#[inline(always)]
pub(crate) const fn column(random: u32) -> usize {
    (random & (MAX_GROUPS as u32 - 1)) as usize
}

/// The group that a random word chooses, given the cell of its column; below [`MAX_GROUPS`] whatever the cell.
#[inline(always)]
pub(crate) const fn chosen(cell: u32, random: u32) -> usize {
    let is_own = random >> COLUMN_BITS < cell >> COLUMN_BITS;
    column(if is_own { random } else { cell })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;
    use crate::MAX_WEIGHT;

    fn group(tier: u8, weight: u32) -> Group {
        Group { cluster: 1, tier, weight, count: 1, ..Group::default() }
    }

    /// The share of every group in 2^32 random words, by adding up the columns.
    fn shares(cells: &[u32; MAX_GROUPS]) -> [f64; MAX_GROUPS] {
        let mut shares = [0.0; MAX_GROUPS];
        for (column, cell) in cells.iter().enumerate() {
            let own = f64::from(cell >> COLUMN_BITS) / f64::from(1u32 << (u32::BITS - COLUMN_BITS));
            shares[column] += own / MAX_GROUPS as f64;
            shares[(cell & 15) as usize] += (1.0 - own) / MAX_GROUPS as f64;
        }
        shares
    }

    fn weights() -> impl Strategy<Value = Vec<u32>> {
        let weight = prop_oneof![Just(0), 1..20u32, 0..=MAX_WEIGHT, Just(MAX_WEIGHT)];
        proptest::collection::vec(weight, 1..=MAX_GROUPS)
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights(weights in weights(), others in 0..4usize) {
            let mut groups: Vec<Group> = weights.iter().map(|&weight| group(1, weight)).collect();
            groups.extend((0..others).map(|_| group(2, 1000)));
            groups.truncate(MAX_GROUPS);
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            let shares = shares(&alias_cells(&groups));
            prop_assume!(total > 0.0);
            for (index, share) in shares.iter().enumerate() {
                let wanted = weights.get(index).map_or(0.0, |&weight| f64::from(weight) / total);
                prop_assert!((share - wanted).abs() < 1e-6, "group {index}: {share} for {wanted}");
            }
        }

        #[test]
        fn no_group_without_weight_is_ever_chosen(weights in weights(), random in any::<u32>()) {
            prop_assume!(weights.iter().any(|&weight| weight > 0));
            let groups: Vec<Group> = weights.iter().map(|&weight| group(0, weight)).collect();
            let cells = alias_cells(&groups);
            let chosen = chosen(cells[column(random)], random);
            prop_assert!(weights.get(chosen).is_some_and(|&weight| weight > 0));
        }

        #[test]
        fn any_cell_names_a_group_in_bounds(cell in any::<u32>(), random in any::<u32>()) {
            prop_assert!(chosen(cell, random) < MAX_GROUPS);
        }
    }

    proptest! {
        #[test]
        fn the_share_of_the_first_of_two_follows_the_weights(
            first in 0..=MAX_WEIGHT, second in 0..=MAX_WEIGHT, same_tier in any::<bool>()
        ) {
            let threshold = threshold([group(1, first), group(if same_tier { 1 } else { 2 }, second)]);
            let share = f64::from(threshold) / f64::from(ALWAYS);
            let other = if same_tier { f64::from(second) } else { 0.0 };
            prop_assume!(f64::from(first) + other > 0.0);
            prop_assert!((share - f64::from(first) / (f64::from(first) + other)).abs() < 1e-9);
        }

        #[test]
        fn a_group_that_stands_alone_or_without_weight_is_chosen_always_or_never(random in any::<u32>()) {
            prop_assert_eq!(one_of_two(threshold([group(0, 7), group(0, 0)]), random), 0);
            prop_assert_eq!(one_of_two(threshold([group(0, 7), group(1, 7)]), random), 0);
            prop_assert_eq!(one_of_two(threshold([group(0, 0), group(0, 7)]), random), 1);
            prop_assert_eq!(one_of_two(threshold([group(0, 0), group(1, 7)]), random), 0);
        }
    }

    #[test]
    fn no_weight_at_all_names_group_0() {
        assert_eq!(alias_cells(&[group(0, 0), group(1, 5)]), [0; MAX_GROUPS]);
        assert_eq!(alias_cells(&[]), [0; MAX_GROUPS]);
    }
}
