//! One writer per cluster: whoever created the leader key while nobody had it.
//!
//! The key hangs on a lease, so that it goes with its holder. What protects the records is not the lease but the
//! key's create revision, which every transaction compares: a leader that froze, lost the key and runs again writes
//! nothing. A candidate that is not elected watches the key and learns at once that it is gone.

use std::convert::Infallible;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use mesh_model::name::ClusterName;

use crate::entry::Entry;
use crate::fault::{CallError, CallReason};
use crate::lease::Lease;
use crate::raw::receive;
use crate::session::Session;

const READING: &str = "reading the leader key";

/// Outside of what peers read: to them it is none of the records.
pub(crate) fn leader_key(cluster: &ClusterName) -> String {
    format!("clustermesh/leader/{cluster}")
}

fn is_vacant(key: &str) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, 0)
}

/// Who leads a cluster, by what people know the process by.
pub(crate) async fn leader(session: &Session, cluster: &ClusterName) -> Result<Option<String>, CallError> {
    let (_, entry) = session.read(READING, &leader_key(cluster)).await?;
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// Holds as long as nobody leads a cluster.
pub(crate) fn vacant(cluster: &ClusterName) -> Compare {
    is_vacant(&leader_key(cluster))
}

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
pub enum Role {
    Leader(Leadership),
    /// Another holds the key at this revision of the store.
    Standby {
        holder: String,
        revision: i64,
    },
}

impl Candidate {
    /// `holder` names this process to people; it must differ between processes.
    pub fn new(cluster: &ClusterName, holder: &str) -> Self {
        Self { key: leader_key(cluster), holder: holder.into() }
    }

    /// Becomes the leader if nobody is; with `previous` stays it if the key still stands.
    pub async fn campaign(
        &self,
        session: &Session,
        previous: Option<&Leadership>,
    ) -> Result<Role, CallError> {
        if let Some(previous) = previous
            && self.still_stands(session, previous).await?
        {
            return Ok(Role::Leader(previous.clone()));
        }
        loop {
            if let Some((holder, revision)) = self.incumbent(session).await? {
                return Ok(Role::Standby { holder, revision });
            }
            // Where another is faster, the next look shows who.
            if let Some(leadership) =
                Lease::granted(session, async |lease| self.take(session, lease).await).await?
            {
                return Ok(Role::Leader(leadership));
            }
        }
    }

    /// Who holds the key, and the revision at which that was read. Changes nothing.
    pub async fn incumbent(&self, session: &Session) -> Result<Option<(String, i64)>, CallError> {
        let (revision, entry) = self.read(session).await?;
        Ok(entry.map(|entry| (String::from_utf8_lossy(&entry.value).into_owned(), revision)))
    }

    /// Waits until nobody holds the key any more; `revision` is the one at which somebody did.
    pub async fn vacancy(&self, session: &Session, revision: i64) -> Result<(), CallError> {
        let watching = async {
            let mut stream = session.watch_key(&self.key, revision).await?;
            loop {
                let response = receive(session, &mut stream).await?;
                // A deletion resets a key's version to 0.
                if response.events().iter().filter_map(|event| event.kv()).any(|pair| pair.version() == 0) {
                    return Ok(());
                }
            }
        };
        match watching.await {
            // The history was compacted meanwhile: only a look at the key tells.
            Err(CallError { reason: CallReason::Revision(_), .. }) => Ok(()),
            ended => ended,
        }
    }

    async fn still_stands(&self, session: &Session, previous: &Leadership) -> Result<bool, CallError> {
        match previous.lease.during(session, self.read(session)).await {
            Ok((_, entry)) => Ok(entry.is_some_and(|entry| entry.create_revision == previous.revision)),
            Err(CallError { reason: CallReason::Expired, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, session: &Session) -> Result<(i64, Option<Entry>), CallError> {
        session.read(READING, &self.key).await
    }

    /// Creates the key, unless somebody else has.
    async fn take(&self, session: &Session, lease: Lease) -> Result<Option<Leadership>, CallError> {
        let vacant = is_vacant(&self.key);
        let options = PutOptions::new().with_lease(lease.id);
        let put = TxnOp::put(self.key.as_str(), self.holder.as_str(), Some(options));
        let taken = session.commit("campaigning", Txn::new().when([vacant]).and_then([put])).await?;
        let Some(revision) = taken else {
            lease.revoke(session).await?;
            return Ok(None);
        };
        Ok(Some(Leadership { key: self.key.clone(), lease, revision }))
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
