//! Which records are served at all, and which of them a reader sees.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use mesh_kv::RawEntry;
use mesh_model::name::ClusterName;
use mesh_model::record::{KeyRange, Kind};

use super::record::Stored;

/// Who sees a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    Everybody,
    /// These peers, beside the serving cluster itself. Nothing sets it yet: `clustermesh.io/export-to` will.
    #[cfg_attr(not(test), expect(dead_code, reason = "records name no audience yet"))]
    Only(Arc<BTreeSet<ClusterName>>),
}

/// Says of a record whether it is served, and to whom.
type Admit = dyn Fn(&RawEntry) -> Option<Audience> + Send + Sync;

/// What a cache holds. Everything else in etcd is not in its memory, whoever asks.
#[derive(Clone)]
pub(crate) struct Scope(Arc<Admit>);

impl Scope {
    /// The records of one cluster, of the kinds that peers read.
    pub(crate) fn of_cluster(cluster: &ClusterName) -> Self {
        let ranges: Vec<KeyRange> = Kind::ALL.into_iter().map(|kind| kind.range(cluster)).collect();
        Self(Arc::new(move |entry| {
            let key = std::str::from_utf8(&entry.key).ok()?;
            ranges.iter().any(|range| range.contains(key)).then_some(Audience::Everybody)
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
        match (self, &record.audience) {
            (Self::Own, _) | (_, Audience::Everybody) => true,
            (Self::Peer(peer), Audience::Only(peers)) => peers.contains(peer),
        }
    }
}
