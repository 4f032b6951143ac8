//! A restart is always safe: over every way in which the own source can be unreadable, of the agent with what it
//! remembers and without, and of the machine, which loses the maps.

mod histories;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_model::address::Address;
use mesh_model::name::ClusterId;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_runtime::StateFile;
use mesh_source::testing::folder::{self, put};
use mesh_source::testing::{Breakage, FILE, OF_A_FILE, OF_THE_FOLDER};
use mesh_source::{Known, Manifests, SourceMetrics, Status, memory};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::history_tests::CAPACITY;
use super::history_tests::kernel::Kernel;
use super::merger::{Merger, PeerInputs};
use super::passes::Passes;
use super::sources::News;
use super::{merger_tests, testing};
use crate::datapath::actual::Actual;
use crate::datapath::restore::{Restored, restore};

const DEADLINE: Duration = Duration::from_secs(30);

fn app(name: &str, ip: u8, host: u8) -> String {
    folder::app(name, &format!("10.101.0.{ip}"), &format!("10.1.0.{host}"))
}

/// What a connect to an address may lead to, both by their last bytes.
type Content = BTreeSet<(u8, u8)>;

fn content(actual: &Actual) -> Content {
    let last = |address: Address| address.to_string().rsplit('.').next().unwrap().parse::<u8>().unwrap();
    let backends = actual.frontends().flat_map(|(frontend, held)| {
        let members = held.groups.iter().flat_map(|group| actual.members(group));
        members.map(|(key, _)| (last(frontend.address), last(key.address.into()))).collect::<Vec<_>>()
    });
    backends.collect()
}

/// One run of an agent: its source and the passes of its merge loop, over maps that outlive it.
struct Agent {
    passes: Passes<Kernel>,
    snapshots: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    status: watch::Receiver<Arc<Status>>,
    token: CancellationToken,
    tasks: [JoinHandle<()>; 2],
    peers: PeerInputs,
    /// What must never be gone.
    must: Content,
}

impl Agent {
    fn start(folder: &Path, state: &Path, mut kernel: Kernel) -> Self {
        kernel.begin();
        let Restored { actual, leftover, .. } = restore(&kernel.contents(), CAPACITY);
        let metrics = SourceMetrics::unregistered();
        let memory = StateFile::new(state.to_owned(), memory::VERSION, folder.display().to_string());
        let failed = metrics.memory_failed.clone();
        let mut source = Manifests::new(folder, metrics);
        if let Ok(Some(known)) = memory.load::<Known>() {
            source = source.remembering(&known, actual.frontend_count() == 0);
        }
        let (snapshots, status, token) = (source.snapshots(), source.status(), CancellationToken::new());
        let known = source.known();
        let tasks = [
            tokio::spawn(memory.keep(known, failed, token.clone())),
            tokio::spawn(source.run(token.clone())),
        ];
        let merger = Merger::new(ClusterId::new(1).unwrap(), false, actual);
        let peers = PeerInputs { claimed: Some(BTreeSet::new()), ..PeerInputs::default() };
        let passes = testing::passes(kernel, merger, leftover);
        Self { passes, snapshots, status, token, tasks, peers, must: Content::new() }
    }

    /// Takes what the source says until the maps hold this.
    async fn until(&mut self, what: &str, wanted: &[(u8, u8)]) {
        let wanted: Content = wanted.iter().copied().collect();
        let settled = async {
            while content(self.settle()) != wanted {
                self.snapshots.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(DEADLINE, settled).await.is_err() {
            panic!("{what}: never {wanted:?}, but {:?}", content(self.actual()));
        }
    }

    fn settle(&mut self) -> &Actual {
        let local = self.snapshots.borrow_and_update().clone();
        let was_there = content(self.actual()).is_superset(&self.must);
        self.passes.maps().keeps = was_there.then(|| self.must.clone());
        let (news, now) = (News { local, peers: self.peers.clone(), confirmed: None }, Instant::now());
        self.passes.settle(&news, now);
        self.passes.maps().settled();
        self.passes.maps().keeps = None;
        let retired = self.passes.take_retired();
        self.passes.release(retired, now);
        self.actual()
    }

    fn actual(&self) -> &Actual {
        self.passes.planner().merger().actual()
    }

    /// Ends; the maps are left.
    async fn stop(mut self) -> Kernel {
        self.token.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(self.passes.maps())
    }

    /// Ends as a kill does: what was to be written down next is not.
    async fn kill(mut self) -> Kernel {
        for task in self.tasks {
            task.abort();
            let _ended = task.await;
        }
        std::mem::take(self.passes.maps())
    }
}

#[derive(Clone, Copy, Debug)]
enum Restart {
    Agent,
    AgentWithDamagedMemory,
    Machine,
}

async fn restart(Breakage { what, does }: Breakage, is_of_a_file: bool, restart: Restart) {
    let what = format!("{what}, {restart:?}");
    let scratch = tempfile::tempdir().unwrap();
    let (folder, state) = (scratch.path().join("manifests"), scratch.path().join("state/source"));
    fs::create_dir(&folder).unwrap();
    put(&folder, FILE, &app("a", 1, 1));
    put(&folder, "b.yaml", &app("b", 2, 2));
    let mut agent = Agent::start(&folder, &state, Kernel::new());
    agent.until(&what, &[(1, 1), (2, 2)]).await;
    let maps = agent.stop().await;
    does(&folder);
    let maps = match restart {
        Restart::Agent => maps,
        Restart::AgentWithDamagedMemory => {
            fs::write(&state, "1 damaged").unwrap();
            maps
        }
        Restart::Machine => Kernel::new(),
    };
    let mut agent = Agent::start(&folder, &state, maps);
    agent.status.wait_for(|status| !status.problems.is_empty()).await.unwrap();
    agent.until(&what, &[(1, 1), (2, 2)]).await;
    if is_of_a_file {
        put(&folder, "b.yaml", &app("b", 2, 9));
        // Without its memory the agent can't know whether the file that is broken held a slice of this Service too.
        let unread =
            |snapshot: &Arc<ClusterSnapshot>| snapshot.unread.anything || !snapshot.unread.slices.is_empty();
        let said = agent.snapshots.wait_for(Option::is_some).await.unwrap().clone();
        let keeps = said.as_ref().is_some_and(unread);
        assert!(!keeps || matches!(restart, Restart::AgentWithDamagedMemory), "{what}");
        agent.until(&what, if keeps { &[(1, 1), (2, 2), (2, 9)] } else { &[(1, 1), (2, 9)] }).await;
    }
    agent.stop().await;
}

#[tokio::test]
async fn whatever_is_broken_a_restart_takes_nothing_away() {
    for kind in [Restart::Agent, Restart::AgentWithDamagedMemory, Restart::Machine] {
        for breakage in OF_A_FILE {
            restart(breakage, true, kind).await;
        }
        for breakage in OF_THE_FOLDER {
            restart(breakage, false, kind).await;
        }
    }
}
