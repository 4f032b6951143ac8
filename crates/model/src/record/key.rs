//! The key space: where a record stands in etcd.

use std::fmt;
use std::str::FromStr;

use super::rejection::shorten;
use crate::name::{ClusterName, NameError, NodeName, ServiceName, SliceName};

/// Everything that this project stores begins with this.
pub const PREFIX: &str = "clustermesh/v1/";

/// A kind of record: the first part of a key after [`PREFIX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Clusters,
    Alive,
    Services,
    Endpoints,
    Nodes,
    Synced,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Clusters, Self::Alive, Self::Services, Self::Endpoints, Self::Nodes, Self::Synced];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clusters => "clusters",
            Self::Alive => "alive",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Nodes => "nodes",
            Self::Synced => "synced",
        }
    }

    /// Where the records of this kind of one cluster stand.
    pub fn range(self, cluster: &ClusterName) -> KeyRange {
        match self {
            Self::Clusters | Self::Alive => KeyRange::One(format!("{PREFIX}{}/{cluster}", self.as_str())),
            Self::Services | Self::Endpoints | Self::Nodes | Self::Synced => {
                KeyRange::Prefix(format!("{PREFIX}{}/{cluster}/", self.as_str()))
            }
        }
    }
}

/// One key, or all keys with a prefix. (`clusters/rebel` is also a prefix of `clusters/rebel-2`.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    One(String),
    Prefix(String),
}

impl KeyRange {
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Prefix(prefix) => key.starts_with(prefix),
        }
    }
}

/// The kinds of which an exporter says when it has written all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncedKind {
    Services,
    Endpoints,
    Nodes,
}

impl SyncedKind {
    pub const ALL: [Self; 3] = [Self::Services, Self::Endpoints, Self::Nodes];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Services => Kind::Services.as_str(),
            Self::Endpoints => Kind::Endpoints.as_str(),
            Self::Nodes => Kind::Nodes.as_str(),
        }
    }
}

/// A key of the key space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    Cluster(ClusterName),
    Alive(ClusterName),
    Service(ClusterName, ServiceName),
    Slice(ClusterName, ServiceName, SliceName),
    Node(ClusterName, NodeName),
    Synced(ClusterName, SyncedKind),
}

impl RecordKey {
    /// Below whose name the key stands.
    pub fn cluster(&self) -> &ClusterName {
        match self {
            Self::Cluster(cluster)
            | Self::Alive(cluster)
            | Self::Service(cluster, _)
            | Self::Slice(cluster, ..)
            | Self::Node(cluster, _)
            | Self::Synced(cluster, _) => cluster,
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Cluster(_) => Kind::Clusters,
            Self::Alive(_) => Kind::Alive,
            Self::Service(..) => Kind::Services,
            Self::Slice(..) => Kind::Endpoints,
            Self::Node(..) => Kind::Nodes,
            Self::Synced(..) => Kind::Synced,
        }
    }

    /// What all slice keys of a service begin with.
    pub(crate) fn slices_prefix(cluster: &ClusterName, service: &ServiceName) -> String {
        format!("{PREFIX}{}/{cluster}/{service}/", Kind::Endpoints.as_str())
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/{}", self.kind().as_str(), self.cluster())?;
        match self {
            Self::Cluster(_) | Self::Alive(_) => Ok(()),
            Self::Service(_, service) => write!(f, "/{service}"),
            Self::Slice(_, service, slice) => write!(f, "/{service}/{slice}"),
            Self::Node(_, node) => write!(f, "/{node}"),
            Self::Synced(_, kind) => write!(f, "/{}", kind.as_str()),
        }
    }
}

/// Why a text is no key of the key space.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key does not begin with {PREFIX}; it is not ours to read")]
    Prefix,
    #[error("{kind:?} is no kind of record that this version knows")]
    Kind { kind: String },
    #[error("the key has the wrong number of parts; a key of this kind is {form}")]
    Parts { form: &'static str },
    #[error("the key holds an invalid name: {0}")]
    Name(NameError),
}

impl From<NameError> for KeyError {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}

