//! A step of the story as it went: what the records of its time say.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crate::lab::workload::Change;
use crate::load::record::{Failure, Outcome, Record};
use crate::wait::unix_us;

use super::board::{Board, Scene, XWing};
use super::expect::Expectation;

/// How long a step's outcome is watched.
const HOLD: Duration = Duration::from_secs(4);

/// The traffic that moved in a step.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub(crate) change: Change,
    /// Rename to the last peer node's first map write; the reason when it is not known.
    pub(crate) control: Result<Duration, String>,
    pub(crate) direction: Direction,
}

/// Which way the traffic of the change's cluster went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The change's cluster is the old place: everybody leaves it.
    Away,
    /// The change's cluster is the new place: some come back to it.
    Back,
}

/// A step under way.
pub(super) struct Under {
    pub(super) name: String,
    pub(super) begun_us: u64,
}

impl Under {
    /// Begins it, before the audience.
    pub(super) fn begin(board: &Board, name: String, tale: &str) -> Self {
        let begun_us = unix_us();
        board.begin(Scene { name: name.clone(), tale: tale.into(), begun_us });
        Self { name, begun_us }
    }

    /// Ends it, after it has been watched long enough.
    pub(super) fn hold(self, moved: Option<Move>, expectations: Vec<Expectation>) -> Step {
        let settled_us = unix_us();
        thread::sleep(HOLD);
        let Self { name, begun_us } = self;
        Step { name, begun_us, settled_us, ended_us: unix_us(), moved, expectations }
    }
}

/// A step after its end, before its records are looked at.
#[derive(Clone, Debug)]
pub struct Step {
    pub(crate) name: String,
    pub(crate) begun_us: u64,
    /// From here on the step's outcome must hold.
    pub(crate) settled_us: u64,
    pub(crate) ended_us: u64,
    pub(crate) moved: Option<Move>,
    pub(super) expectations: Vec<Expectation>,
}

/// Its outcome.
#[derive(Clone, Debug)]
pub struct Outcomes {
    pub(crate) name: String,
    pub(crate) requests: usize,
    pub(crate) errors: BTreeMap<Failure, usize>,
    /// Of the answered requests, by answering cluster; every cluster of the story is there.
    pub(crate) shares: BTreeMap<String, f64>,
    pub(crate) control: Option<Duration>,
    pub(crate) traffic: Option<Duration>,
    /// Which expectations failed, and what was seen instead.
    pub failures: Vec<String>,
}

impl Outcomes {
    pub(crate) fn failed_requests(&self) -> usize {
        self.errors.values().sum()
    }
}

/// Answers per cluster, and errors.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) answers: BTreeMap<String, usize>,
    pub(super) errors: BTreeMap<Failure, usize>,
}

impl Counts {
    pub(super) fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut counts = Self::default();
        for record in records {
            match answering(record) {
                Ok(cluster) => *counts.answers.entry(cluster.into()).or_default() += 1,
                Err(failure) => *counts.errors.entry(failure).or_default() += 1,
            }
        }
        counts
    }

    pub(super) fn answered(&self) -> usize {
        self.answers.values().sum()
    }

    pub(super) fn failed(&self) -> usize {
        self.errors.values().sum()
    }

    /// The part of the answers that came from a cluster; 0 where there is none.
    pub(super) fn share(&self, cluster: &str) -> f64 {
        let count = self.answers.get(cluster).copied().unwrap_or_default();
        // Exact for every count that a story can reach.
        if count == 0 { 0.0 } else { count as f64 / self.answered() as f64 }
    }
}

fn answering(record: &Record) -> Result<&str, Failure> {
    match &record.outcome {
        Outcome::Answer(answer) => Ok(answer.split('/').next().unwrap_or_default()),
        Outcome::Error(failure) => Err(*failure),
    }
}

impl Step {
    /// Looks at everything that the x-wings began in the step's time.
    pub(crate) fn judge(&self, x_wings: &[XWing], clusters: &[String]) -> Outcomes {
        let records: Vec<_> =
            x_wings.iter().map(|x_wing| (x_wing.cluster.as_str(), x_wing.records.all())).collect();
        let mine: Vec<_> = records.iter().map(|(home, all)| (*home, self.during(all))).collect();
        let counts = Counts::of(mine.iter().flat_map(|(_, records)| records.iter().copied()));
        let shares = clusters.iter().map(|cluster| (cluster.clone(), counts.share(cluster))).collect();
        let failures = self.expectations.iter().filter_map(|wanted| wanted.failure(self, &mine)).collect();
        let traffic = self.moved.as_ref().map(|moved| traffic(moved, &mine));
        Outcomes {
            name: self.name.clone(),
            requests: counts.answered() + counts.failed(),
            errors: counts.errors,
            shares,
            control: self.moved.as_ref().and_then(|moved| moved.control.clone().ok()),
            traffic,
            failures,
        }
    }

    fn during<'a>(&self, records: &'a [Record]) -> Vec<&'a Record> {
        let time = self.begun_us..self.ended_us;
        records.iter().filter(|record| time.contains(&record.start_unix_us)).collect()
    }
}

/// The rename to the start of the last connection that the old place answered; 0 if there was none.
///
/// Where traffic comes back, the old place goes on answering its part. The time that counts then is the one in which it
/// still answered everything: until the last x-wing's first answer from the new place.
fn traffic(moved: &Move, mine: &[(&str, Vec<&Record>)]) -> Duration {
    let renamed = moved.change.renamed_unix_us;
    let from_place = |record: &&&Record| answering(record) == Ok(moved.change.cluster.as_str());
    let starts = |records: &[&Record]| -> Vec<u64> {
        let after = records.iter().filter(|record| record.start_unix_us >= renamed);
        after.filter(from_place).map(|record| record.start_unix_us).collect()
    };
    let per_x_wing = mine.iter().map(|(_, records)| starts(records));
    let last = match moved.direction {
        Direction::Away => per_x_wing.flatten().max(),
        Direction::Back => per_x_wing.filter_map(|starts| starts.into_iter().min()).max(),
    };
    Duration::from_micros(last.map_or(0, |last| last - renamed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(start: u64, answer: &str) -> Record {
        Record { start_unix_us: start, latency_us: 1, outcome: Outcome::Answer(answer.into()) }
    }

    fn moved(direction: Direction) -> Move {
        let change = Change { cluster: "hoth".into(), service: "default/x".into(), renamed_unix_us: 100 };
        Move { change, control: Ok(Duration::ZERO), direction }
    }

    #[test]
    fn traffic_time_is_the_last_answer_of_the_old_place() {
        let records = [record(90, "hoth/a"), record(130, "hoth/a"), record(140, "yavin/a")];
        let mine = [("hoth", records.iter().collect::<Vec<_>>())];
        assert_eq!(traffic(&moved(Direction::Away), &mine), Duration::from_micros(30));
        let gone = [("hoth", vec![&records[0], &records[2]])];
        assert_eq!(traffic(&moved(Direction::Away), &gone), Duration::ZERO);
    }

    #[test]
    fn coming_back_counts_to_the_last_x_wings_first_answer() {
        let records = [record(90, "hoth/a"), record(130, "hoth/a"), record(170, "hoth/a")];
        let mine = [("hoth", records.iter().collect::<Vec<_>>()), ("yavin", vec![&records[2]])];
        assert_eq!(traffic(&moved(Direction::Back), &mine), Duration::from_micros(70));
    }
}
