//! How many connections there may be, and whose: strangers and peers have bounds of their own, so that neither keeps the others
//! out.
//!
//! Everybody is a stranger until the handshake has ended. The next one is always let in; where there are too many, the oldest
//! goes, for an honest handshake is short. Peers share the seats by cluster: while some are free anybody may have them, and
//! when none is, a cluster that has fewer than the greediest one gets a seat of that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_model::name::ClusterName;
use tokio_util::sync::CancellationToken;

/// Connections whose handshake has not ended.
const MAX_STRANGERS: usize = 1024;
/// Connections of peers.
const MAX_SEATS: usize = 4096;

/// The connections of one server. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Seats(Arc<Mutex<Table>>);

/// A place among the connections, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    table: Arc<Mutex<Table>>,
    id: u64,
    cluster: Option<ClusterName>,
    taken: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    strangers: BTreeMap<u64, CancellationToken>,
    peers: BTreeMap<ClusterName, BTreeMap<u64, CancellationToken>>,
    count: usize,
}

impl Seats {
    pub(super) fn for_stranger(&self) -> Seat {
        let mut table = self.lock();
        let (id, taken) = table.ticket();
        table.strangers.insert(id, taken.clone());
        if table.strangers.len() > MAX_STRANGERS
            && let Some((_, oldest)) = table.strangers.pop_first()
        {
            oldest.cancel();
        }
        self.seat(id, None, taken)
    }

    /// None where the cluster has its share.
    pub(super) fn for_peer(&self, cluster: &ClusterName) -> Option<Seat> {
        let mut table = self.lock();
        let (id, taken) = table.ticket();
        if table.count >= MAX_SEATS && !table.free_one_for(cluster) {
            return None;
        }
        table.peers.entry(cluster.clone()).or_default().insert(id, taken.clone());
        table.count += 1;
        Some(self.seat(id, Some(cluster.clone()), taken))
    }

    fn seat(&self, id: u64, cluster: Option<ClusterName>, taken: CancellationToken) -> Seat {
        Seat { table: Arc::clone(&self.0), id, cluster, taken }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn ticket(&mut self) -> (u64, CancellationToken) {
        self.next += 1;
        (self.next, CancellationToken::new())
    }

    /// Takes the youngest seat of the cluster that has most, where this one stays below that. The older ones belong to who was
    /// there before the rush.
    fn free_one_for(&mut self, cluster: &ClusterName) -> bool {
        let has = self.peers.get(cluster).map_or(0, BTreeMap::len);
        let Some(most) = self.peers.values_mut().max_by_key(|seats| seats.len()) else { return false };
        if has + 1 >= most.len() {
            return false;
        }
        if let Some((_, youngest)) = most.pop_last() {
            youngest.cancel();
            self.count -= 1;
        }
        true
    }

    fn remove(&mut self, id: u64, cluster: Option<&ClusterName>) {
        let Some(cluster) = cluster else {
            self.strangers.remove(&id);
            return;
        };
        let Some(seats) = self.peers.get_mut(cluster) else { return };
        self.count -= usize::from(seats.remove(&id).is_some());
        if seats.is_empty() {
            self.peers.remove(cluster);
        }
    }
}

impl Seat {
    /// Returns once somebody else has it.
    pub(super) async fn taken(&self) {
        self.taken.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id, self.cluster.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    fn kept(seats: &[Seat]) -> usize {
        seats.iter().filter(|seat| !seat.taken.is_cancelled()).count()
    }

    #[test]
    fn a_stranger_is_always_let_in_and_the_oldest_goes() {
        let seats = Seats::default();
        let mut all: Vec<Seat> = (0..MAX_STRANGERS + 10).map(|_| seats.for_stranger()).collect();
        assert!(all[..10].iter().all(|seat| seat.taken.is_cancelled()) && kept(&all) == MAX_STRANGERS);
        all.drain(..20);
        all.extend((0..10).map(|_| seats.for_stranger()));
        assert_eq!(kept(&all), MAX_STRANGERS);
        drop(all);
        assert!(seats.lock().strangers.is_empty());
    }

    #[test]
    fn a_cluster_may_have_all_seats_until_another_one_comes() {
        let seats = Seats::default();
        let take = |name: &str, count: usize| -> Vec<Seat> {
            (0..count).filter_map(|_| seats.for_peer(&cluster(name))).collect()
        };
        let greedy = take("greedy", MAX_SEATS + 100);
        assert_eq!(greedy.len(), MAX_SEATS);
        let modest = take("modest", 100);
        assert_eq!((modest.len(), kept(&greedy)), (100, MAX_SEATS - 100));
        assert!(kept(&greedy[..MAX_SEATS - 100]) == MAX_SEATS - 100, "the oldest stay");
        // Two that want all of it have half each, and take nothing of the third.
        let other = take("other", MAX_SEATS);
        let half = (MAX_SEATS - 100) / 2;
        assert!(kept(&greedy).abs_diff(half) <= 1 && kept(&other).abs_diff(half) <= 1);
        assert_eq!((kept(&modest), seats.lock().count), (100, MAX_SEATS));
        drop((greedy, modest, other));
        let table = seats.lock();
        assert!(table.peers.is_empty() && table.count == 0);
    }
}
