//! How much of big answers may be on its way to the readers of one cluster at once, and how many calls they may have, so that
//! those who don't read what they asked for take no memory from others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mesh_model::name::ClusterName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Smaller answers are not counted: what a stream may hold anyway.
const FREE_BYTES: usize = 32 << 10;
const UNIT_BYTES: usize = 1 << 10;
/// The same of a stream, which may hold two.
const FREE_CHUNK_BYTES: usize = 4 << 10;
/// Calls of the readers of one cluster at once, streams included.
const MAX_CALLS: usize = 16_384;

/// A share for each cluster, which only clusters that are trusted get to.
#[derive(Debug)]
pub(crate) struct Budget {
    units: usize,
    patience: Duration,
    shares: Mutex<HashMap<ClusterName, Share>>,
}

impl Budget {
    /// So many bytes for each cluster; whoever wants more waits for so long.
    pub(crate) fn new(bytes: usize, patience: Duration) -> Self {
        Self { units: bytes / UNIT_BYTES, patience, shares: Mutex::default() }
    }

    pub(crate) fn share(&self, cluster: &ClusterName) -> Share {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Share {
            units: self.units,
            patience: self.patience,
            left: Arc::new(Semaphore::new(self.units)),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
        };
        shares.entry(cluster.clone()).or_insert_with(new).clone()
    }
}

/// What is left for one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    units: usize,
    patience: Duration,
    left: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

/// Room for an answer, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _taken: Option<OwnedSemaphorePermit>,
}

/// Bytes of an answer, which give their room back when the last of them is sent.
struct Held {
    data: Bytes,
    _room: Arc<Room>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

pub(super) fn held(data: Bytes, room: &Arc<Room>) -> Bytes {
    Bytes::from_owner(Held { data, _room: Arc::clone(room) })
}

impl Share {
    /// Room for a call, until it is dropped; none where the cluster has as many as it may.
    pub(super) fn call(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.calls).try_acquire_owned().ok()
    }

    /// Waits until there is room for anything; false where none comes in time.
    pub(super) async fn has_room(&self) -> bool {
        self.left.available_permits() > 0
            || matches!(timeout(self.patience, self.left.acquire()).await, Ok(Ok(_)))
    }

    /// Part of a stream, which was made because there was room. It takes what is left where that is less than it needs, so that
    /// nothing more is made.
    pub(super) fn chunk(&self, data: Bytes) -> Bytes {
        if data.len() <= FREE_CHUNK_BYTES {
            return data;
        }
        let mut units = data.len().div_ceil(UNIT_BYTES).min(self.units);
        while let Ok(wanted @ 1..) = u32::try_from(units) {
            if let Ok(taken) = Arc::clone(&self.left).try_acquire_many_owned(wanted) {
                return held(data, &Arc::new(Room { _taken: Some(taken) }));
            }
            units = (units - 1).min(self.left.available_permits());
        }
        data
    }

    /// Room for so many bytes; none where it does not come in time. An answer that is bigger than the share takes all of it.
    pub(super) async fn room(&self, bytes: usize) -> Option<Room> {
        if bytes <= FREE_BYTES {
            return Some(Room { _taken: None });
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES).min(self.units)).ok()?;
        let taken = timeout(self.patience, Arc::clone(&self.left).acquire_many_owned(units)).await;
        Some(Room { _taken: Some(taken.ok()?.ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(bytes: usize) -> Share {
        let budget = Budget::new(bytes, Duration::from_millis(1));
        budget.share(&ClusterName::new("yavin").expect("a name"))
    }

    #[tokio::test]
    async fn streams_that_are_not_read_hold_their_share_and_a_chunk_at_most() {
        let (share, mut held) = (share(100 << 10), Vec::new());
        while share.has_room().await {
            held.push(share.chunk(Bytes::from(vec![0; 30 << 10])));
        }
        assert_eq!(held.len(), 4);
        assert!(share.room(64 << 10).await.is_none());
        held.pop();
        assert!(share.has_room().await);
        held.clear();
        assert_eq!(share.left.available_permits(), 100);
        let small = share.chunk(Bytes::from(vec![0; 4 << 10]));
        assert_eq!((small.len(), share.left.available_permits()), (4 << 10, 100));
    }

    #[test]
    fn the_calls_of_a_cluster_are_bounded() {
        let share = share(1);
        let calls: Vec<_> = (0..MAX_CALLS + 1).map_while(|_| share.call()).collect();
        assert_eq!(calls.len(), MAX_CALLS);
        drop(calls);
        assert!(share.call().is_some());
    }
}
