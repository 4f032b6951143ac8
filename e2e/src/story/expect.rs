//! The story's expectations of its steps, and the words for something else that was seen.

use std::time::Duration;

use crate::load::record::{Failure, Record};

use super::step::{Counts, Step};

/// The least part of the answers that a cluster must give where all of them should answer. Two equal clusters
/// give half each; with 500 connections the fourth part is ten standard deviations away.
const FAIR_SHARE: f64 = 0.25;

#[derive(Clone, Debug)]
pub(super) enum Expectation {
    /// No connection of the whole step failed.
    NoErrors,
    /// Connections fail only by being refused, and only until `grace` after the manifest has followed.
    OnlyRefusedUntilNoticed { grace: Duration },
    /// Connections fail until Kubernetes notices, which it does within `bound`, and no more `grace` after that.
    FailuresEndWithNotice { bound: Duration, grace: Duration },
    /// The x-wings of every cluster get answers from all of these, once the step has settled.
    AllAnswer(Vec<String>),
    /// Nobody else answers, once the step has settled.
    OnlyAnswers(String),
    /// Every peer node wrote the change into its maps.
    Followed,
}

type Mine<'a> = [(&'a str, Vec<&'a Record>)];

impl Expectation {
    /// The observation instead, if it was not met.
    pub(super) fn failure(&self, step: &Step, mine: &Mine<'_>) -> Option<String> {
        match self {
            Self::NoErrors => no_errors(mine),
            Self::OnlyRefusedUntilNoticed { grace } => only_refused(step, *grace, mine),
            Self::FailuresEndWithNotice { bound, grace } => end_with_notice(step, *bound, *grace, mine),
            Self::AllAnswer(clusters) => all_answer(step, clusters, mine),
            Self::OnlyAnswers(cluster) => only_answers(step, cluster, mine),
            Self::Followed => followed(step),
        }
    }
}

fn describe(counts: &Counts) -> String {
    let answers = counts.answers.iter().map(|(cluster, count)| format!("{count} answers from {cluster}"));
    let errors = counts.errors.iter().map(|(failure, count)| format!("{count} × {}", failure.as_str()));
    let all: Vec<_> = answers.chain(errors).collect();
    if all.is_empty() { "no connection at all".into() } else { all.join(", ") }
}

fn no_errors(mine: &Mine<'_>) -> Option<String> {
    let counts = Counts::of(mine.iter().flat_map(|(_, records)| records.iter().copied()));
    (counts.failed() > 0).then(|| format!("expected no failed connection, saw {}", describe(&counts)))
}

fn only_refused(step: &Step, grace: Duration, mine: &Mine<'_>) -> Option<String> {
    let all = mine.iter().flat_map(|(_, records)| records.iter().copied());
    let noticed = step.moved.as_ref().map_or(step.begun_us, |moved| moved.change.renamed_unix_us);
    let until = noticed + u64::try_from(grace.as_micros()).unwrap_or(u64::MAX);
    // The connections that a killed server had open are reset: they were answered by nobody, as the refused ones.
    let allowed = |failure: &Failure| matches!(failure, Failure::Refused | Failure::Reset);
    let counts = Counts::of(all.clone());
    if counts.errors.keys().any(|failure| !allowed(failure)) {
        return Some(format!("expected only refused connections, saw {}", describe(&counts)));
    }
    let late = Counts::of(all.filter(|record| record.start_unix_us >= until));
    let wanted = format!("expected no failed connection {grace:?} after the manifest followed");
    (late.failed() > 0).then(|| format!("{wanted}, saw {}", describe(&late)))
}

fn end_with_notice(step: &Step, bound: Duration, grace: Duration, mine: &Mine<'_>) -> Option<String> {
    let Some(moved) = &step.moved else { return Some("expected Kubernetes to notice".into()) };
    let took = Duration::from_micros(moved.change.renamed_unix_us.saturating_sub(step.begun_us));
    if took > bound {
        return Some(format!("expected Kubernetes to notice within {bound:?}, it took {took:?}"));
    }
    let until = moved.change.renamed_unix_us + u64::try_from(grace.as_micros()).unwrap_or(u64::MAX);
    let all = mine.iter().flat_map(|(_, records)| records.iter().copied());
    let late = Counts::of(all.filter(|record| record.start_unix_us >= until));
    let wanted = format!("expected no failed connection {grace:?} after Kubernetes noticed");
    (late.failed() > 0).then(|| format!("{wanted}, saw {}", describe(&late)))
}

