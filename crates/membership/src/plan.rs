//! The plan of a join: what each cluster will know of each other one, and what stands against it.
//!
//! A plan is made anew from what the clusters say at that moment, so that an interrupted join goes on where it was: what is
//! done already is [`Change::Keep`].

mod checks;
mod probes;
pub(crate) mod ranges;

use mesh_admin::cluster::{Cluster, PeerDocument, PeerEntry};
use mesh_model::address_policy::PeerRanges;
use mesh_model::name::ClusterName;
use serde::Serialize;

pub use probes::{ProbeOrder, Way, judge, probes};

/// A cluster that joins, as it describes itself.
#[derive(Clone, Debug)]
pub struct Member {
    pub cluster: Cluster,
    /// The peer files that it has.
    pub peers: Vec<PeerEntry>,
    /// How far its clock is ahead of the clock of whoever asked.
    pub clock_ahead_ms: i64,
    /// The seconds since the epoch at which it was asked, by the clock of whoever asked.
    pub asked_unix_s: u64,
}

impl Member {
    pub fn name(&self) -> &ClusterName {
        &self.cluster.name
    }

    /// What others shall know of it; none where it does not say enough, which [`Plan::of`] tells as findings.
    pub fn document(&self) -> Option<PeerDocument> {
        let ranges = self.cluster.ranges.exported();
        let known = !ranges.is_empty() && !self.cluster.endpoints.is_empty() && self.cluster.trust.is_some();
        known.then(|| PeerDocument {
            id: self.cluster.id,
            endpoints: self.cluster.endpoints.clone(),
            ranges: PeerRanges::Agreed(ranges),
            trust: self.cluster.trust.clone(),
        })
    }

    pub fn peer(&self, name: &ClusterName) -> Option<&PeerEntry> {
        self.peers.iter().find(|entry| entry.name == name.as_str())
    }
}

/// How much weight a finding has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing may be changed before this is put right.
    Error,
    /// It may be wanted.
    Warning,
}

/// Something that was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub level: Level,
    /// Whom it is about.
    pub clusters: Vec<ClusterName>,
    pub problem: String,
    pub remedy: String,
}

impl Finding {
    fn new(level: Level, clusters: &[&ClusterName], problem: String, remedy: impl Into<String>) -> Self {
        let clusters = clusters.iter().map(|&name| name.clone()).collect();
        Self { level, clusters, problem, remedy: remedy.into() }
    }

    fn error(clusters: &[&ClusterName], problem: String, remedy: impl Into<String>) -> Self {
        Self::new(Level::Error, clusters, problem, remedy)
    }

    fn warning(clusters: &[&ClusterName], problem: String, remedy: impl Into<String>) -> Self {
        Self::new(Level::Warning, clusters, problem, remedy)
    }
}

/// What becomes of a peer file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Add,
    /// These fields become others.
    Change(Vec<&'static str>),
    /// It is there already.
    Keep,
}

/// A peer file that a cluster gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The cluster that gets it.
    pub at: ClusterName,
    /// Of whom it is.
    pub peer: ClusterName,
    pub change: Change,
    pub file: PeerDocument,
}

impl Step {
    /// Whether something is to be done.
    pub fn changes(&self) -> bool {
        self.change != Change::Keep
    }
}

/// Which files go where, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Errors first.
    pub findings: Vec<Finding>,
    /// By cluster, then by peer.
    pub steps: Vec<Step>,
}

impl Plan {
    /// What makes each of the members a peer of each other one.
    pub fn of(members: &[Member]) -> Self {
        let mut findings = checks::all(members);
        findings.extend(ranges::overlaps(members));
        findings.sort();
        findings.dedup();
        Self { findings, steps: steps(members) }
    }

    /// Adds findings that were made by asking.
    pub fn found(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
        self.findings.sort();
    }

    /// Whether nothing stands against it.
    pub fn is_allowed(&self) -> bool {
        self.findings.iter().all(|finding| finding.level != Level::Error)
    }

    /// Whether there is something to do.
    pub fn changes(&self) -> bool {
        self.steps.iter().any(Step::changes)
    }
}

fn steps(members: &[Member]) -> Vec<Step> {
    let mut steps: Vec<Step> = pairs(members).filter_map(|(at, peer)| step(at, peer)).collect();
    steps.sort_by(|one, other| (&one.at, &one.peer).cmp(&(&other.at, &other.peer)));
    steps
}

/// Every two members, in both directions.
fn pairs(members: &[Member]) -> impl Iterator<Item = (&Member, &Member)> {
    let others = |at: &Member| {
        let at = at.name().clone();
        members.iter().filter(move |peer| *peer.name() != at)
    };
    members.iter().flat_map(move |at| others(at).map(move |peer| (at, peer)))
}

fn step(at: &Member, peer: &Member) -> Option<Step> {
    let file = peer.document()?;
    let change = match at.peer(peer.name()) {
        None => Change::Add,
        Some(entry) => {
            entry.file.as_ref().map_or(Change::Change(vec!["file"]), |before| change(before, &file))
        }
    };
    Some(Step { at: at.name().clone(), peer: peer.name().clone(), change, file })
}

/// The fields in which two files differ.
fn change(before: &PeerDocument, after: &PeerDocument) -> Change {
    let trust = |document: &PeerDocument| document.trust.as_deref().map(lines);
    let fields = [
        ("id", before.id != after.id),
        ("endpoints", before.endpoints != after.endpoints),
        ("ranges", before.ranges != after.ranges),
        ("trust", trust(before) != trust(after)),
    ];
    let changed: Vec<_> =
        fields.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect();
    if changed.is_empty() { Change::Keep } else { Change::Change(changed) }
}

/// The text of a PEM without what tools add and drop: blank lines, and space at the ends.
fn lines(pem: &str) -> Vec<String> {
    pem.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
