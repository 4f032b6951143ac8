//! What becomes of a request to join: claim the invite, write the peer file, answer with the own one.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::StatusCode;
use mesh_admin::cluster::{JoinAnswer, JoinRequest, PeerDocument};
use mesh_membership::Candidate;
use mesh_membership::invite::{Claim, ClaimError, Digest, InviteId, Secret};
use mesh_model::address_policy::PeerRanges;
use mesh_peers::PeerFile;
use mesh_trust::Bundle;

use super::metrics::{JoinMetrics, Outcome};
use super::register::{Claimed, InviteError, Invites};
use crate::membership::{Described, Peering, Refusal, parse_document};

/// As many as a cluster record may have.
const MAX_RANGES: usize = 1024;

/// Lets in who has an invite.
pub(crate) struct Door {
    pub(crate) invites: Invites,
    pub(crate) peering: Arc<Peering>,
    pub(crate) described: Arc<Described>,
    pub(crate) metrics: JoinMetrics,
}

/// A request that says something.
struct Joiner {
    invite: InviteId,
    secret: Secret,
    document: PeerDocument,
    file: PeerFile,
    authority: Digest,
}

impl Door {
    /// Answers a request; whatever is refused is counted, and told where somebody may want to know.
    pub(crate) async fn join(&self, body: &[u8], from: SocketAddr) -> Result<JoinAnswer, Refusal> {
        let joiner = Joiner::read(body).inspect_err(|_| self.metrics.count(Outcome::Malformed))?;
        // Before anything changes: whoever is let in needs an answer.
        let file = self.described.document().inspect_err(|_| self.metrics.count(Outcome::Failed))?;
        let claimed = self.claim(&joiner).await.map_err(|error| self.refused(&joiner, from, error))?;
        let (invite, name, authority) = (joiner.invite, joiner.file.name.clone(), joiner.authority);
        let put = self.peering.put(joiner.file).await;
        put.inspect_err(|_| self.metrics.count(Outcome::Failed))?;
        self.metrics.count(match claimed {
            Claimed::Now => Outcome::Joined,
            Claimed::Before => Outcome::Repeated,
        });
        tracing::info!(peer = %name, %invite, fingerprint = %authority, address = %from, "a cluster has joined by an invite");
        Ok(JoinAnswer { name: self.described.name.clone(), file })
    }

    async fn claim(&self, joiner: &Joiner) -> Result<Claimed, InviteError> {
        let Joiner { invite, document, file, authority, .. } = joiner;
        let secret_sha256 = super::hashed(&joiner.secret);
        let claim = Claim { secret_sha256, name: &file.name, file: document, authority: *authority };
        let candidate = Candidate { name: file.name.clone(), id: file.id, ranges: file.ranges.clone() };
        self.invites.claim(*invite, &claim, (&self.peering, &candidate)).await
    }

    fn refused(&self, joiner: &Joiner, from: SocketAddr, error: InviteError) -> Refusal {
        let outcome = Outcome::of(&error);
        self.metrics.count(outcome);
        let (reason, invite, name) = (mesh_failure::chain(&error), joiner.invite, &joiner.file.name);
        if outcome.is_noise() {
            tracing::debug!(%invite, peer = %name, address = %from, error = reason, "refused a cluster that wants to join");
        } else {
            tracing::warn!(%invite, peer = %name, address = %from, error = reason, "refused a cluster that wants to join");
        }
        refusal(error)
    }
}

/// What whoever asked is told of an invite.
pub(crate) fn refusal(error: InviteError) -> Refusal {
    let reason = mesh_failure::chain(&error);
    match error {
        InviteError::Collision(refusal) => refusal,
        InviteError::Claim(ClaimError::WrongSecret { .. }) => {
            Refusal::new(StatusCode::FORBIDDEN, reason, "use the token as it was given to you")
        }
        InviteError::Claim(error) => Refusal::new(StatusCode::FORBIDDEN, reason, error.remedy()),
        InviteError::Unknown { .. } => Refusal::new(StatusCode::NOT_FOUND, reason, "have a new invite made"),
        InviteError::Record(_) => Refusal::new(StatusCode::CONFLICT, reason, "have a new invite made"),
        InviteError::Full => Refusal::new(StatusCode::CONFLICT, reason, "revoke those that nobody needs"),
        InviteError::Dial(_) | InviteError::Call(_) | InviteError::Contended => {
            Refusal::unavailable(reason, "repeat it; nothing is lost")
        }
    }
}

impl Joiner {
    fn read(body: &[u8]) -> Result<Self, Refusal> {
        let unreadable = |error: String| {
            Refusal::new(StatusCode::BAD_REQUEST, error, "use a clustermesh of the same or a newer version")
        };
        let request: JoinRequest = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("the request to join can't be read: {error}")))?;
        let JoinRequest { invite, secret, name, file: document } = request;
        let invite = invite.parse().map_err(|error| unreadable(format!("{error}")))?;
        let secret = secret.parse().map_err(|error| unreadable(format!("{error}")))?;
        let file = parse_document(&name, &document)?;
        if let PeerRanges::Agreed(ranges) = &file.ranges
            && ranges.len() > MAX_RANGES
        {
            return Err(unreadable(format!("{name} has {} ranges; {MAX_RANGES} can be", ranges.len())));
        }
        let authority = authority(&file)?;
        Ok(Self { invite, secret, document, file, authority })
    }
}

/// Who vouches for a joiner: an invite is taken by exactly one authority.
pub(crate) fn authority(file: &PeerFile) -> Result<Digest, Refusal> {
    let unknown = |error: String| {
        Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            error,
            "a cluster joins with https:// endpoints and the certificate of its authority as trust",
        )
    };
    if !file.endpoints.iter().all(mesh_kv::EtcdEndpoint::is_secure) {
        return Err(unknown(format!("the endpoints of {} are reached without TLS", file.name)));
    }
    let trust = file.trust.as_deref().unwrap_or_default();
    let bundle = Bundle::from_pem(trust)
        .map_err(|error| unknown(format!("the trust of {}: {}", file.name, mesh_failure::chain(&error))))?;
    let first = bundle.fingerprints().first().map(ToString::to_string).unwrap_or_default();
    first.parse().map_err(|error| unknown(format!("{error}")))
}
