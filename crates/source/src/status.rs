//! What is wrong with a source's objects, in a form that logs, metrics and the admin API share.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use mesh_model::table::Knowledge;
use prometheus_client::encoding::EncodeLabelValue;
use serde::Serialize;

use crate::metrics::{ReasonLabels, SourceMetrics};

/// How a source fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `Partial` while something could never be read, so that its absence means nothing.
    pub knowledge: Knowledge,
    /// Sorted by file and position.
    pub problems: Vec<Problem>,
}

impl Default for Status {
    fn default() -> Self {
        Self { knowledge: Knowledge::Partial, problems: Vec::new() }
    }
}

/// What has appeared and gone since another status: whoever follows a source tells it, once.
pub(crate) struct Turn {
    pub(crate) appeared: Vec<Problem>,
    pub(crate) gone: Vec<Problem>,
}

impl Status {
    /// Compares and counts.
    pub(crate) fn turn(&self, before: &Self, metrics: &SourceMetrics) -> Turn {
        let turn = Turn { appeared: self.without(before), gone: before.without(self) };
        for Problem { reason, .. } in &turn.appeared {
            let labels = ReasonLabels { reason: *reason };
            metrics.rejections.get_or_create(&labels).inc();
            metrics.problems.get_or_create(&labels).inc();
        }
        for Problem { reason, .. } in &turn.gone {
            metrics.problems.get_or_create(&ReasonLabels { reason: *reason }).dec();
        }
        turn
    }

    /// The problems that another status does not have.
    fn without(&self, other: &Self) -> Vec<Problem> {
        // What is wrong with the API server differs from kind to kind and try to try: told once.
        let outage = other.problems.iter().any(|it| it.reason == Reason::api_unavailable);
        let known = |it: &&Problem| match it.reason {
            Reason::api_unavailable => outage,
            _ => other.problems.binary_search(it).is_ok(),
        };
        self.problems.iter().filter(|it| !known(it)).cloned().collect()
    }
}

/// Something in a source that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file's name within the folder, or the folder's path where it is about the folder itself. Empty for what an
    /// API server said.
    pub file: String,
    /// Position in the file, e.g. `document 2, item 3`; empty where it is about the whole file.
    pub place: String,
    /// `Kind namespace/name` as far as it is known.
    pub object: String,
    pub reason: Reason,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.file, &self.place, &self.object].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Since when problems have stood, by everything but their words, which differ from try to try.
#[derive(Clone, Debug, Default)]
pub struct Standing(BTreeMap<(String, String, String, Reason), SystemTime>);

impl Standing {
    /// A line for each fault that stands at `now`: what is wrong with which object, that what was read before stays, and since
    /// when. `show` writes a time.
    pub fn lines(
        &mut self,
        status: &Status,
        now: SystemTime,
        show: impl Fn(SystemTime) -> String,
    ) -> Vec<String> {
        let mut before = std::mem::take(&mut self.0);
        let faults = status.problems.iter().filter(|problem| problem.reason.is_fault());
        let line = |problem: &Problem| {
            let Problem { file, place, object, reason, .. } = problem;
            let key = (file.clone(), place.clone(), object.clone(), *reason);
            let since = before.remove(&key).unwrap_or(now);
            self.0.insert(key, since);
            format!("{problem} (since {}; what was read before stays)", show(since))
        };
        faults.map(line).collect()
    }
}

/// What kind of problem it is: the label of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, EncodeLabelValue)]
#[serde(rename_all = "snake_case")]
#[allow(non_camel_case_types)]
pub enum Reason {
    /// The folder is missing, unreadable or empty.
    folder_unknown,
    file_unreadable,
    file_too_large,
    /// A process has had the file open for writing for long.
    file_open,
    /// The file holds nothing.
    file_empty,
    /// The file is not YAML (or JSON).
    syntax,
    /// A document is no Kubernetes object, or its fields have wrong types.
    malformed,
    /// A kind that we read, in a version that we don't.
    version,
    /// A name or label breaks Kubernetes' rules.
    name,
    annotation,
    /// A Service or its ports break Kubernetes' rules.
    service,
    no_cluster_ip,
    headless,
    external_name,
    /// An EndpointSlice, or an endpoint or port in it, breaks Kubernetes' rules.
    slice,
    node,
    /// SCTP ports and FQDN slices.
    unsupported,
    /// An object that an earlier file or document has already defined.
    duplicate,
    /// A ClusterIP and port that an earlier Service has.
    address_taken,
    /// A Service that asks for session affinity, which is not honoured.
    session_affinity,
    /// What of a Service is beyond a limit of records, so that other clusters don't get it.
    over_limit,
    /// A Service without EndpointSlices.
    no_slices,
    /// A Service whose connections must not leave the node.
    node_local,
    /// The API server can't be followed.
    api_unavailable,
}

impl Reason {
    /// Whether somebody must do something; otherwise it is only good to know.
    pub fn is_fault(self) -> bool {
        !matches!(self, Self::no_slices | Self::node_local)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn problem(file: &str, reason: Reason, message: &str) -> Problem {
        let (file, message) = (file.into(), message.into());
        Problem { file, place: String::new(), object: "Service ns/a".into(), reason, message }
    }

    fn lines(standing: &mut Standing, problems: &[Problem], second: u64) -> Vec<String> {
        let at =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().to_string();
        let status = Status { problems: problems.to_vec(), ..Status::default() };
        standing.lines(&status, SystemTime::UNIX_EPOCH + Duration::from_secs(second), at)
    }

    #[test]
    fn a_fault_is_told_with_its_object_and_since_when_it_stands() {
        let mut standing = Standing::default();
        let (first, again) =
            (problem("a.yaml", Reason::syntax, "line 3"), problem("a.yaml", Reason::syntax, "line 4"));
        let said = "a.yaml: Service ns/a: line 3 (since 7; what was read before stays)";
        assert_eq!(lines(&mut standing, std::slice::from_ref(&first), 7), [said]);
        let remark = problem("b.yaml", Reason::no_slices, "none yet");
        let said = "a.yaml: Service ns/a: line 4 (since 7; what was read before stays)";
        assert_eq!(lines(&mut standing, &[again, remark], 9), [said], "the same fault; a remark is none");
        assert!(lines(&mut standing, &[], 10).is_empty());
        let said = "a.yaml: Service ns/a: line 3 (since 11; what was read before stays)";
        assert_eq!(lines(&mut standing, &[first], 11), [said]);
    }
}
