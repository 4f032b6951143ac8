//! Answers by client and server, second by second, for the live view and the picture.

use std::collections::BTreeMap;

use crate::lab::client::Records;
use crate::load::record::{Failure, Outcome};

use super::board::Board;

/// The calls of one cluster's x-wings in one second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Second {
    /// Per answering cluster, in the board's order.
    pub(crate) answers: Vec<usize>,
    pub(crate) errors: BTreeMap<Failure, usize>,
}

impl Second {
    pub(crate) fn failed(&self) -> usize {
        self.errors.values().sum()
    }

    pub(crate) fn total(&self) -> usize {
        self.answers.iter().sum::<usize>() + self.failed()
    }

    /// The errors in words: "12 refused, 1 timeout".
    pub(crate) fn complaint(&self) -> String {
        let kinds = self.errors.iter().map(|(failure, count)| format!("{count} {}", failure.as_str()));
        kinds.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.answers.resize(self.answers.len().max(other.answers.len()), 0);
        other.answers.iter().zip(&mut self.answers).for_each(|(more, sum)| *sum += more);
        other.errors.iter().for_each(|(kind, more)| *self.errors.entry(*kind).or_default() += more);
    }
}

/// Counts the board's records into seconds, each record once, by when it was over: that is when somebody saw it.
#[derive(Debug)]
pub(crate) struct Seconds {
    /// When second 0 began; what was over earlier is not counted.
    base_us: u64,
    read: Vec<usize>,
    /// By second, then by the client's cluster.
    seconds: Vec<Vec<Second>>,
}

impl Seconds {
    pub(crate) fn since(base_us: u64) -> Self {
        Self { base_us, read: Vec::new(), seconds: Vec::new() }
    }

    /// Takes in what is new.
    pub(crate) fn update(&mut self, board: &Board) {
        for (index, x_wing) in board.x_wings().iter().enumerate() {
            self.read.resize(self.read.len().max(index + 1), 0);
            let home = board.clusters.iter().position(|cluster| *cluster == x_wing.cluster);
            self.read_one(board, index, home.unwrap_or_default(), &x_wing.records);
        }
    }

    fn read_one(&mut self, board: &Board, index: usize, home: usize, records: &Records) {
        let new = records.since(self.read[index]);
        self.read[index] += new.len();
        for record in new {
            let over = record.start_unix_us + record.latency_us;
            let Some(passed) = over.checked_sub(self.base_us) else { continue };
            let since = usize::try_from(passed / 1_000_000).unwrap_or(usize::MAX);
            let second = self.second(since, home, board.clusters.len());
            match record.outcome {
                Outcome::Answer(from) => {
                    let cluster = from.split('/').next().unwrap_or_default();
                    match board.clusters.iter().position(|name| name == cluster) {
                        Some(place) => second.answers[place] += 1,
                        None => *second.errors.entry(Failure::Garbled).or_default() += 1,
                    }
                }
                Outcome::Error(failure) => *second.errors.entry(failure).or_default() += 1,
            }
        }
    }

    fn second(&mut self, since: usize, home: usize, clusters: usize) -> &mut Second {
        let empty = || Second { answers: vec![0; clusters], errors: BTreeMap::new() };
        while self.seconds.len() <= since {
            self.seconds.push((0..clusters).map(|_| empty()).collect());
        }
        &mut self.seconds[since][home]
    }

    /// One entry per client cluster for a second.
    pub(crate) fn at(&self, second: usize) -> Option<&[Second]> {
        self.seconds.get(second).map(Vec::as_slice)
    }

    /// The first second in which anything was seen.
    pub(crate) fn first(&self) -> usize {
        let seen = |seconds: &Vec<Second>| seconds.iter().any(|second| second.total() > 0);
        self.seconds.iter().position(seen).unwrap_or_default()
    }

    pub(crate) fn count(&self) -> usize {
        self.seconds.len()
    }
}
