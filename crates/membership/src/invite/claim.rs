//! Whether whoever shows an invite may join by it.

use ipnet::IpNet;
use mesh_admin::cluster::{InviteState, PeerDocument};
use mesh_model::address_policy::{PeerRanges, Ranges};
use mesh_model::name::{ClusterId, ClusterName};

use super::identifier::Digest;
use super::record::InviteRecord;

/// What a joiner shows.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// Of the secret that it has.
    pub secret_sha256: Digest,
    pub name: &'a ClusterName,
    pub file: &'a PeerDocument,
    /// The fingerprint of the first certificate of its `trust`.
    pub authority: Digest,
}

/// What becomes of a claim that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This record has to take the place of the one that was judged, before anything else is done.
    Take(InviteRecord),
    /// The same joiner has taken it before: whatever is left to do is done again.
    Again,
}

/// Why a claim is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error("the secret is not the one of this invite")]
    WrongSecret {
        /// Has to take the place of the one that was judged.
        counted: Box<InviteRecord>,
    },
    #[error("the invite was shown with wrong secrets too often")]
    Locked,
    #[error("the invite has expired")]
    Expired,
    #[error("another cluster has taken the invite, whose authority has the fingerprint {by}")]
    Used { by: Digest },
    #[error("the invite is for a cluster {invited}, not for {claimed}")]
    Name { invited: ClusterName, claimed: ClusterName },
    #[error("the invite is for the id {invited}, not for {claimed}")]
    Id { invited: ClusterId, claimed: ClusterId },
    #[error("{range} is no {what} range that the invite allows (those are: {})", list(allowed))]
    Range { what: &'static str, range: IpNet, allowed: Vec<IpNet> },
    #[error("the joining cluster does not say its ranges")]
    Declared,
}

fn list(ranges: &[IpNet]) -> String {
    if ranges.is_empty() {
        return "none".into();
    }
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl ClaimError {
    /// What to do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::WrongSecret { .. } => "use the token as it was given to you",
            Self::Locked | Self::Expired => "have a new invite made",
            Self::Used { .. } => {
                "if that is not your cluster, somebody else had the token: have that cluster removed from the peers, and a \
                 new invite made"
            }
            Self::Name { .. } | Self::Id { .. } => {
                "have an invite made for the name and id that the joining cluster has"
            }
            Self::Range { .. } => {
                "have an invite made for the ranges of the joining cluster, or correct them there"
            }
            Self::Declared => {
                "give the joining cluster --pod-cidr and --node-cidr, or wait until its Nodes have told them"
            }
        }
    }
}

impl InviteRecord {
    /// Judges a claim. What it says of the joiner counts only behind the secret.
    pub fn judge(&self, claim: &Claim<'_>, now_unix_s: u64) -> Result<Verdict, ClaimError> {
        let state = self.state(now_unix_s);
        if state == InviteState::Locked {
            return Err(ClaimError::Locked);
        }
        if !self.secret_sha256.is_same(&claim.secret_sha256) {
            let wrong_secrets = self.wrong_secrets.saturating_add(1);
            return Err(ClaimError::WrongSecret {
                counted: Box::new(Self { wrong_secrets, ..self.clone() }),
            });
        }
        if state == InviteState::Expired {
            return Err(ClaimError::Expired);
        }
        self.judge_joiner(claim)?;
        match self.used_by {
            None => Ok(Verdict::Take(Self { used_by: Some(claim.authority), ..self.clone() })),
            Some(by) if by == claim.authority => Ok(Verdict::Again),
            Some(by) => Err(ClaimError::Used { by }),
        }
    }

    fn judge_joiner(&self, claim: &Claim<'_>) -> Result<(), ClaimError> {
        if *claim.name != self.name {
            return Err(ClaimError::Name { invited: self.name.clone(), claimed: claim.name.clone() });
        }
        if claim.file.id != self.id {
            return Err(ClaimError::Id { invited: self.id, claimed: claim.file.id });
        }
        match &claim.file.ranges {
            PeerRanges::Declared(_) => Err(ClaimError::Declared),
            PeerRanges::Agreed(ranges) => within(ranges, &self.ranges),
        }
    }
}

fn within(claimed: &Ranges, allowed: &Ranges) -> Result<(), ClaimError> {
    let kinds = [("pod", &claimed.pods, &allowed.pods), ("node", &claimed.nodes, &allowed.nodes)];
    for (what, claimed, allowed) in kinds {
        let is_allowed = |range: &&IpNet| allowed.iter().any(|allowed| allowed.contains(*range));
        if let Some(range) = claimed.iter().find(|range| !is_allowed(range)) {
            return Err(ClaimError::Range { what, range: *range, allowed: allowed.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
