//! What is wrong with a source's objects, in a form that logs, metrics and the admin API share.

use std::fmt;

use mesh_model::table::Knowledge;
use prometheus_client::encoding::EncodeLabelValue;
use serde::Serialize;

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

/// Something in a source that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file's name within the folder; empty where it is about the folder itself.
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

/// What kind of problem it is: the label of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, EncodeLabelValue)]
#[serde(rename_all = "snake_case")]
#[allow(non_camel_case_types)]
pub enum Reason {
    /// The folder is missing, unreadable or empty.
    folder_unknown,
    file_unreadable,
    file_too_large,
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
    /// A Service without EndpointSlices.
    no_slices,
}

impl Reason {
    /// Whether somebody must do something; otherwise it is only good to know.
    pub fn is_fault(self) -> bool {
        self != Self::no_slices
    }
}
