//! Who could lead at once: a key for each replica, under a lease of its own, for as long as it could.
//!
//! A leader that should resign asks whether anybody else stands by. Outside of what peers read.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use mesh_model::name::ClusterName;
use mesh_model::record::{KeyRange, Kind};

use crate::election::leader_key;
use crate::fault::{CallError, CallReason};
use crate::lease::Lease;
use crate::session::Session;

/// What one replica says of itself, and hears of the others.
#[derive(Debug)]
pub struct Standby {
    prefix: String,
    key: String,
    holder: String,
    /// While the key may stand.
    lease: Mutex<Option<Lease>>,
}

impl Standby {
    /// `replica` is this process's name among the replicas; `holder` is what people know it by.
    pub fn new(cluster: &ClusterName, replica: &str, holder: &str) -> Self {
        let prefix = prefix(cluster);
        Self { key: format!("{prefix}{replica}"), prefix, holder: holder.into(), lease: Mutex::default() }
    }

    /// Says that this replica could lead.
    pub async fn announce(&self, session: &Session) -> Result<(), CallError> {
        Lease::granted(session, async |lease| {
            *self.lease() = Some(lease);
            let options = PutOptions::new().with_lease(lease.id);
            let put = TxnOp::put(self.key.as_str(), self.holder.as_str(), Some(options));
            session.commit("announcing a standby", Txn::new().and_then([put])).await.map(drop)
        })
        .await
    }

    /// Keeps the announcement until that fails.
    pub async fn keep(&self, session: &Session) -> Result<Infallible, CallError> {
        let lease = *self.lease();
        match lease {
            Some(lease) => lease.keep(session).await,
            None => std::future::pending().await,
        }
    }

    /// Takes the announcement back, if there is one.
    pub async fn withdraw(&self, session: &Session) -> Result<(), CallError> {
        let lease = self.lease().take();
        match lease {
            Some(lease) => lease.revoke(session).await,
            None => Ok(()),
        }
    }

    /// Whether this replica may be announced.
    pub fn is_announced(&self) -> bool {
        self.lease().is_some()
    }

    /// The other replicas that could lead.
    pub async fn others(&self, session: &Session) -> Result<Vec<String>, CallError> {
        let mut others = Vec::new();
        let mut pages = session.list("reading who stands by", &self.prefix);
        while let Some(page) = pages.next().await? {
            let theirs = page.entries.into_iter().filter(|entry| entry.key != self.key);
            others.extend(theirs.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()));
        }
        Ok(others)
    }

    fn lease(&self) -> MutexGuard<'_, Option<Lease>> {
        // A writer only ever replaces the value.
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks etcd whether it lets us lead: write a cluster's records and the keys of leader and standbys. Changes nothing: etcd
/// checks the rights that a transaction takes also where its comparisons don't hold, and these never do.
pub async fn may_lead(session: &Session, cluster: &ClusterName) -> Result<(), CallError> {
    let records = Kind::ALL.into_iter().map(|kind| match kind.range(cluster) {
        KeyRange::One(key) => key,
        KeyRange::Prefix(prefix) => format!("{prefix}any"),
    });
    let keys = records.chain([leader_key(cluster), format!("{}any", prefix(cluster))]);
    let puts: Vec<TxnOp> = keys.map(|key| TxnOp::put(key, "", None)).collect();
    let never = Compare::create_revision(leader_key(cluster), CompareOp::Less, 0);
    let asking = Txn::new().when([never]).and_then(puts);
    session.commit("asking whether this replica may write", asking).await.map(drop)
}

/// Whether etcd has decided against us: another may fare better, and trying again does not.
pub fn is_denied(reason: &CallReason) -> bool {
    matches!(reason, CallReason::Auth(_) | CallReason::Refused(_))
}

/// What the keys of all replicas of a cluster begin with.
fn prefix(cluster: &ClusterName) -> String {
    format!("clustermesh/standby/{cluster}/")
}
