//! Which records are served at all, and which of them a reader sees.

use std::fmt;
use std::sync::Arc;

use mesh_kv::RawEntry;
use mesh_model::audience::Audience;
use mesh_model::name::ClusterName;
use mesh_model::record::{KeyRange, Kind};

use super::record::Stored;

/// Says of a record whether it is served, and to whom.
type Admit = dyn Fn(&RawEntry) -> Option<Audience> + Send + Sync;

/// What a cache holds. Everything else in etcd is not in its memory, whoever asks.
#[derive(Clone)]
pub(crate) struct Scope(Arc<Admit>);

impl Scope {
    /// The records of one cluster, of the kinds that peers read. Those of a Service say themselves whom they are for.
    pub(crate) fn of_cluster(cluster: &ClusterName) -> Self {
        let ranges: Vec<(Kind, KeyRange)> =
            Kind::ALL.into_iter().map(|kind| (kind, kind.range(cluster))).collect();
        Self(Arc::new(move |entry| {
            let key = std::str::from_utf8(&entry.key).ok()?;
            let (kind, _) = ranges.iter().find(|(_, range)| range.contains(key))?;
            Some(match kind {
                Kind::Services | Kind::Endpoints => Audience::of_record(&entry.value),
                Kind::Clusters | Kind::Alive | Kind::Nodes | Kind::Synced => Audience::Everybody,
            })
        }))
    }

    #[cfg(test)]
    pub(crate) fn of(admit: impl Fn(&RawEntry) -> Option<Audience> + Send + Sync + 'static) -> Self {
        Self(Arc::new(admit))
    }

    pub(crate) fn admit(&self, entry: &RawEntry) -> Option<Audience> {
        (self.0)(entry)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

/// What one reader sees.
#[derive(Clone, Debug)]
pub(crate) enum View {
    /// Of the serving cluster: everything that is served.
    Own,
    /// Of a peer.
    Peer(ClusterName),
}

impl View {
    /// What a process of `reader` sees of `server`.
    pub(crate) fn of(reader: &ClusterName, server: &ClusterName) -> Self {
        if reader == server { Self::Own } else { Self::Peer(reader.clone()) }
    }

    pub(crate) fn sees(&self, record: &Stored) -> bool {
        match self {
            Self::Own => true,
            Self::Peer(peer) => record.audience.includes(peer),
        }
    }
}
