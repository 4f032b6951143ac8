//! What is wrong with a source's objects, in a form that logs, metrics and the admin API share.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use mesh_model::table::Knowledge;

use crate::metrics::SourceMetrics;

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
            metrics.rejections(*reason).inc();
            metrics.problems(*reason).inc();
        }
        for Problem { reason, .. } in &turn.gone {
            metrics.problems(*reason).dec();
        }
        turn
    }

    /// The problems that another status does not have.
    fn without(&self, other: &Self) -> Vec<Problem> {
        // What is wrong with the API server differs from kind to kind and try to try: told once.
        let outage = other.problems.iter().any(|it| it.reason == Reason::ApiUnavailable);
        let known = |it: &&Problem| match it.reason {
            Reason::ApiUnavailable => outage,
            _ => other.problems.binary_search(it).is_ok(),
        };
        self.problems.iter().filter(|it| !known(it)).cloned().collect()
    }
}

/// Something in a source that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
pub struct ProblemAges(BTreeMap<(String, String, String, Reason), SystemTime>);

impl ProblemAges {
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

/// What kind of problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The folder is missing, unreadable or empty.
    FolderUnknown,
    FileUnreadable,
    FileTooLarge,
    /// A process has had the file open for writing for long.
    FileOpen,
    /// The file holds nothing.
    FileEmpty,
    /// The file is not YAML (or JSON).
    Syntax,
    /// A document is no Kubernetes object, or its fields have wrong types.
    Malformed,
    /// A kind that we read, in a version that we don't.
    Version,
    /// A name or label breaks Kubernetes' rules.
    Name,
    Annotation,
    /// `export-to` can't be understood.
    ExportToInvalid,
    /// A Service or its ports break Kubernetes' rules.
    Service,
    NoClusterIp,
    Headless,
    ExternalName,
    /// An EndpointSlice, or an endpoint or port in it, breaks Kubernetes' rules.
    Slice,
    Node,
    /// SCTP ports and FQDN slices.
    Unsupported,
    /// An object that an earlier file or document has already defined.
    Duplicate,
    /// A ClusterIP and port that an earlier Service has.
    AddressTaken,
    /// A Service that asks for session affinity, which is not honoured.
    SessionAffinity,
    /// What of a Service is beyond a limit of records, so that other clusters don't get it.
    OverLimit,
    /// A Service without EndpointSlices.
    NoSlices,
    /// A Service whose connections must not leave the node.
    NodeLocal,
    /// The API server can't be followed.
    ApiUnavailable,
}

impl Reason {
    /// The stable word: in labels of metrics, in logs, and in camel case as the reason of an Event.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::FolderUnknown => "folder_unknown",
            Self::FileUnreadable => "file_unreadable",
            Self::FileTooLarge => "file_too_large",
            Self::FileOpen => "file_open",
            Self::FileEmpty => "file_empty",
            Self::Syntax => "syntax",
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Name => "name",
            Self::Annotation => "annotation",
            Self::ExportToInvalid => "export_to_invalid",
            Self::Service => "service",
            Self::NoClusterIp => "no_cluster_ip",
            Self::Headless => "headless",
            Self::ExternalName => "external_name",
            Self::Slice => "slice",
            Self::Node => "node",
            Self::Unsupported => "unsupported",
            Self::Duplicate => "duplicate",
            Self::AddressTaken => "address_taken",
            Self::SessionAffinity => "session_affinity",
            Self::OverLimit => "over_limit",
            Self::NoSlices => "no_slices",
            Self::NodeLocal => "node_local",
            Self::ApiUnavailable => "api_unavailable",
        }
    }

    /// Whether somebody must do something; otherwise it is only good to know.
    pub(crate) fn is_fault(self) -> bool {
        !matches!(self, Self::NoSlices | Self::NodeLocal)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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

    fn lines(ages: &mut ProblemAges, problems: &[Problem], second: u64) -> Vec<String> {
        let at =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().to_string();
        let status = Status { problems: problems.to_vec(), ..Status::default() };
        ages.lines(&status, SystemTime::UNIX_EPOCH + Duration::from_secs(second), at)
    }

    #[test]
    fn a_fault_is_told_with_its_object_and_since_when_it_stands() {
        let mut ages = ProblemAges::default();
        let (first, again) =
            (problem("a.yaml", Reason::Syntax, "line 3"), problem("a.yaml", Reason::Syntax, "line 4"));
        let said = "a.yaml: Service ns/a: line 3 (since 7; what was read before stays)";
        assert_eq!(lines(&mut ages, std::slice::from_ref(&first), 7), [said]);
        let remark = problem("b.yaml", Reason::NoSlices, "none yet");
        let said = "a.yaml: Service ns/a: line 4 (since 7; what was read before stays)";
        assert_eq!(lines(&mut ages, &[again, remark], 9), [said], "the same fault; a remark is none");
        assert!(lines(&mut ages, &[], 10).is_empty());
        let said = "a.yaml: Service ns/a: line 3 (since 11; what was read before stays)";
        assert_eq!(lines(&mut ages, &[first], 11), [said]);
    }
}
