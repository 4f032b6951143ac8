//! Why nothing is published at the moment.

use mesh_kv::fault::CallReason;
use mesh_kv::publish::PublishError;
use mesh_kv::standby::is_denied;
use mesh_kv::{CallError, DialError};
use mesh_model::name::{ClusterId, ClusterName};

use super::fitness::Unfit;
use super::metrics::FailureReason;

/// Why a connection to the own etcd ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(
        "the etcd at {endpoint} holds records of {}, not only of {own}: give this cluster an etcd of its own with \
         --etcd-endpoint; if a cluster was renamed, remove what it left there: {}",
        .others.join(", "), forget(.others.first().map_or("NAME", String::as_str), .endpoint)
    )]
    ForeignStore { endpoint: String, own: ClusterName, others: Vec<String> },
    #[error(
        "the etcd at {endpoint} says that cluster {own} has the id {found}, not {id}: give this cluster an etcd of \
         its own with --etcd-endpoint, or set --cluster-id {found}; if the id was changed on purpose, remove what \
         the old one left there: {}", forget(.own.as_str(), .endpoint)
    )]
    OtherId { endpoint: String, own: ClusterName, id: ClusterId, found: ClusterId },
    #[error(
        "the cluster record of {own} in the etcd at {endpoint} is of another version ({detail}): run the newer \
         clustermesh-apiserver"
    )]
    OtherSchema { endpoint: String, own: ClusterName, detail: String },
    #[error("left the lead to another replica, which stands by: {0}")]
    Unfit(Unfit),
}

/// The command that removes what a cluster left in an etcd.
fn forget(cluster: &str, endpoint: &str) -> String {
    let tls = if endpoint.starts_with("https:") { " --etcd-tls-dir DIR" } else { "" };
    format!("clustermesh-apiserver forget --cluster-name {cluster} --etcd-endpoint {endpoint}{tls}")
}

impl ExportError {
    /// Whether trying again doesn't help.
    pub(super) fn is_for_people(&self) -> bool {
        matches!(self, Self::ForeignStore { .. } | Self::OtherId { .. } | Self::OtherSchema { .. })
            || matches!(self.call(), Some(CallReason::Auth(_)))
    }

    /// What etcd says of the call that failed.
    fn call(&self) -> Option<&CallReason> {
        match self {
            Self::Call(error) | Self::Publish(PublishError::Call(error)) => Some(&error.reason),
            _ => None,
        }
    }

    /// Whether etcd takes no writes before somebody makes room.
    pub(super) fn is_no_space(&self) -> bool {
        matches!(self.call(), Some(CallReason::NoSpace(_)))
    }

    /// Whether this replica has resigned for somebody who stands by.
    pub(super) fn is_unfit(&self) -> bool {
        matches!(self, Self::Unfit(_))
    }

    /// Whether a call failed that another replica's might not, or any number of times later.
    pub(super) fn is_failed_call(&self) -> bool {
        self.call().is_some() && !self.is_no_space()
    }

    /// Whether trying the call again doesn't help, but another replica may fare better.
    pub(super) fn is_denied(&self) -> bool {
        self.call().is_some_and(is_denied)
    }

    /// Whether etcd answers, but not as it should.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.call(), Some(CallReason::NoSpace(_) | CallReason::Refused(_) | CallReason::Auth(_)))
    }

    pub(super) fn reason(&self) -> FailureReason {
        match self {
            Self::Dial(_) => FailureReason::Unreachable,
            _ if self.is_no_space() => FailureReason::NoSpace,
            Self::Call(_) | Self::Publish(PublishError::Call(_)) => FailureReason::Call,
            Self::Unfit(_) => FailureReason::Unfit,
            Self::Publish(PublishError::Fenced) => FailureReason::Fenced,
            Self::Publish(PublishError::Interference { .. }) => FailureReason::Interference,
            Self::ForeignStore { .. } | Self::OtherId { .. } | Self::OtherSchema { .. } => {
                FailureReason::ForeignStore
            }
        }
    }
}
