//! What etcd keeps of an invite, where nobody but the cluster's own apiservers reads.

use mesh_admin::cluster::{Invite, InviteState};
use mesh_model::address_policy::Ranges;
use mesh_model::name::{ClusterId, ClusterName};
use serde::{Deserialize, Serialize};

use super::identifier::{Digest, InviteId};

/// Outside of what peers may read, beside the keys of elections.
const PREFIX: &str = "clustermesh/invite/";

/// An invite's shortest and longest life, in seconds.
pub const MIN_LIFETIME_S: u64 = 60;
pub const MAX_LIFETIME_S: u64 = 7 * 24 * 3600;

/// Wrong secrets after which an invite is good for nobody. Of 2^256 secrets nobody guesses one; this ends the noise.
pub const MAX_WRONG_SECRETS: u32 = 10;

/// An invite, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRecord {
    /// Who may join.
    pub name: ClusterName,
    pub id: ClusterId,
    /// Within these.
    pub ranges: Ranges,
    /// Seconds since the epoch.
    pub expires_unix_s: u64,
    pub secret_sha256: Digest,
    /// The authority of the cluster that has taken it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<Digest>,
    /// How often it was shown with another secret.
    #[serde(default)]
    pub wrong_secrets: u32,
}

/// Why a record says nothing.
#[derive(Debug, thiserror::Error)]
#[error("the record of invite {id} can't be read: revoke it, and make another one")]
pub struct RecordError {
    id: InviteId,
    source: serde_json::Error,
}

/// Where a cluster's invites stand.
pub fn prefix(cluster: &ClusterName) -> String {
    format!("{PREFIX}{cluster}/")
}

/// Where one of them stands.
pub fn key(cluster: &ClusterName, id: InviteId) -> String {
    format!("{PREFIX}{cluster}/{id}")
}

impl InviteRecord {
    pub fn decode(id: InviteId, value: &[u8]) -> Result<Self, RecordError> {
        serde_json::from_slice(value).map_err(|source| RecordError { id, source })
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is plain data")
    }

    /// Whether anybody may still take it.
    pub fn state(&self, now_unix_s: u64) -> InviteState {
        match self {
            _ if self.wrong_secrets >= MAX_WRONG_SECRETS => InviteState::Locked,
            _ if self.expires_unix_s <= now_unix_s => InviteState::Expired,
            Self { used_by: Some(_), .. } => InviteState::Used,
            Self { used_by: None, .. } => InviteState::Open,
        }
    }

    /// As it is shown.
    pub fn shown(&self, id: InviteId, now_unix_s: u64) -> Invite {
        Invite {
            id: id.to_string(),
            name: self.name.clone(),
            cluster_id: self.id,
            ranges: self.ranges.clone(),
            expires_unix_s: self.expires_unix_s,
            state: self.state(now_unix_s),
            used_by: self.used_by.map(|digest| digest.to_string()),
            wrong_secrets: self.wrong_secrets,
        }
    }
}
