//! Which faults make up a run: every single one, a covering set of pairs, or all pairs.
//!
//! A failure that takes 20 s happens in both clusters at the same time, so that the wait is shared.

use super::{Failure, Fault, Round, Victim};

/// The clusters in which it happens, in turn.
pub const CLUSTERS: [&str; 2] = ["hoth", "yavin"];

/// Every failure of every process, alone in its cluster; alone in the mesh, too, where it is over soon.
pub fn singles() -> Vec<Round> {
    let of = |failure: Failure| Victim::ALL.map(|victim| vec![(victim, failure)]);
    let quick = Failure::ALL.into_iter().filter(|failure| *failure != Failure::Freeze);
    let mut rounds: Vec<_> = quick.flat_map(of).collect();
    // So that the processes of either cluster get their share.
    let alone =
        rounds.drain(..).zip(CLUSTERS.into_iter().cycle()).map(|(cell, cluster)| placed(cluster, &cell));
    let mut rounds: Vec<_> = alone.collect();
    rounds.extend(side_by_side(&of(Failure::Freeze)));
    rounds
}

/// Pairs of faults in one cluster: every two victims and every two failures meet at least once.
pub fn covering_pairs() -> Vec<Round> {
    let victims = pairs(&Victim::ALL);
    let mut failures = pairs(&Failure::ALL);
    failures.extend(Failure::ALL.map(|failure| (failure, failure)));
    let cell = |(index, (one, other)): (usize, &(Failure, Failure))| {
        let (first, second) = victims[index % victims.len()];
        // The other way round in the next turn through the victims.
        let (one, other) =
            if (index / victims.len()).is_multiple_of(2) { (one, other) } else { (other, one) };
        vec![(first, *one), (second, *other)]
    };
    side_by_side(&failures.iter().enumerate().map(cell).collect::<Vec<_>>())
}

/// All pairs of faults in one cluster.
pub fn all_pairs() -> Vec<Round> {
    let mut cells = Vec::new();
    for (first, second) in pairs(&Victim::ALL) {
        for one in Failure::ALL {
            cells.extend(Failure::ALL.map(|other| vec![(first, one), (second, other)]));
        }
    }
    side_by_side(&cells)
}

type Cell = Vec<(Victim, Failure)>;

fn placed(cluster: &'static str, cell: &Cell) -> Round {
    Round(
        cell.iter().map(|(victim, failure)| Fault { cluster, victim: *victim, failure: *failure }).collect(),
    )
}

/// Two cells at a time, one in each cluster; those with a freeze together.
fn side_by_side(cells: &[Cell]) -> Vec<Round> {
    let freezes = |cell: &&Cell| cell.iter().any(|(_, failure)| *failure == Failure::Freeze);
    let (slow, quick): (Vec<&Cell>, Vec<&Cell>) = cells.iter().partition(freezes);
    let beside = |cells: &[&Cell]| {
        let placed = cells.iter().zip(CLUSTERS).map(|(cell, cluster)| placed(cluster, cell).0);
        Round(placed.flatten().collect())
    };
    quick.chunks(CLUSTERS.len()).chain(slow.chunks(CLUSTERS.len())).map(beside).collect()
}

fn pairs<T: Copy>(all: &[T]) -> Vec<(T, T)> {
    let later = |(index, one): (usize, &T)| {
        let one = *one;
        all[index + 1..].iter().map(move |other| (one, *other)).collect::<Vec<_>>()
    };
    all.iter().enumerate().flat_map(later).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The cells of rounds: what happens in one cluster at a time.
    fn cells(rounds: &[Round]) -> Vec<Vec<(Victim, Failure)>> {
        let of = |round: &Round, cluster| {
            let here = round.0.iter().filter(move |fault| fault.cluster == cluster);
            here.map(|fault| (fault.victim, fault.failure)).collect::<Vec<_>>()
        };
        let all = rounds.iter().flat_map(|round| CLUSTERS.map(|cluster| of(round, cluster)));
        all.filter(|cell| !cell.is_empty()).collect()
    }

    fn unordered<T: Ord + Copy>(one: T, other: T) -> (T, T) {
        (one.min(other), one.max(other))
    }

    #[test]
    fn every_failure_of_every_process_happens_alone() {
        let all: BTreeSet<_> = cells(&singles()).into_iter().map(|cell| (cell.len(), cell[0])).collect();
        let wanted =
            Victim::ALL.iter().flat_map(|victim| Failure::ALL.map(|failure| (1, (*victim, failure))));
        assert_eq!(all, wanted.collect());
    }

    #[test]
    fn the_covering_set_covers_and_the_product_is_complete() {
        let covering = cells(&covering_pairs());
        let victims: BTreeSet<_> = covering.iter().map(|cell| unordered(cell[0].0, cell[1].0)).collect();
        let failures: BTreeSet<_> = covering.iter().map(|cell| unordered(cell[0].1, cell[1].1)).collect();
        assert_eq!((victims.len(), failures.len()), (6, 15));
        let all: BTreeSet<_> = cells(&all_pairs()).into_iter().collect();
        assert_eq!(all.len(), 6 * 25);
        assert!(all.iter().all(|cell| cell.len() == 2 && cell[0].0 != cell[1].0));
    }
}