impl FromStr for RecordKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix(PREFIX).ok_or(KeyError::Prefix)?;
        let mut parts = rest.split('/');
        let kind = parts.next().unwrap_or_default();
        // One more than any key has, so that a longer key is seen to be too long.
        let parts: Vec<&str> = parts.take(5).collect();
        match (kind, parts.as_slice()) {
            ("clusters", [cluster]) => Ok(Self::Cluster(ClusterName::new(cluster)?)),
            ("alive", [cluster]) => Ok(Self::Alive(ClusterName::new(cluster)?)),
            ("services", [cluster, namespace, name]) => {
                Ok(Self::Service(ClusterName::new(cluster)?, ServiceName::new(namespace, name)?))
            }
            ("endpoints", [cluster, namespace, name, slice]) => Ok(Self::Slice(
                ClusterName::new(cluster)?,
                ServiceName::new(namespace, name)?,
                SliceName::new(slice)?,
            )),
            ("nodes", [cluster, node]) => Ok(Self::Node(ClusterName::new(cluster)?, NodeName::new(node)?)),
            ("synced", [cluster, kind]) => Ok(Self::Synced(ClusterName::new(cluster)?, synced_kind(kind)?)),
            (kind, _) => Err(wrong_form(kind)),
        }
    }
}

fn synced_kind(text: &str) -> Result<SyncedKind, KeyError> {
    let found = SyncedKind::ALL.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| KeyError::Kind { kind: shorten(text) })
}

fn wrong_form(kind: &str) -> KeyError {
    let form = match kind {
        "clusters" => "clusters/<cluster>",
        "alive" => "alive/<cluster>",
        "services" => "services/<cluster>/<namespace>/<name>",
        "endpoints" => "endpoints/<cluster>/<namespace>/<name>/<slice>",
        "nodes" => "nodes/<cluster>/<node>",
        "synced" => "synced/<cluster>/<kind>",
        _ => return KeyError::Kind { kind: shorten(kind) },
    };
    KeyError::Parts { form }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_the_contract_says() {
        let cluster = ClusterName::new("rebels").unwrap();
        let service: ServiceName = "default/rebel-base".parse().unwrap();
        let slice = SliceName::new("rebel-base-x1").unwrap();
        let node = NodeName::new("node-1.example").unwrap();
        let keys = [
            (RecordKey::Cluster(cluster.clone()), "clustermesh/v1/clusters/rebels"),
            (RecordKey::Alive(cluster.clone()), "clustermesh/v1/alive/rebels"),
            (
                RecordKey::Service(cluster.clone(), service.clone()),
                "clustermesh/v1/services/rebels/default/rebel-base",
            ),
            (
                RecordKey::Slice(cluster.clone(), service.clone(), slice),
                "clustermesh/v1/endpoints/rebels/default/rebel-base/rebel-base-x1",
            ),
            (RecordKey::Node(cluster.clone(), node), "clustermesh/v1/nodes/rebels/node-1.example"),
            (
                RecordKey::Synced(cluster.clone(), SyncedKind::Endpoints),
                "clustermesh/v1/synced/rebels/endpoints",
            ),
        ];
        for (key, text) in keys {
            assert_eq!(key.to_string(), text);
            assert_eq!(text.parse(), Ok(key.clone()));
            assert_eq!(key.cluster(), &cluster);
            assert!(key.kind().range(&cluster).contains(text));
        }
        assert!(
            "clustermesh/v1/endpoints/rebels/default/rebel-base/rebel-base-x1"
                .starts_with(&RecordKey::slices_prefix(&cluster, &service))
        );
    }

    #[test]
    fn anything_else_is_no_key() {
        for bad in [
            "",
            "x",
            "clustermesh/v1",
            "clustermesh/v1/",
            "clustermesh/v2/clusters/a",
            "clustermesh/v1/clusters",
            "clustermesh/v1/clusters/",
            "clustermesh/v1/clusters/a/",
            "clustermesh/v1/clusters/A",
            "clustermesh/v1/services/a/b",
            "clustermesh/v1/services/a/b/c/d",
            "clustermesh/v1/endpoints/a/b/c",
            "clustermesh/v1/endpoints/a/b/c/d/e",
            "clustermesh/v1/endpoints/a/b/c/d/e/f",
            "clustermesh/v1/nodes/a",
            "clustermesh/v1/synced/a/secrets",
            "clustermesh/v1/secrets/a",
            "/clustermesh/v1/clusters/a",
        ] {
            assert!(bad.parse::<RecordKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_range_of_a_cluster_does_not_hold_a_longer_name() {
        let rebel = ClusterName::new("rebel").unwrap();
        for kind in Kind::ALL {
            let other = format!("{PREFIX}{}/rebel-2", kind.as_str());
            assert!(!kind.range(&rebel).contains(&other));
            assert!(!kind.range(&rebel).contains(&format!("{other}/a/b")));
        }
    }
}
