//! The inputs of the merge loop: the own source and the peers. Never decides anything from them.

use std::sync::Arc;
use std::time::Instant;

use mesh_model::snapshot::ClusterSnapshot;
use tokio::sync::watch;

use super::merger::PeerInputs;
use crate::peers::PeerSet;

/// The channels that the loop reads.
pub struct Inputs {
    pub local: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    /// When the own source last said that its snapshot is current.
    pub confirmed: watch::Receiver<Option<Instant>>,
    pub peers: watch::Receiver<Arc<PeerSet>>,
}

/// The state of the sources at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    pub(super) local: Option<Arc<ClusterSnapshot>>,
    pub(super) peers: PeerInputs,
    /// When the own source confirmed `local`, or something older.
    pub(super) confirmed: Option<Instant>,
}

impl Inputs {
    /// Returns when there is something new. Never returns where nobody will say anything any more.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.local.changed() => {}
            Ok(()) = self.peers.changed() => {}
            else => std::future::pending().await,
        }
    }

    pub(super) fn read(&mut self) -> News {
        // Before the snapshot that it is about, which may be newer by now but not older.
        let confirmed = *self.confirmed.borrow();
        let local = self.local.borrow_and_update().clone();
        News { local, peers: PeerInputs::of(&self.peers.borrow_and_update()), confirmed }
    }

    /// When the own source confirmed what was last read; none where there is something newer to read.
    pub(super) fn reconfirmed(&self) -> Option<Instant> {
        // In this order: what comes in between is newer.
        let confirmed = *self.confirmed.borrow();
        confirmed.filter(|_| !self.local.has_changed().unwrap_or(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_about_something_newer_confirms_nothing_that_was_read() {
        let (local, confirmed) = (watch::Sender::new(None), watch::Sender::new(None));
        let peers = watch::Sender::new(Arc::default());
        let mut inputs =
            Inputs { local: local.subscribe(), confirmed: confirmed.subscribe(), peers: peers.subscribe() };
        let snapshot = || Some(Arc::new(ClusterSnapshot::default()));
        let now = Instant::now();
        assert!(inputs.read().local.is_none());
        local.send_replace(snapshot());
        confirmed.send_replace(Some(now));
        assert_eq!(inputs.reconfirmed(), None, "it is about what was not read yet");
        assert_eq!(inputs.read().confirmed, Some(now));
        assert_eq!(inputs.reconfirmed(), Some(now));
        drop(local);
        assert_eq!(inputs.reconfirmed(), Some(now), "a source that is gone says nothing newer");
    }
}