/// Per client cluster: what its x-wings saw once the step had settled.
fn settled<'a>(step: &Step, mine: &Mine<'a>) -> Vec<(&'a str, Counts)> {
    let mut homes: Vec<&str> = mine.iter().map(|(home, _)| *home).collect();
    homes.sort_unstable();
    homes.dedup();
    let of_home = |home: &'a str| {
        let records =
            mine.iter().filter(move |(of, _)| *of == home).flat_map(|(_, records)| records.iter().copied());
        (home, Counts::of(records.filter(|record| record.start_unix_us >= step.settled_us)))
    };
    homes.into_iter().map(of_home).collect()
}

fn all_answer(step: &Step, clusters: &[String], mine: &Mine<'_>) -> Option<String> {
    let unfair = |counts: &Counts| clusters.iter().any(|cluster| counts.share(cluster) < FAIR_SHARE);
    let (home, counts) = settled(step, mine).into_iter().find(|(_, counts)| unfair(counts))?;
    let wanted = clusters.join(" and ");
    Some(format!("expected answers from {wanted} to the x-wings in {home}, they saw {}", describe(&counts)))
}

fn only_answers(step: &Step, cluster: &str, mine: &Mine<'_>) -> Option<String> {
    let wrong = |counts: &Counts| counts.answers.keys().any(|from| from != cluster) || counts.answered() == 0;
    let (home, counts) = settled(step, mine).into_iter().find(|(_, counts)| wrong(counts))?;
    Some(format!("expected {cluster} alone to answer the x-wings in {home}, they saw {}", describe(&counts)))
}

fn followed(step: &Step) -> Option<String> {
    let reason = step.moved.as_ref()?.control.as_ref().err()?;
    Some(format!("expected every peer node to write the change into its maps: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::record::Outcome;

    fn step(expectations: Vec<Expectation>) -> Step {
        Step { name: "s".into(), begun_us: 0, settled_us: 100, ended_us: 200, moved: None, expectations }
    }

    fn record(start: u64, outcome: Outcome) -> Record {
        Record { start_unix_us: start, latency_us: 1, outcome }
    }

    fn answer(start: u64, from: &str) -> Record {
        record(start, Outcome::Answer(from.into()))
    }

    fn failures(expectation: Expectation, records: &[Record]) -> Option<String> {
        let step = step(vec![]);
        expectation.failure(&step, &[("hoth", records.iter().collect())])
    }

    #[test]
    fn an_error_breaks_no_errors_and_is_named() {
        let records = [answer(1, "hoth/a"), record(2, Outcome::Error(Failure::Timeout))];
        let seen = failures(Expectation::NoErrors, &records).unwrap();
        assert!(seen.contains("1 × timeout"), "{seen}");
        assert_eq!(failures(Expectation::NoErrors, &records[..1]), None);
    }

    #[test]
    fn only_the_settled_part_decides_who_answers() {
        let records = [answer(1, "hoth/a"), answer(150, "yavin/a")];
        assert_eq!(failures(Expectation::OnlyAnswers("yavin".into()), &records), None);
        let seen = failures(Expectation::AllAnswer(vec!["hoth".into(), "yavin".into()]), &records).unwrap();
        assert!(seen.contains("1 answers from yavin"), "{seen}");
    }

    #[test]
    fn failures_must_end_when_kubernetes_has_noticed() {
        let change =
            crate::lab::workload::Change { cluster: "hoth".into(), service: "s".into(), renamed_unix_us: 50 };
        let direction = crate::story::step::Direction::Away;
        let moved = crate::story::step::Move { change, control: Ok(Duration::ZERO), direction };
        let step = Step { moved: Some(moved), ..step(vec![]) };
        let records =
            [record(40, Outcome::Error(Failure::Timeout)), record(70, Outcome::Error(Failure::Timeout))];
        let judge = |bound, records: &[Record]| {
            let wanted = Expectation::FailuresEndWithNotice {
                bound: Duration::from_micros(bound),
                grace: Duration::from_micros(10),
            };
            wanted.failure(&step, &[("hoth", records.iter().collect())])
        };
        assert_eq!(judge(60, &records[..1]), None);
        assert!(judge(60, &records).unwrap().contains("1 × timeout"));
        assert!(judge(10, &[]).unwrap().contains("to notice within"));
    }

    #[test]
    fn silence_satisfies_nobody() {
        assert!(failures(Expectation::OnlyAnswers("yavin".into()), &[]).is_some());
        assert!(failures(Expectation::AllAnswer(vec!["yavin".into()]), &[]).is_some());
    }
}
