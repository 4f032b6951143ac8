//! Who a certificate speaks for: a role within a cluster, as a URI.

use std::fmt;
use std::str::FromStr;

use mesh_model::name::{ClusterName, NameError};

/// The scheme of an identity's URI, with what follows it.
const SCHEME: &str = "clustermesh://";
/// The scheme alone.
const CLAIM: &str = "clustermesh:";

/// What a process is within its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves the mesh API.
    Apiserver,
    /// Reads the mesh API of peers.
    Agent,
    /// A person's command line.
    Admin,
    /// The cluster's own etcd, which its apiserver alone reads; nobody's client but its own members'.
    Etcd,
}

impl Role {
    const ALL: [Self; 4] = [Self::Apiserver, Self::Agent, Self::Admin, Self::Etcd];

    /// As it stands in a URI and in a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apiserver => "apiserver",
            Self::Agent => "agent",
            Self::Admin => "admin",
            Self::Etcd => "etcd",
        }
    }
}

/// A role within a cluster: `clustermesh://<cluster>/<role>`, the URI that a certificate carries as its subject alternative
/// name (RFC 5280 §4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub cluster: ClusterName,
    pub role: Role,
}

/// Why a URI is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("{uri:?} is not clustermesh://<cluster>/<role>")]
    Form { uri: String },
    #[error("the role {role:?} is none of apiserver, agent, admin, etcd")]
    Role { role: String },
    #[error("the cluster in {uri:?} can't be one")]
    Cluster { uri: String, source: NameError },
}

impl Identity {
    pub fn new(cluster: ClusterName, role: Role) -> Self {
        Self { cluster, role }
    }

    /// Whether a URI claims to be an identity, well-formed or not: others may stand beside it in a certificate.
    pub(crate) fn is_claimed_by(uri: &str) -> bool {
        uri.get(..CLAIM.len()).is_some_and(|start| start.eq_ignore_ascii_case(CLAIM))
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form { uri: shown(uri) };
        let (cluster, role) =
            uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or_else(form)?;
        let cluster =
            ClusterName::new(cluster).map_err(|source| IdentityError::Cluster { uri: shown(uri), source })?;
        let role = Role::ALL
            .into_iter()
            .find(|known| known.as_str() == role)
            .ok_or_else(|| IdentityError::Role { role: shown(role) })?;
        Ok(Self { cluster, role })
    }
}

/// The beginning of a text that somebody else wrote, for an error message.
fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.cluster, self.role.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_written_identity_reads_as_itself(name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", role in 0..4usize) {
            let identity = Identity::new(ClusterName::new(&name).unwrap(), Role::ALL[role]);
            prop_assert_eq!(identity.to_string().parse::<Identity>().unwrap(), identity);
        }

        #[test]
        fn no_text_is_read_as_another_than_it_says(text in "\\PC{0,80}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_uri_is_said() {
        let error = |uri: &str| uri.parse::<Identity>().unwrap_err().to_string();
        assert_eq!(
            error("spiffe://hoth/agent"),
            r#""spiffe://hoth/agent" is not clustermesh://<cluster>/<role>"#
        );
        assert_eq!(
            error("clustermesh://hoth"),
            r#""clustermesh://hoth" is not clustermesh://<cluster>/<role>"#
        );
        assert_eq!(
            error("clustermesh://hoth/root"),
            r#"the role "root" is none of apiserver, agent, admin, etcd"#
        );
        assert_eq!(
            error("clustermesh://Hoth/agent"),
            r#"the cluster in "clustermesh://Hoth/agent" can't be one"#
        );
        assert!("clustermesh://hoth/agent/".parse::<Identity>().is_err());
        assert!("CLUSTERMESH://hoth/agent".parse::<Identity>().is_err());
    }

    #[test]
    fn a_claim_in_other_letters_is_still_a_claim() {
        assert!(Identity::is_claimed_by("ClusterMesh://hoth/agent"));
        assert!(Identity::is_claimed_by("clustermesh:hoth/agent"));
        assert!(!Identity::is_claimed_by("spiffe://hoth/agent"));
        assert!(!Identity::is_claimed_by("cluster\u{df}"));
    }
}
