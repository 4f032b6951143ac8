//! The certificates of the cluster's own processes: made where there are none, and renewed long before they expire.
//!
//! Owns which certificates there are, where they are and when they are looked at, and how one authority takes another's place;
//! what is wrong with a certificate, `mesh-trust` says.
//! What somebody else has put there stays as it is.

mod authorities;
mod folder;
mod keeper;
mod look;
mod metrics;
mod orders;
mod rotation;
mod secrets;
mod store;
mod trust;
mod trustees;

pub(crate) use folder::Folder;
pub(crate) use keeper::Keeper;
pub(crate) use look::Look;
pub(crate) use metrics::CertificateMetrics;
pub(crate) use orders::{OrderError, Orders, Peers, shown};
pub(crate) use secrets::{Placement, SecretStore};
pub(crate) use store::Store;
pub(crate) use trustees::OwnEtcd;

use mesh_trust::Role;

/// A DNS name that stands in the apiserver's certificate and in no other, by which the cluster's own etcd tells it from other
/// processes of the cluster (`etcd --client-cert-allowed-hostname`).
pub(crate) const ETCD_CLIENT: &str = "apiserver.clustermesh.internal";

/// A certificate with its key, by the process that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Holder {
    /// The cluster's certificate authority.
    Authority,
    Process(Role),
}

impl Holder {
    /// All that there are, the one that vouches for the others first.
    pub(crate) const ALL: [Self; 4] = [
        Self::Authority,
        Self::Process(Role::Apiserver),
        Self::Process(Role::Agent),
        Self::Process(Role::Etcd),
    ];

    /// Those that are kept in a folder: where no Secrets are, etcd is set up by somebody else before it.
    const IN_A_FOLDER: [Self; 3] =
        [Self::Authority, Self::Process(Role::Apiserver), Self::Process(Role::Agent)];

    /// The name of its folder.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Authority => "ca",
            Self::Process(role) => role.as_str(),
        }
    }
}
