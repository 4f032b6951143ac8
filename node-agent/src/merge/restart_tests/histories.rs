//! A restart is always safe, as a property: manifests and peer files change, break in any way, are corrected and removed,
//! and the agent is stopped, killed, robbed of its memory, or loses its maps with the machine, in any order. At every plan
//! everything is there that the last readable content of every file listed; in the end, with all corrected, nothing else.
//!
//! `RESTARTS=1000 cargo test -p node-agent --lib restart_tests` looks longer.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use mesh_model::address::Address;
use mesh_model::annotation::Affinity;
use mesh_model::name::ClusterName;
use mesh_model::table::Knowledge;
use mesh_peers::folder::{self, Now, Peers, Remembered};
use mesh_source::testing::folder::Folder;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Histories of an ordinary run.
const HISTORIES: u32 = 24;
/// The Services, whose files are named after them.
const NAMES: [&str; 2] = ["a", "b"];
/// The peers' ids; each has one backend for every Service.
const PEERS: [u8; 2] = [2, 3];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A manifest says something else.
    Change(usize),
    Break(usize, usize),
    Remove(usize),
    BreakFolder(usize),
    /// All manifests are as they should be.
    Repair,
    BreakPeer(usize, usize),
    RepairPeer(usize),
    Restart(Kind),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Stop,
    Kill,
    LoseMemory,
    Machine,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![Just(Kind::Stop), Just(Kind::Kill), Just(Kind::LoseMemory), Just(Kind::Machine)];
    let step = prop_oneof![
        3 => (0..NAMES.len()).prop_map(Step::Change),
        4 => (0..NAMES.len(), 0..OF_A_FILE.len()).prop_map(|(name, how)| Step::Break(name, how)),
        1 => (0..NAMES.len()).prop_map(Step::Remove),
        1 => (0..OF_THE_FOLDER.len()).prop_map(Step::BreakFolder),
        1 => Just(Step::Repair),
        2 => (0..PEERS.len(), 0..PEER_BREAKAGES).prop_map(|(peer, how)| Step::BreakPeer(peer, how)),
        1 => (0..PEERS.len()).prop_map(Step::RepairPeer),
        6 => kind.prop_map(Step::Restart),
    ];
    prop::collection::vec(step, 1..16)
}

fn peer_name(peer: usize) -> &'static str {
    ["hoth", "endor"][peer]
}

fn peer_file(id: u8) -> String {
    format!("id: {id}\nendpoints: [\"http://10.{id}.0.1:2379\"]\nranges: {{pods: [10.{id}.0.0/16]}}\n")
}

const PEER_BREAKAGES: usize = 7;

/// What is left of a peer's file; none: a link that leads nowhere.
fn broken_peer_file(peer: usize, how: usize) -> Option<String> {
    let good = peer_file(PEERS[peer]);
    let texts = [
        String::new(),
        "id: [".into(),
        "id: 4".into(),
        "id: 1\n".into(),
        good[..good.len() / 2].into(),
        peer_file(PEERS[1 - peer]),
    ];
    texts.into_iter().nth(how)
}

/// What is on disk, and the agent that reads it.
struct World {
    scratch: tempfile::TempDir,
    manifests: Folder,
    peers: Peers,
    /// Time passes from reading to reading.
    now: Now,
    agent: Option<Agent>,
}

