//! The real merge loop, over maps that outlive it and that the test looks at while it runs.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mesh_abi::{BackendEntry, ServiceEntry, ServiceKey, SlotEntry, TableKey};
use mesh_model::annotation::Affinity;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_runtime::Readiness;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::history_tests::CAPACITY;
use super::history_tests::kernel::Kernel;
use super::merger::Merger;
use super::task::{GraceWait, Inputs, MergeTask};
use super::testing::{self, Signs};
use super::{merger_tests, query};
use crate::datapath::actual::Actual;
use crate::datapath::grace::{GraceError, Method};
use crate::datapath::inspect::Inspect;
use crate::datapath::maps::{Datapath, MapError, Refused};
use crate::datapath::plan::Retired;
use crate::peers::PeerSet;

const DEADLINE: Duration = Duration::from_secs(60);

/// The loop's maps, seen by the test too.
#[derive(Clone)]
struct Shared(Arc<Mutex<Kernel>>);

impl Shared {
    fn with<T>(&self, look: impl FnOnce(&mut Kernel) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Datapath for Shared {
    fn write_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Vec<Refused> {
        self.with(|kernel| kernel.write_backends(entries))
    }

    fn write_slots(&mut self, entries: &[(u32, SlotEntry)]) -> Vec<Refused> {
        self.with(|kernel| kernel.write_slots(entries))
    }

    fn write_services(&mut self, entries: &[(ServiceKey, ServiceEntry)]) -> Vec<Refused> {
        self.with(|kernel| kernel.write_services(entries))
    }

    fn delete_services(&mut self, keys: &[ServiceKey]) -> Vec<Refused> {
        self.with(|kernel| kernel.delete_services(keys))
    }

    fn delete_tables(&mut self, keys: &[TableKey]) -> Vec<Refused> {
        self.with(|kernel| kernel.delete_tables(keys))
    }

    fn reset_counters(&mut self, ids: &[u32]) -> Vec<Refused> {
        self.with(|kernel| kernel.reset_counters(ids))
    }

    fn check_writable(&mut self) -> Result<(), MapError> {
        self.with(Kernel::check_writable)
    }
}

impl Inspect for Shared {
    fn read_services(&self, keys: &[ServiceKey]) -> Result<Vec<Option<ServiceEntry>>, MapError> {
        self.with(|kernel| kernel.read_services(keys))
    }

    fn keys_after(&self, key: Option<&ServiceKey>, limit: usize) -> Result<Vec<ServiceKey>, MapError> {
        self.with(|kernel| kernel.keys_after(key, limit))
    }

    fn read_slots(&self, first: u32, count: u32) -> Result<Vec<SlotEntry>, MapError> {
        self.with(|kernel| kernel.read_slots(first, count))
    }

    fn read_backends(&self, first: u32, count: u32) -> Result<Vec<BackendEntry>, MapError> {
        self.with(|kernel| kernel.read_backends(first, count))
    }
}

/// Grace periods that end when the test says so.
struct Periods(Mutex<Receiver<()>>);

impl GraceWait for Periods {
    fn wait(&self) -> Result<Method, GraceError> {
        // The test may be over.
        let _ended = self.0.lock().unwrap().recv();
        Ok(Method::Membarrier)
    }

    fn method(&self) -> Method {
        Method::Membarrier
    }
}

struct Loop {
    kernel: Shared,
    signs: Signs,
    readiness: Readiness,
    local: watch::Sender<Option<Arc<ClusterSnapshot>>>,
    confirmed: watch::Sender<Option<Instant>>,
    view: watch::Receiver<Arc<query::View>>,
    end_grace: Sender<()>,
    token: CancellationToken,
    running: JoinHandle<()>,
    _peers: watch::Sender<Arc<PeerSet>>,
}

impl Loop {
    fn start() -> Self {
        let (local, confirmed) = (watch::Sender::new(None), watch::Sender::new(None));
        let peers = PeerSet { claimed: Some([].into()), ..PeerSet::default() };
        let peers = watch::Sender::new(Arc::new(peers));
        let inputs =
            Inputs { local: local.subscribe(), confirmed: confirmed.subscribe(), peers: peers.subscribe() };
        let (readiness, token, signs) = (Readiness::default(), CancellationToken::new(), Signs::default());
        let outputs = testing::outputs(&readiness);
        let (view, kernel) = (outputs.view.subscribe(), Shared(Arc::new(Mutex::new(Kernel::new()))));
        let merger = Merger::new(merger_tests::id(1), true, Actual::new(CAPACITY));
        let start = testing::start(kernel.clone(), merger, Retired::default(), &signs);
        let (end_grace, ends) = channel();
        let task = MergeTask::new(inputs, outputs, start, Arc::new(Periods(Mutex::new(ends))));
        let running = tokio::spawn(task.run(token.clone()));
        Self { kernel, signs, readiness, local, confirmed, view, end_grace, token, running, _peers: peers }
    }

    /// The own source says that a service has these hosts, or that there is none.
    fn say(&self, hosts: &[u8]) {
        let service = |hosts| (merger_tests::name(1), merger_tests::service(1, 1, Affinity::None, hosts));
        let services = (!hosts.is_empty()).then(|| service(hosts));
        self.local.send_replace(Some(Arc::new(merger_tests::snapshot(services))));
    }

    /// How many backends the entries lead to, and how many there are.
    fn backends(&self) -> (usize, usize) {
        self.kernel.with(|kernel| {
            let groups = kernel.content().into_values().flat_map(|(_, groups)| groups.into_values());
            (groups.map(|(_, _, backends)| backends.len()).sum(), kernel.contents().backends.len())
        })
    }

    fn begin(&self) {
        self.kernel.with(Kernel::begin);
    }

    async fn stop(self) {
        self.token.cancel();
        drop(self.end_grace);
        self.running.await.unwrap();
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let held = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while !holds() {
            ticks.tick().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, held).await.is_ok(), "not in time: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_source_says_is_written_and_what_it_frees_waits_for_a_grace_period() {
    let running = Loop::start();
    assert!(!running.readiness.is_ready());
    running.say(&[1, 2, 3]);
    until("the service is in the maps", || running.backends() == (3, 3)).await;
    until("and shown", || running.view.has_changed().unwrap()).await;
    running.begin();
    running.say(&[]);
    until("the service is gone", || running.backends() == (0, 3)).await;
    assert_eq!(running.backends(), (0, 3), "a program may be reading what is retired");
    running.end_grace.send(()).unwrap();
    until("what is retired is cleared", || running.backends() == (0, 0)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_tried_again_and_stopping_changes_nothing() {
    let running = Loop::start();
    running.kernel.with(|kernel| kernel.budget = Some(0));
    running.say(&[1]);
    let mut view = running.view.clone();
    view.wait_for(|view| !view.refused.is_empty()).await.unwrap();
    assert_eq!(running.backends(), (0, 0));
    running.kernel.with(|kernel| kernel.budget = None);
    until("it is written", || running.backends() == (1, 1)).await;
    view.wait_for(|view| view.refused.is_empty()).await.unwrap();
    let kernel = running.kernel.clone();
    let before = kernel.with(|kernel| kernel.content());
    running.stop().await;
    assert_eq!(kernel.with(|kernel| kernel.content()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_give_a_sign_of_life_when_the_source_confirms_and_repair_the_maps() {
    let running = Loop::start();
    running.say(&[1, 2]);
    until("the service is in the maps", || running.backends() == (2, 2)).await;
    let sign = || *running.signs.0.lock().unwrap();
    assert_eq!(sign(), None, "the source has confirmed nothing");
    running.confirmed.send_replace(Some(Instant::now()));
    until("there is a sign of life", || sign().is_some()).await;
    until("the node is ready", || running.readiness.is_ready()).await;
    // Somebody else deletes the entry.
    running.kernel.with(|kernel| kernel.damage(0, 0));
    assert_eq!(running.backends(), (0, 2));
    until("it is repaired", || running.backends() == (2, 2)).await;
    running.stop().await;
}
