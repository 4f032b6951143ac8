//! Why a certificate does not count, in words for a log, a label for a metric, and what the other side is told.

use std::sync::Arc;
use std::time::Duration;

use mesh_model::name::ClusterName;
use rustls::pki_types::UnixTime;
use rustls::{CertificateError as TlsCertificateError, OtherError};

use crate::certificate::{CertificateError, Serial};
use crate::identity::{Identity, Role};

/// Why a certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the certificate can't be read")]
    Unreadable(#[source] CertificateError),
    #[error(
        "the certificate claims no identity: it needs the URI clustermesh://<cluster>/<role> as a subject alternative name"
    )]
    NoIdentity,
    #[error(
        "the certificate claims no identity, and its chain leads to roots of more than one cluster ({}): it needs the URI \
         clustermesh://<cluster>/<role> as a subject alternative name",
        listed(clusters)
    )]
    Ambiguous { clusters: Vec<ClusterName> },
    #[error(
        "{claimed} was shown where {expected} was expected: the address leads to another cluster or process"
    )]
    Other { claimed: Identity, expected: Identity },
    #[error("{claimed} may not do this: it takes the role {}", wanted.as_str())]
    Role { claimed: Identity, wanted: Role },
    #[error("no peer file trusts cluster {cluster}: join it first")]
    UnknownCluster { cluster: ClusterName },
    #[error(
        "{claimed} shows a certificate that leads to no root trusted for its cluster: its CA was replaced, or somebody else \
         claims to be it; exchange peer files again"
    )]
    UnknownIssuer { claimed: Identity },
    #[error("the certificate of {claimed} expired {}: see why it was not renewed, and both clocks", ago(*since))]
    Expired { claimed: Identity, since: Duration },
    #[error("the certificate of {claimed} counts only in {} s: see both clocks", ahead.as_secs())]
    NotYetValid { claimed: Identity, ahead: Duration },
    #[error("the certificate of {claimed} with serial number {serial} was revoked")]
    Revoked { claimed: Identity, serial: Serial },
    #[error("the certificate of {claimed} can't be used: {why}")]
    Unusable { claimed: Identity, why: webpki::Error },
}

fn listed(clusters: &[ClusterName]) -> String {
    clusters.iter().map(ClusterName::as_str).collect::<Vec<_>>().join(", ")
}

fn ago(since: Duration) -> String {
    format!("{} s ago", since.as_secs())
}

/// [`Refusal`] without its details: a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalReason {
    Unreadable,
    NoIdentity,
    Ambiguous,
    Other,
    Role,
    UnknownCluster,
    UnknownIssuer,
    Expired,
    NotYetValid,
    Revoked,
    Unusable,
}

impl RefusalReason {
    pub const ALL: [Self; 11] = [
        Self::Unreadable,
        Self::NoIdentity,
        Self::Ambiguous,
        Self::Other,
        Self::Role,
        Self::UnknownCluster,
        Self::UnknownIssuer,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::Unusable,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NoIdentity => "no_identity",
            Self::Ambiguous => "ambiguous",
            Self::Other => "other_identity",
            Self::Role => "role",
            Self::UnknownCluster => "unknown_cluster",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::Unusable => "unusable",
        }
    }
}

impl Refusal {
    pub fn reason(&self) -> RefusalReason {
        match self {
            Self::Unreadable(_) => RefusalReason::Unreadable,
            Self::NoIdentity => RefusalReason::NoIdentity,
            Self::Ambiguous { .. } => RefusalReason::Ambiguous,
            Self::Other { .. } => RefusalReason::Other,
            Self::Role { .. } => RefusalReason::Role,
            Self::UnknownCluster { .. } => RefusalReason::UnknownCluster,
            Self::UnknownIssuer { .. } => RefusalReason::UnknownIssuer,
            Self::Expired { .. } => RefusalReason::Expired,
            Self::NotYetValid { .. } => RefusalReason::NotYetValid,
            Self::Revoked { .. } => RefusalReason::Revoked,
            Self::Unusable { .. } => RefusalReason::Unusable,
        }
    }

    /// Who is refused, as far as the certificate says: nobody has proven it.
    pub fn claimed(&self) -> Option<&Identity> {
        match self {
            Self::Unreadable(_) | Self::NoIdentity | Self::Ambiguous { .. } | Self::UnknownCluster { .. } => {
                None
            }
            Self::Other { claimed, .. }
            | Self::Role { claimed, .. }
            | Self::UnknownIssuer { claimed }
            | Self::Expired { claimed, .. }
            | Self::NotYetValid { claimed, .. }
            | Self::Revoked { claimed, .. }
            | Self::Unusable { claimed, .. } => Some(claimed),
        }
    }

    /// What the verification of a chain found.
    pub(crate) fn of_chain(claimed: Identity, serial: Serial, why: webpki::Error) -> Self {
        let since =
            |from: UnixTime, to: UnixTime| Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()));
        match why {
            // A root of the issuer's name with another key is another authority.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                Self::UnknownIssuer { claimed }
            }
            webpki::Error::CertExpired { time, not_after } => {
                Self::Expired { claimed, since: since(not_after, time) }
            }
            webpki::Error::CertNotValidYet { time, not_before } => {
                Self::NotYetValid { claimed, ahead: since(time, not_before) }
            }
            webpki::Error::CertRevoked => Self::Revoked { claimed, serial },
            why => Self::Unusable { claimed, why },
        }
    }
}

/// The alert that the other side gets says as much as TLS has words for.
impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        let error = match refusal {
            Refusal::Unreadable(_) => TlsCertificateError::BadEncoding,
            Refusal::UnknownIssuer { .. } | Refusal::UnknownCluster { .. } | Refusal::Ambiguous { .. } => {
                TlsCertificateError::UnknownIssuer
            }
            Refusal::Expired { .. } => TlsCertificateError::Expired,
            Refusal::NotYetValid { .. } => TlsCertificateError::NotValidYet,
            Refusal::Revoked { .. } => TlsCertificateError::Revoked,
            Refusal::Role { .. } => TlsCertificateError::ApplicationVerificationFailure,
            refusal @ (Refusal::NoIdentity | Refusal::Other { .. } | Refusal::Unusable { .. }) => {
                TlsCertificateError::Other(OtherError(Arc::new(refusal)))
            }
        };
        Self::InvalidCertificate(error)
    }
}
