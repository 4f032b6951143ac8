//! The certificates of the cluster's own processes: made where there are none, and renewed long before they expire.
//!
//! Owns which certificates there are and when they are looked at; what is wrong with one, `mesh-trust` says. Only the leader
//! makes them. What somebody else has put there stays as it is.

mod folder;
mod keeper;
mod metrics;

pub(crate) use folder::Folder;
pub(crate) use keeper::Keeper;
pub(crate) use metrics::CertificateMetrics;

use mesh_trust::Role;

/// A certificate with its key, by the process that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Holder {
    /// The cluster's certificate authority.
    Authority,
    Process(Role),
}

impl Holder {
    /// Those that are looked after, the one that vouches for the others first.
    pub(crate) const ALL: [Self; 3] =
        [Self::Authority, Self::Process(Role::Apiserver), Self::Process(Role::Agent)];

    /// The name of its folder.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Authority => "ca",
            Self::Process(role) => role.as_str(),
        }
    }
}