impl World {
    async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("peers")).unwrap();
        let mut manifests =
            Folder::new(scratch.path().join("manifests"), |name, host| app(name, ip(name), host));
        NAMES.into_iter().for_each(|name| manifests.change(name));
        let mut world = Self {
            scratch,
            manifests,
            peers: Peers::default(),
            now: Now { instant: Instant::now(), unix_seconds: 1 },
            agent: None,
        };
        for peer in 0..PEERS.len() {
            world.repair_peer(peer);
        }
        world.start(Kernel::new()).await;
        world
    }

    fn peer_path(&self, peer: usize) -> PathBuf {
        self.scratch.path().join(format!("peers/{}.yaml", peer_name(peer)))
    }

    fn state(&self, file: &str) -> PathBuf {
        self.scratch.path().join("state").join(file)
    }

    fn peers_memory(&self) -> StateFile {
        StateFile::new(self.state("peers"), Remembered::VERSION, "peers")
    }

    fn remembers(&self) -> Content {
        let about = self.manifests.path().display().to_string();
        let memory = StateFile::new(self.state("source"), memory::VERSION, about);
        let known = memory.load::<Known>().ok().flatten().unwrap_or_default();
        let services = known.snapshot.services.values();
        let last = |address: Address| address.to_string().rsplit('.').next().unwrap().parse().unwrap();
        let pairs = services.flat_map(|service| {
            let ip = last(service.cluster_ips[0]);
            let endpoints = service.slices.values().flat_map(|slice| &slice.endpoints);
            endpoints.map(move |endpoint| (ip, last(endpoint.address))).collect::<Vec<_>>()
        });
        pairs.collect()
    }

    /// Of the own cluster.
    fn listed(&self) -> Content {
        self.manifests.listed().iter().map(|(name, host)| (ip(name), *host)).collect()
    }

    fn must(&self) -> Content {
        let of_peers = PEERS
            .iter()
            .flat_map(|peer| self.manifests.listed().keys().map(|name| (ip(name), peer_host(*peer))));
        self.listed().into_iter().chain(of_peers).collect()
    }

    async fn start(&mut self, maps: Kernel) {
        self.read_peers(true);
        let mut agent = Agent::start(self.manifests.path(), &self.state("source"), maps);
        agent.must = self.must();
        self.agent = Some(agent);
        self.hand_peers_over();
        let agent = self.agent.as_mut().unwrap();
        if self.manifests.is_readable() {
            let said = agent.status.wait_for(|status| status.knowledge == Knowledge::Complete);
            tokio::time::timeout(DEADLINE, said).await.unwrap().unwrap();
            return self.settle_exactly().await;
        }
        let told = agent.status.wait_for(|status| !status.problems.is_empty());
        tokio::time::timeout(DEADLINE, told).await.unwrap().unwrap();
        self.settle_at_least().await;
    }

    /// With nothing broken the maps hold what is listed and nothing else.
    async fn settle_exactly(&mut self) {
        let must: Vec<_> = self.must().into_iter().collect();
        self.agent.as_mut().unwrap().must = self.must();
        self.agent.as_mut().unwrap().until("all is corrected", &must).await;
    }

    /// What is listed is there, beside whatever may be.
    async fn settle_at_least(&mut self) {
        let must = self.must();
        let agent = self.agent.as_mut().unwrap();
        let settled = async {
            while !content(agent.settle()).is_superset(&must) {
                agent.snapshots.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(DEADLINE, settled).await.is_err() {
            panic!("never {must:?}, but {:?}", content(agent.actual()));
        }
        agent.must = must;
    }

    async fn settle(&mut self) {
        if self.manifests.is_readable() {
            self.settle_exactly().await;
        } else {
            self.settle_at_least().await;
        }
    }

    fn read_peers(&mut self, starts: bool) {
        let (name, id) = (ClusterName::new("tatooine").unwrap(), ClusterId::new(1).unwrap());
        if starts {
            let before = self.peers_memory().load().ok().flatten().unwrap_or_default();
            self.peers = Peers::remembering(&before, &name, id);
        }
        let reading = folder::read(&self.scratch.path().join("peers"), &name, id);
        self.peers.update(reading, self.now);
        self.now = Now {
            instant: self.now.instant + Duration::from_secs(10),
            unix_seconds: self.now.unix_seconds + 10,
        };
        self.peers_memory().save(&self.peers.known()).unwrap();
    }

    /// Every peer that is followed says what it has.
    fn hand_peers_over(&mut self) {
        let followed = self.peers.peers().values().filter_map(|peer| peer.file.as_ref());
        let synced = followed.map(|file| {
            let id = u8::try_from(file.id.value()).unwrap();
            let services = NAMES.map(|name| {
                (
                    format!("ns/{name}").parse().unwrap(),
                    merger_tests::service(id, 1, Affinity::None, &[peer_host(id)]),
                )
            });
            (file.id, merger_tests::seen(id, &merger_tests::snapshot(services)))
        });
        let peers = PeerInputs {
            claimed: self.peers.claimed_ids(),
            synced: synced.collect(),
            ..PeerInputs::default()
        };
        let agent = self.agent.as_mut().unwrap();
        agent.peers = peers;
        agent.settle();
    }

    fn repair_peer(&self, peer: usize) {
        let path = self.peer_path(peer);
        let _it_may_be_a_link = fs::remove_file(&path);
        fs::write(path, peer_file(PEERS[peer])).unwrap();
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Change(name) if !self.manifests.is_broken() && self.can_be_served(NAMES[name]) => {
                let name = NAMES[name];
                self.agent.as_mut().unwrap().must.retain(|(service, _)| *service != ip(name));
                self.manifests.change(name);
                self.settle().await;
            }
            Step::Break(name, how) if self.manifests.break_file(NAMES[name], how) => self.until_told().await,
            Step::Remove(name) if self.manifests.remove(NAMES[name]) => {
                self.agent.as_mut().unwrap().must = self.must();
                self.settle().await;
            }
            Step::BreakFolder(how) => drop(self.manifests.break_folder(how)),
            Step::Repair => self.repair().await,
            Step::BreakPeer(peer, how) => {
                let path = self.peer_path(peer);
                fs::remove_file(&path).unwrap();
                match broken_peer_file(peer, how) {
                    Some(text) => fs::write(&path, text).unwrap(),
                    None => symlink(&path, &path).unwrap(),
                }
                self.read_peers(false);
                self.hand_peers_over();
            }
            Step::RepairPeer(peer) => {
                self.repair_peer(peer);
                self.read_peers(false);
                self.hand_peers_over();
            }
            Step::Restart(kind) => self.restart(kind).await,
            _ => {}
        }
    }

    /// With its Service gone the maps hold nothing of it, so that only peers that are followed have backends for a new one.
    fn can_be_served(&self, name: &str) -> bool {
        let followed = self.peers.peers().values().filter(|peer| peer.file.is_some());
        self.manifests.listed().contains_key(name) || followed.count() == PEERS.len()
    }

    /// The agent has noticed that something is broken.
    async fn until_told(&mut self) {
        let agent = self.agent.as_mut().unwrap();
        let told = agent.status.wait_for(|status| !status.problems.is_empty());
        tokio::time::timeout(DEADLINE, told).await.unwrap().unwrap();
        agent.settle();
    }

    async fn repair(&mut self) {
        self.manifests.repair();
        self.settle_exactly().await;
    }

    async fn restart(&mut self, kind: Kind) {
        let agent = self.agent.take().unwrap();
        let maps = match kind {
            Kind::Stop | Kind::LoseMemory | Kind::Machine => agent.stop().await,
            Kind::Kill => agent.kill().await,
        };
        if matches!(kind, Kind::LoseMemory) {
            for file in ["source", "peers"] {
                // Where none was written yet, as before a kill, there is none to lose.
                let Ok(file) = File::options().write(true).open(self.state(file)) else { continue };
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }
        }
        let is_known = self.remembers().is_superset(&self.listed()) && self.knows_peers();
        // What was lost before can't be had from a machine that begins with nothing.
        let maps = if matches!(kind, Kind::Machine) && is_known { Kernel::new() } else { maps };
        self.start(maps).await;
    }

    fn knows_peers(&self) -> bool {
        let remembered: Option<Remembered> = self.peers_memory().load().ok().flatten();
        remembered.is_some_and(|remembered| remembered.len() == PEERS.len())
    }
}

