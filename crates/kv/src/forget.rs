//! Removes what a cluster has left in an etcd, once nobody writes it any more.
//!
//! The order is one that no reader takes for its exporter's word, wherever it is interrupted: the `synced` markers go
//! first and alone, for without them a reader deletes nothing; the cluster record goes last, so that an exporter of
//! another name stays away until everything is gone. Every transaction compares that nobody leads under the name.

use etcd_client::{Txn, TxnOp};
use mesh_model::name::ClusterName;
use mesh_model::record::{Kind, PREFIX, RecordKey};

use crate::election::{leader, vacant};
use crate::fault::CallError;
use crate::publish::MAX_OPERATIONS;
use crate::session::Session;

/// What stands in an etcd below a cluster's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    cluster: ClusterName,
    markers: Vec<String>,
    records: Vec<String>,
    cluster_key: Option<String>,
    /// Who leads under the name.
    pub leader: Option<String>,
    /// Other clusters that have a cluster record here.
    pub others: Vec<String>,
}

/// Why not everything was removed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ForgetError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("an exporter leads under the name {cluster} by now; {deleted} records were deleted before")]
    Led { cluster: ClusterName, deleted: usize },
}

impl Remains {
    /// Reads them.
    pub async fn read(session: &Session, cluster: &ClusterName) -> Result<Self, CallError> {
        let mut remains = Self {
            cluster: cluster.clone(),
            markers: Vec::new(),
            records: Vec::new(),
            cluster_key: None,
            leader: leader(session, cluster).await?,
            others: Vec::new(),
        };
        let mut pages = session.list("reading what a cluster has left", PREFIX);
        while let Some(page) = pages.next().await? {
            page.entries.into_iter().for_each(|entry| remains.sort_in(entry.key));
        }
        Ok(remains)
    }

    fn sort_in(&mut self, key: String) {
        match Kind::ALL.into_iter().find(|kind| kind.range(&self.cluster).contains(&key)) {
            Some(Kind::Synced) => self.markers.push(key),
            Some(Kind::Clusters) => self.cluster_key = Some(key),
            Some(_) => self.records.push(key),
            None => {
                if let Ok(RecordKey::Cluster(other)) = key.parse() {
                    self.others.push(other.to_string());
                }
            }
        }
    }

    /// All keys, in the order in which they go.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.markers.iter().chain(&self.records).chain(&self.cluster_key).map(String::as_str)
    }

    /// Deletes them as long as nobody leads under the name. Returns how many there were.
    pub async fn delete(&self, session: &Session) -> Result<usize, ForgetError> {
        let last: Vec<String> = self.cluster_key.iter().cloned().collect();
        let parts = self.markers.chunks(MAX_OPERATIONS).chain(self.records.chunks(MAX_OPERATIONS));
        let mut deleted = 0;
        for keys in parts.chain(last.chunks(1)) {
            let deletions: Vec<TxnOp> = keys.iter().map(|key| TxnOp::delete(key.as_str(), None)).collect();
            let txn = Txn::new().when([vacant(&self.cluster)]).and_then(deletions);
            let done = session.commit("deleting what a cluster has left", txn).await?;
            if done.is_none() {
                return Err(ForgetError::Led { cluster: self.cluster.clone(), deleted });
            }
            deleted += keys.len();
        }
        Ok(deleted)
    }
}
