//! The shapes of the apiserver's admin API: JSON in snake_case below `/v1/` on its unix socket, and of `/v1/join` on its join
//! port.
//!
//! Shared by the apiserver, which serves them, and by every client. Fields are only ever added. Never holds a private key;
//! the only secrets are those of invites.

use mesh_model::address_policy::{OwnRanges, PeerRanges, Ranges};
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::reason::Actor;
use serde::{Deserialize, Serialize};

/// `GET /v1/cluster`: who this cluster is, as its peers have to know it, and how this replica stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub name: ClusterName,
    pub id: ClusterId,
    /// Of the apiserver, as `--version` says it.
    pub version: String,
    /// As they are now: those of flags, else those of Nodes and ServiceCIDRs. Empty until the source has said them.
    pub ranges: OwnRanges,
    /// `https://HOST:PORT` of `--mesh-endpoint`: where peers read. Empty where none was named.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// PEM: the certificates of the cluster's own authority and its lists of revoked certificates, without any key. None
    /// where this process keeps no certificates, or has none yet.
    pub trust: Option<String>,
    /// SHA-256 of the first certificate in `trust`: upper case hex with colons, as openssl shows it.
    pub fingerprint: Option<String>,
    /// Whether this replica writes to etcd.
    pub leading: bool,
    /// This host's clock: milliseconds since the epoch.
    pub time_unix_ms: u64,
    /// `https://ADDRESS:PORT` of this replica's mesh API, for probes from pod to pod. None where it serves none.
    pub pod_endpoint: Option<String>,
    /// `https://HOST:PORT` of `--join-endpoint`: where invites are taken. Empty where none are.
    #[serde(default)]
    pub join_endpoints: Vec<String>,
    /// Where `PUT /v1/peers/NAME` writes: `folder PATH` or `secret NAME`. None where this process was given neither.
    #[serde(default)]
    pub peers_store: Option<String>,
    /// What this process knows of the cluster's own certificates.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
}

/// A certificate that a process of this cluster shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// `ca`, `apiserver`, `agent` or `etcd`.
    pub holder: String,
    /// `clustermesh://<cluster>/<role>`; none for an authority's.
    pub identity: Option<String>,
    /// Upper case hex with colons.
    pub serial: String,
    /// SHA-256: upper case hex with colons.
    pub fingerprint: String,
    /// DNS names and addresses that stand in it beside the identity.
    #[serde(default)]
    pub names: Vec<String>,
    /// It counts up to this second since the epoch.
    pub not_after_unix_s: u64,
    /// It is made anew at this second since the epoch; none where somebody else renews it.
    pub renewal_unix_s: Option<u64>,
}

/// `GET /v1/certificates`: the cluster's own certificates as they are kept, with its authorities. Without any key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    pub cluster: ClusterName,
    /// Holders beside those of [`Cluster::certificates`]: `ca-next`, an authority that does not issue yet, and `ca-previous`,
    /// one that does not any more.
    pub certificates: Vec<Certificate>,
    pub phase: RotationPhase,
    /// Why the authority can't be rotated here, and certificates not revoked: whose it is, and what to do. None where they can.
    pub foreign: Option<String>,
    /// By serial number.
    pub revoked: Vec<RevokedCertificate>,
    /// What peers need to know the cluster by, as [`Cluster::trust`] has it a moment later.
    pub trust: Option<String>,
}

/// How far the rotation of a cluster's authority is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationPhase {
    /// There is one authority.
    #[default]
    Settled,
    /// There is a new one beside it, which has issued nothing.
    Announced,
    /// The new one issues; the old one still counts.
    Switched,
}

impl std::fmt::Display for RotationPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Settled => "settled",
            Self::Announced => "announced",
            Self::Switched => "switched",
        })
    }
}

/// A certificate that counts no more, before it has expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedCertificate {
    /// Upper case hex with colons.
    pub serial: String,
    /// Seconds since the epoch.
    pub since_unix_s: u64,
}

/// `GET /v1/certificates/ca/rotate`: what stands against the next phase. Peers and the own etcd are dialled for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRotation {
    pub phase: RotationPhase,
    /// Empty where the next phase may begin.
    pub obstacles: Vec<Obstacle>,
    /// PEM: what peers shall trust for the cluster in this phase.
    pub trust: String,
    /// SHA-256 of its roots, the issuing one first: upper case hex with colons.
    pub fingerprints: Vec<String>,
}

/// Something that stands against the next phase of a rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// The peer that it is about.
    pub peer: Option<ClusterName>,
    /// `nobody`: it passes by itself.
    #[serde(flatten)]
    pub problem: Problem,
}

/// `POST /v1/certificates/ca/rotate`: go on to the next phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvanceRequest {
    /// The phase that shall begin. One that has begun is begun once.
    pub to: RotationPhase,
    /// Peers that need not be ready for it.
    #[serde(default)]
    pub without: Vec<ClusterName>,
}

