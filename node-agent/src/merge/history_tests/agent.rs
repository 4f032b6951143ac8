//! An agent without its shell: the real views, peer set and planner, over maps that outlive it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mesh_kv::Change;
use mesh_model::address_policy::{AddressPolicy, OwnRanges};
use mesh_model::desired::Frontend;
use mesh_model::name::ClusterName;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::view::{PeerPin, PeerView};
use mesh_peers::folder::Peer;
use mesh_peers::{PeerFile, PeerFileError, Problem};

use super::CAPACITY;
use super::cluster::{Cluster, Etcd, id_of, name_of};
use super::kernel::Kernel;
use crate::datapath::actual::Actual;
use crate::datapath::plan::Retired;
use crate::datapath::restore::restore;
use crate::merge::merger::{Merger, PeerInputs};
use crate::merge::passes::Passes;
use crate::merge::planner::Planner;
use crate::merge::sources::News;
use crate::merge::testing;
use crate::peers::{PeerSet, PeerStatus};

/// A peer file on disk: which edition of it, and whether it is a good one.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    pub(super) edition: u16,
    pub(super) good: bool,
}

/// The folder of peer files, by the peer's id.
pub(super) type Disk = BTreeMap<u8, File>;

/// In what order things come that may come in any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Forward,
    Backward,
}

impl Order {
    fn of<T>(self, items: impl DoubleEndedIterator<Item = T>) -> Vec<T> {
        match self {
            Self::Forward => items.collect(),
            Self::Backward => items.rev().collect(),
        }
    }
}

/// Follows one peer.
struct Reader {
    view: PeerView,
    /// Life and revision of the etcd up to which everything is known; none before the first list.
    known: Option<(u32, usize)>,
    file: Arc<PeerFile>,
}

/// The agent of cluster 1.
pub(super) struct Agent {
    passes: Passes<Kernel>,
    now: Instant,
    /// What waits for its grace period.
    retired: Retired,
    local: Option<Arc<ClusterSnapshot>>,
    folder_read: bool,
    set: PeerSet,
    readers: BTreeMap<ClusterName, Reader>,
}

impl Agent {
    pub(super) fn new() -> Self {
        Self::starting(Kernel::new())
    }

    /// An agent that knows nothing but what the maps hold.
    pub(super) fn starting(mut kernel: Kernel) -> Self {
        (kernel.budget, kernel.refusals) = (None, None);
        kernel.begin();
        let restored = restore(&kernel.contents(), CAPACITY);
        assert_eq!((restored.damaged, restored.foreign.len()), (0, 0));
        let merger = Merger::new(id_of(1), true, restored.actual);
        Self {
            passes: testing::passes(kernel, merger, restored.leftover),
            now: Instant::now(),
            retired: Retired::default(),
            local: None,
            folder_read: false,
            set: PeerSet::default(),
            readers: BTreeMap::new(),
        }
    }

    /// Killed and started again.
    pub(super) fn restarted(mut self) -> Self {
        Self::starting(std::mem::take(self.passes.maps()))
    }

    pub(super) fn kernel(&mut self) -> &mut Kernel {
        self.passes.maps()
    }

    fn planner(&self) -> &Planner<Kernel> {
        self.passes.planner()
    }

    fn news(&self) -> News {
        News { local: self.local.clone(), peers: PeerInputs::of(&self.set), confirmed: None }
    }

    /// The own source has something to say.
    pub(super) fn hear(&mut self, truth: &ClusterSnapshot) {
        self.local = Some(Arc::new(truth.clone()));
    }

    /// Reads the folder of peer files completely, and starts and stops readers.
    pub(super) fn read_folder(&mut self, disk: &Disk) {
        self.folder_read = true;
        let before = std::mem::take(&mut self.set.peers);
        for (id, file) in disk {
            let name = name_of(*id);
            let known = before.get(&name);
            let peer = outcome(*id, *file, known.and_then(|status| status.file.clone()));
            let status = crate::peers::folder::status(known, &peer, &OwnRanges::default());
            if let Some(file) = peer.file {
                let running = self.readers.get(&name).is_some_and(|reader| Arc::ptr_eq(&reader.file, &file));
                if !running {
                    self.readers.insert(name.clone(), Reader::new(file));
                }
            }
            self.set.peers.insert(name, status);
        }
        let set = &self.set;
        self.readers.retain(|name, _| set.peers.contains_key(name));
        self.set.claimed = Some(disk.keys().map(|id| id_of(*id)).collect());
    }

    /// The peer's reader gets the next revisions. Where it can't go on from what it knows, it lists.
    pub(super) fn deliver(&mut self, peer: &Cluster, revisions: usize, order: Order) {
        let Some(reader) = self.readers.get_mut(peer.name()) else { return };
        let etcd = &peer.etcd;
        match reader.known {
            Some((life, known)) if life == etcd.life => {
                let next = etcd.revision().min(known.saturating_add(revisions));
                etcd.log[known..next].iter().for_each(|changes| reader.take(changes, order));
                reader.known = Some((life, next));
            }
            _ => reader.list(etcd, order),
        }
        self.show(peer.name());
    }

    /// The last revisions come once more.
    pub(super) fn repeat(&mut self, peer: &Cluster, revisions: usize, order: Order) {
        let Some(reader) = self.readers.get_mut(peer.name()) else { return };
        let Some((life, known)) = reader.known else { return };
        if life == peer.etcd.life {
            let again = &peer.etcd.log[known.saturating_sub(revisions)..known];
            again.iter().for_each(|changes| reader.take(changes, order));
        }
        self.show(peer.name());
    }

