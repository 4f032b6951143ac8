//! One writer per cluster: whoever created the leader key while nobody had it.
//!
//! The key hangs on a lease, so that it goes with its holder. What protects the records is not the lease but the
//! key's create revision, which every transaction compares: a leader that froze, lost the key and thaws writes
//! nothing. Never waits: a candidate that is not elected asks again later.

use std::convert::Infallible;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use mesh_model::name::ClusterName;

use crate::fault::CallError;
use crate::lease::Lease;
use crate::session::Session;

/// Someone who wants to write a cluster's records.
#[derive(Clone, Debug)]
pub struct Candidate {
    key: String,
    holder: String,
}

/// The right to write, as long as the leader key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    key: String,
    lease: Lease,
    /// The leader key's create revision.
    revision: i64,
}

/// How a campaign ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Leader(Leadership),
    /// Another holds the key.
    Standby {
        holder: String,
    },
}

impl Candidate {
    /// `holder` names this process to people; it must differ between processes.
    pub fn new(cluster: &ClusterName, holder: &str) -> Self {
        // Outside of what peers read: to them it is none of the records.
        Self { key: format!("clustermesh/leader/{cluster}"), holder: holder.into() }
    }

    /// Becomes the leader if nobody is; with `previous` stays it if the key still stands.
    pub async fn campaign(
        &self,
        session: &Session,
        previous: Option<&Leadership>,
    ) -> Result<Standing, CallError> {
        if let Some(previous) = previous
            && previous.lease.renew(session).await?
            && self.holder(session).await?.is_some_and(|(_, revision)| revision == previous.revision)
        {
            return Ok(Standing::Leader(previous.clone()));
        }
        if let Some((holder, _)) = self.holder(session).await? {
            return Ok(Standing::Standby { holder });
        }
        let lease = Lease::grant(session).await?;
        match self.take(session, lease).await? {
            Some(revision) => Ok(Standing::Leader(Leadership { key: self.key.clone(), lease, revision })),
            None => {
                lease.revoke(session).await?;
                Ok(Standing::Standby { holder: "someone who was faster".into() })
            }
        }
    }

    /// Who holds the key, and its create revision.
    async fn holder(&self, session: &Session) -> Result<Option<(String, i64)>, CallError> {
        let (_, entry) = session.read("reading the leader key", &self.key).await?;
        Ok(entry.map(|entry| (String::from_utf8_lossy(&entry.value).into_owned(), entry.create_revision)))
    }

    async fn take(&self, session: &Session, lease: Lease) -> Result<Option<i64>, CallError> {
        let vacant = Compare::create_revision(self.key.as_str(), CompareOp::Equal, 0);
        let options = PutOptions::new().with_lease(lease.id);
        let put = TxnOp::put(self.key.as_str(), self.holder.as_str(), Some(options));
        session.commit("campaigning", Txn::new().when([vacant]).and_then([put])).await
    }
}

impl Leadership {
    /// Keeps the key until that fails.
    pub async fn keep(&self, session: &Session) -> Result<Infallible, CallError> {
        self.lease.keep(session).await
    }

    /// Gives the key up, so that a successor needn't wait for the lease to end.
    pub async fn resign(self, session: &Session) -> Result<(), CallError> {
        self.lease.revoke(session).await
    }

    /// Holds as long as nobody else can have become the leader.
    pub(crate) fn fence(&self) -> Compare {
        Compare::create_revision(self.key.as_str(), CompareOp::Equal, self.revision)
    }
}
