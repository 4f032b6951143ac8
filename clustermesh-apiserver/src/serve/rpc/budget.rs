//! How much of big answers may be on its way to the readers of one cluster at once, so that those who don't read what they
//! asked for take no memory from others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_model::name::ClusterName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Smaller answers are not counted: what a stream may hold anyway.
const FREE_BYTES: usize = 32 << 10;
const UNIT_BYTES: usize = 1 << 10;

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
}

/// Room for an answer, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _taken: Option<OwnedSemaphorePermit>,
}

impl Share {
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
