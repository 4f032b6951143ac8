//! What is really wrong, and when.

use mesh_model::hash::mix;

/// Numbers of a seed.
#[derive(Clone)]
pub(crate) struct Lot(u64);

impl Lot {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// All of it loses power.
    Power,
    /// This node and the cluster don't reach each other, in one direction or both; others do.
    Partition,
    /// Its control plane is silent.
    Control,
    /// One packet of twenty is lost.
    Loss,
    /// Round trips take 200 ms more.
    Delay,
    /// Up and down every second or two, for a minute.
    Flapping,
    /// A third of its nodes loses power.
    Nodes,
    /// Of the observer: it doesn't run, its clock goes on.
    Frozen,
    /// Of the observer: it reaches nobody.
    CutOff,
    /// Of the observer: its agent is started anew, at the beginning.
    Restart,
}

const OF_CLUSTERS: [What; 7] =
    [What::Power, What::Partition, What::Control, What::Loss, What::Delay, What::Flapping, What::Nodes];
const OF_THE_OBSERVER: [What; 3] = [What::Frozen, What::CutOff, What::Restart];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) what: What,
    /// In milliseconds.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Faults of one cluster, or of the observer, one after another.
pub(crate) fn faults(lot: &mut Lot, of_observer: bool, until: u64) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = lot.within(30_000, 300_000);
    while at < until {
        let kinds: &[What] = if of_observer { &OF_THE_OBSERVER } else { &OF_CLUSTERS };
        let what = kinds[lot.next() as usize % kinds.len()];
        let lasts = match what {
            What::Flapping => 60_000,
            // Half of them are blips.
            _ if lot.next().is_multiple_of(2) => lot.within(100, 3000),
            _ => lot.within(3000, 120_000),
        };
        flap(lot, what, (at, at + lasts), &mut faults);
        at += lasts + lot.within(5000, 600_000);
    }
    faults
}

fn flap(lot: &mut Lot, what: What, (from, to): (u64, u64), faults: &mut Vec<Fault>) {
    if what != What::Flapping {
        faults.push(Fault { what, from, to });
        return;
    }
    let mut at = from;
    while at < to {
        let (down, up) = (lot.within(500, 2500), lot.within(500, 2500));
        faults.push(Fault { what, from: at, to: at + down });
        at += down + up;
    }
}

pub(crate) fn is(faults: &[Fault], what: &[What], now: u64) -> bool {
    during(faults, what, now, now)
}

/// Whether there was such a fault at any time between these.
pub(crate) fn during(faults: &[Fault], what: &[What], from: u64, to: u64) -> bool {
    // They are in order, and few are left of those that began before `to`.
    let begun = faults.partition_point(|fault| fault.from <= to);
    faults[..begun].iter().rev().take(64).any(|fault| what.contains(&fault.what) && fault.to > from)
}