fn ip(name: &str) -> u8 {
    name.as_bytes()[0] - b'a' + 1
}

fn peer_host(id: u8) -> u8 {
    250 + id
}

async fn history(steps: &[Step]) {
    let mut world = World::new().await;
    for step in steps {
        world.take(*step).await;
    }
    for peer in 0..PEERS.len() {
        world.repair_peer(peer);
    }
    world.read_peers(false);
    world.hand_peers_over();
    world.repair().await;
    world.agent.take().unwrap().stop().await;
}

/// What histories have found.
#[tokio::test]
async fn histories_that_failed_once() {
    let lost = Step::Restart(Kind::LoseMemory);
    for steps in [
        // Carried beside a slice that could not be read, a backend stayed when it could.
        &[Step::Break(0, 1), lost, Step::Change(1)][..],
        // What nobody remembers was taken for known by the process after the next.
        &[Step::Break(0, 4), lost, Step::Restart(Kind::Stop), Step::Restart(Kind::Stop)],
        // What the maps have may be newer than what was written down.
        &[
            Step::Change(0),
            Step::Change(0),
            Step::Restart(Kind::Kill),
            Step::Break(0, 4),
            Step::Restart(Kind::Kill),
        ],
        &[Step::Change(0), Step::Break(0, 6), Step::Restart(Kind::Kill), Step::Restart(Kind::Stop)],
        // A file that is refused for the id of another that is refused lost its own.
        &[Step::BreakPeer(1, 0), Step::BreakPeer(0, 5), Step::Restart(Kind::Machine)],
    ] {
        history(steps).await;
    }
}

#[test]
fn whatever_breaks_and_restarts_in_whatever_order_nothing_is_taken_away() {
    let histories = std::env::var("RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORIES);
    let mut runner = TestRunner::new(Config { cases: histories, max_shrink_iters: 40, ..Config::default() });
    let result = runner.run(&steps(), |steps| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(history(&steps));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