    /// The peer's reader lists everything anew, after lists that broke off.
    pub(super) fn list(&mut self, peer: &Cluster, broken_off: usize, order: Order) {
        let Some(reader) = self.readers.get_mut(peer.name()) else { return };
        if broken_off > 0 {
            reader.view.begin_list();
            let entries = order.of(peer.etcd.store.iter());
            entries.iter().take(broken_off).for_each(|(key, value)| reader.view.list_entry(key, value));
        }
        reader.list(&peer.etcd, order);
        self.show(peer.name());
    }

    /// What the peer's task does after every event.
    fn show(&mut self, peer: &ClusterName) {
        let (Some(reader), Some(status)) = (self.readers.get_mut(peer), self.set.peers.get_mut(peer)) else {
            return;
        };
        PeerStatus::learn(status, reader.view.snapshot());
    }

    /// Whether every peer that a file names is synced.
    pub(super) fn knows_all(&self) -> bool {
        self.folder_read && self.local.is_some() && self.set.peers.values().all(|peer| peer.snapshot.synced)
    }

    /// Plans and writes until nothing is left to do, as the merge loop does.
    pub(super) fn settle(&mut self) {
        self.passes.settle(&self.news(), self.now);
        self.finish();
    }

    /// Tries again what failed, until nothing fails any more where no write is refused.
    pub(super) fn retry(&mut self) {
        while let Some(at) = self.planner().retry_at() {
            self.now = at;
            self.passes.retry(self.now);
            self.finish();
            if self.kernel().refuses() {
                break;
            }
        }
    }

    /// Holds all of the maps against the mirror.
    pub(super) fn sweep(&mut self) {
        // The round under way began before.
        let whole = self.planner().rounds() + 2;
        while self.planner().rounds() < whole {
            self.passes.beat(&testing::beat(self.now));
        }
        if !self.kernel().refuses() {
            self.kernel().damaged = false;
            self.kernel().begin();
        }
        self.finish();
    }

    /// The next attempt at what is due first.
    pub(super) fn try_again(&mut self) {
        self.now = self.planner().retry_at().expect("something failed");
        self.passes.retry(self.now);
        self.finish();
    }

    /// The frontends that a write failed of.
    pub(super) fn refused(&self) -> Vec<Frontend> {
        self.planner().merger().refused().all().keys().copied().collect()
    }

    pub(super) fn is_settled_and_not_frozen(&self) -> bool {
        self.planner().is_settled() && self.planner().writer().frozen().is_none()
    }

    fn finish(&mut self) {
        assert_eq!(
            self.planner().merger().refused().shortages(),
            0,
            "{:?}",
            self.planner().merger().refused().all()
        );
        self.kernel().settled();
        let retired = self.passes.take_retired();
        self.retired.append(retired);
    }

    /// The agent is killed after so many writes; whatever it had to say is unsaid.
    pub(super) fn settle_and_crash(mut self, writes: usize) -> Self {
        self.kernel().budget = Some(writes);
        self.passes.settle(&self.news(), self.now);
        self.restarted()
    }

    /// A grace period has passed.
    pub(super) fn grace(&mut self) {
        let retired = std::mem::take(&mut self.retired);
        self.passes.release(retired, self.now);
        self.finish();
    }

    pub(super) fn actual(&self) -> &Actual {
        self.planner().merger().actual()
    }

    /// One who knows the same, but has only the maps for a memory, finds nothing to do. What was refused is shown.
    pub(super) fn assert_settled(&self) {
        if self.planner().retry_at().is_some() {
            let refused = self.planner().merger().refused().all().values();
            assert!(refused.filter(|refusal| refusal.to_string().contains("is tried again")).count() > 0);
            return;
        }
        let restored = restore(&self.planner().writer().maps.contents(), CAPACITY);
        let mut other = Merger::new(id_of(1), true, restored.actual);
        other.observe(self.local.as_ref(), &PeerInputs::of(&self.set));
        while let Some(planned) = other.next_plan() {
            assert!(planned.plan.is_empty(), "{:?}", planned.plan);
        }
    }
}

impl Reader {
    fn new(file: Arc<PeerFile>) -> Self {
        let own = OwnRanges { pods: vec!["10.1.0.0/16".parse().unwrap()], ..OwnRanges::default() };
        let policy = AddressPolicy::new(file.ranges.clone(), own);
        let view = PeerView::new(PeerPin { name: file.name.clone(), id: file.id, policy });
        Self { view, known: None, file }
    }

    /// The order within a revision means nothing.
    fn take(&mut self, changes: &[Change], order: Order) {
        for change in order.of(changes.iter()) {
            match change {
                Change::Put { key, value } => self.view.put(key, value),
                Change::Delete { key } => self.view.delete(key),
            }
        }
    }

    fn list(&mut self, etcd: &Etcd, order: Order) {
        self.view.begin_list();
        let entries = order.of(etcd.store.iter());
        entries.iter().for_each(|(key, value)| self.view.list_entry(key, value));
        self.view.end_list();
        self.known = Some((etcd.life, etcd.revision()));
    }
}

fn outcome(id: u8, file: File, last_good: Option<Arc<PeerFile>>) -> Peer {
    if !file.good {
        let error =
            PeerFileError { file: format!("c{id}.yaml"), id: Some(id_of(id)), problem: Problem::Empty };
        let kept_since = last_good.is_some().then_some(1);
        return Peer { file: last_good, error: Some(error), kept_since };
    }
    let (name, edition) = (name_of(id), file.edition);
    let text = format!(
        "id: {id}\nendpoints: [\"http://127.0.0.1:{edition}\"]\nranges: {{pods: [10.{id}.0.0/16]}}\n"
    );
    let file = PeerFile::parse(&name, &format!("c{id}.yaml"), &text).unwrap();
    let same = last_good.filter(|last| **last == file);
    Peer { file: Some(same.unwrap_or_else(|| Arc::new(file))), error: None, kept_since: None }
}
