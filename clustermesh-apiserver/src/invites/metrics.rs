//! What is counted at the join port.

use mesh_membership::invite::ClaimError;
use mesh_runtime::ByLabel;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::register::InviteError;

/// What became of a request to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Joined,
    Repeated,
    WrongSecret,
    Unknown,
    Locked,
    Expired,
    Used,
    /// For another name or id, or beyond the ranges of the invite.
    NotInvited,
    Collision,
    Malformed,
    Failed,
}

impl Outcome {
    const ALL: [Self; 11] = [
        Self::Joined,
        Self::Repeated,
        Self::WrongSecret,
        Self::Unknown,
        Self::Locked,
        Self::Expired,
        Self::Used,
        Self::NotInvited,
        Self::Collision,
        Self::Malformed,
        Self::Failed,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Repeated => "repeated",
            Self::WrongSecret => "wrong_secret",
            Self::Unknown => "unknown_invite",
            Self::Locked => "locked",
            Self::Expired => "expired",
            Self::Used => "used",
            Self::NotInvited => "not_invited",
            Self::Collision => "collision",
            Self::Malformed => "malformed",
            Self::Failed => "failed",
        }
    }

    pub(super) fn of(error: &InviteError) -> Self {
        match error {
            InviteError::Claim(ClaimError::WrongSecret { .. }) => Self::WrongSecret,
            InviteError::Claim(ClaimError::Locked) => Self::Locked,
            InviteError::Claim(ClaimError::Expired) => Self::Expired,
            InviteError::Claim(ClaimError::Used { .. }) => Self::Used,
            InviteError::Claim(_) => Self::NotInvited,
            InviteError::Unknown { .. } => Self::Unknown,
            InviteError::Collision(_) => Self::Collision,
            _ => Self::Failed,
        }
    }

    /// Whether anybody at all can cause it as often as he likes.
    pub(super) fn is_noise(self) -> bool {
        matches!(self, Self::Unknown | Self::Locked)
    }
}

/// Metrics of the join port. Clones share their values.
#[derive(Clone, Debug)]
pub(crate) struct JoinMetrics {
    requests: ByLabel<Counter>,
    pub(super) broken: Counter,
}

impl JoinMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let outcomes = Outcome::ALL.map(Outcome::as_str);
        let metrics = Self { requests: ByLabel::new("outcome", outcomes), broken: Counter::default() };
        metrics.requests.register(
            registry,
            "join_requests",
            "Requests of clusters that want to join by an invite, by what became of them",
        );
        registry.register(
            "join_connections_broken",
            "Connections to the join port that ended without a request that could be read",
            metrics.broken.clone(),
        );
        metrics
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.requests.of(outcome.as_str()).inc();
    }
}