/// `POST /v1/certificates/revoke`: certificates of this cluster that shall count no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeRequest {
    /// Serial numbers, or SHA-256 fingerprints of certificates that are in use; hex with or without colons.
    pub certificates: Vec<String>,
}

/// The answer: what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Those that were not revoked before.
    pub revoked: Vec<RevokedCertificate>,
    /// Holders that have another certificate now, because theirs was among them.
    pub renewed: Vec<String>,
    /// PEM: what peers shall trust for the cluster from now on. Before that, what was revoked still counts there.
    pub trust: String,
}

/// A peer file without its name: the body of `PUT /v1/peers/NAME`, and what `peer export` prints. `docs/peer-files.md` has
/// the fields and their bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerDocument {
    pub id: ClusterId,
    /// At least one `https://HOST:PORT`, or all of them `http://`.
    pub endpoints: Vec<String>,
    pub ranges: PeerRanges,
    /// PEM; there wherever the endpoints are https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
}

/// `GET /v1/peers`: one peer file of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEntry {
    /// The file's stem: the peer's name, if it is one.
    pub name: String,
    /// None where the file is refused.
    pub file: Option<PeerDocument>,
    /// Why it is refused, and what to do.
    pub reason: Option<String>,
}

/// What a `PUT` or `DELETE` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// False where everything was already as asked for.
    pub changed: bool,
}

/// The body of every answer of 4xx and 5xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What is wrong, and where.
    pub error: String,
    /// What to do.
    pub remedy: String,
    /// Everything that is wrong, where the request could be judged whole; the first is told in `error` and `remedy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Who can do something about it.
    pub who: Actor,
    pub error: String,
    pub remedy: String,
}

/// `POST /v1/probe`: dial these endpoints from this process, each once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// Whose they shall be.
    pub name: ClusterName,
    /// 1 to 32 of `https://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// PEM: the only roots that count.
    pub trust: String,
}

/// What became of one endpoint: either `identity` or `error` is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub endpoint: String,
    /// Who answered, verified: `clustermesh://<name>/apiserver`.
    pub identity: Option<String>,
    /// Why nobody did who counts, and what to do.
    pub error: Option<String>,
    /// From dialling to the end of the handshake, in microseconds; of a failure, to the failure.
    pub rtt_us: u64,
}

/// `POST /v1/invites`: let one cluster join under exactly this name, id and within these ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRequest {
    pub name: ClusterName,
    pub id: ClusterId,
    /// The joiner may claim these, or parts of them.
    pub ranges: Ranges,
    /// From now on: 60 (a minute) to 604,800 (a week).
    pub lifetime_seconds: u64,
}

/// The answer: an invite that one cluster can take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedInvite {
    /// Of the invite.
    pub id: String,
    /// One line for the other cluster's operator, a secret: whoever has it can join under the invited name. Nobody can show
    /// it again.
    pub token: String,
    /// It can be taken up to this second since the epoch.
    pub expires_unix_s: u64,
    /// SHA-256 of this cluster's authority, as the token pins it.
    pub fingerprint: String,
}

/// `POST /v1/invites/take`, at the cluster that joins: take the invite of this token, and have its cluster as a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeInvite {
    pub token: String,
}

/// The answer: both clusters are each other's peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenInvite {
    /// Of the cluster that had invited.
    pub name: ClusterName,
    /// SHA-256 of its authority, as the token had pinned it.
    pub fingerprint: String,
    /// What is known of it now.
    pub file: PeerDocument,
    /// Whether its peer file was another one before, or none.
    pub changed: bool,
}

/// `GET /v1/invites`: an invite, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Of the invite.
    pub id: String,
    pub name: ClusterName,
    /// Of the cluster that is invited.
    pub cluster_id: ClusterId,
    pub ranges: Ranges,
    /// Seconds since the epoch.
    pub expires_unix_s: u64,
    pub state: InviteState,
    /// SHA-256 of the authority of the cluster that took it.
    pub used_by: Option<String>,
    /// How often somebody showed it with another secret.
    pub wrong_secrets: u32,
}

/// What an invite is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InviteState {
    /// A cluster can take it.
    Open,
    /// A cluster has taken it; only that one can take it again, until it expires.
    Used,
    Expired,
    /// Too many have shown it with a wrong secret.
    Locked,
}

impl std::fmt::Display for InviteState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Locked => "locked",
        })
    }
}

/// `POST /v1/join` on the join port: whoever has an invite becomes a peer. At most 64 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Of the invite, from the token.
    pub invite: String,
    /// From the token.
    pub secret: String,
    /// Of the joiner.
    pub name: ClusterName,
    /// What the inviter shall know of the joiner.
    pub file: PeerDocument,
}

/// The answer: what the joiner shall know of the inviter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// Of the inviter.
    pub name: ClusterName,
    pub file: PeerDocument,
}
