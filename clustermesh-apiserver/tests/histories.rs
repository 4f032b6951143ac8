//! A restart is always safe, as a property of the whole exporter on a real etcd: manifests change, break in any way, are
//! corrected and removed, one of two replicas or both restart or are killed, and etcd restarts, loses its data, goes back in
//! time or is meddled with, in any order. At no revision is anything missing that the last readable content of every file
//! listed; in the end, with all corrected, the records are those that a fresh exporter would write.
//!
//! `RESTARTS=200 cargo test -p clustermesh-apiserver --test histories` looks longer.
#![allow(clippy::unwrap_used, clippy::panic)]

mod exporting;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use exporting::folder::{Process, app, put};
use exporting::{DEADLINE, PREFIX, etcd_of, identity, stands, until_stands};
use mesh_kv::testing::Etcd;
use mesh_model::export::{Entries, diff, export};
use mesh_model::record::{self, Record, RecordKey};
use mesh_source::testing::{FILE, OF_A_FILE, OF_THE_FOLDER};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Histories of an ordinary run.
const HISTORIES: u32 = 8;
/// The Services, whose files are named after them.
const NAMES: [&str; 2] = ["a", "b"];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A manifest says something else.
    Change(usize),
    Break(usize, usize),
    Remove(usize),
    BreakFolder(usize),
    /// All manifests are as they should be.
    Repair,
    Restart(Who, End),
    Etcd(Fault),
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Leader,
    Standby,
    Both,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Stop,
    Crash,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Restart,
    Wipe,
    Restore,
    DeleteAll,
}

impl Fault {
    const ALL: [Self; 4] = [Self::Restart, Self::Wipe, Self::Restore, Self::DeleteAll];
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = prop_oneof![1 => Just(Who::Leader), 1 => Just(Who::Standby), 3 => Just(Who::Both)];
    let end = prop_oneof![3 => Just(End::Stop), 1 => Just(End::Crash)];
    let step = prop_oneof![
        3 => (0..NAMES.len()).prop_map(Step::Change),
        4 => (0..NAMES.len(), 0..OF_A_FILE.len()).prop_map(|(name, how)| Step::Break(name, how)),
        1 => (0..NAMES.len()).prop_map(Step::Remove),
        1 => (0..OF_THE_FOLDER.len()).prop_map(Step::BreakFolder),
        1 => Just(Step::Repair),
        5 => (who, end).prop_map(|(who, end)| Step::Restart(who, end)),
        2 => prop::sample::select(&Fault::ALL[..]).prop_map(Step::Etcd),
    ];
    prop::collection::vec(step, 1..12)
}

/// The records that have to stand, with the address of each slice's.
type Must = BTreeMap<String, Option<u8>>;

/// What is on disk, and who reads it.
struct World {
    scratch: tempfile::TempDir,
    etcd: Etcd,
    /// Up to which its history was looked at.
    revision: i64,
    /// What each file listed when it was last readable.
    good: BTreeMap<&'static str, u8>,
    broken: BTreeSet<&'static str>,
    folder_is_broken: bool,
    /// Whether a process runs that can't have read everything, so that nobody knows what only etcd has.
    is_blind: bool,
    hosts: u8,
    /// Both empty only while a step restarts them.
    replicas: Vec<Process>,
}

impl World {
    async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let etcd = etcd_of(&scratch);
        let mut world = Self {
            scratch,
            etcd,
            revision: 1,
            good: BTreeMap::new(),
            broken: BTreeSet::new(),
            folder_is_broken: false,
            is_blind: false,
            hosts: 0,
            replicas: Vec::new(),
        };
        fs::create_dir(world.folder()).unwrap();
        NAMES.into_iter().for_each(|name| world.write(name));
        world.start();
        world.start();
        world.settle().await;
        world.etcd.back_up(&world.backup());
        world
    }

    fn folder(&self) -> PathBuf {
        self.scratch.path().join("manifests")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.yaml"))
    }

    fn backup(&self) -> PathBuf {
        self.scratch.path().join("backup")
    }

    fn start(&mut self) {
        self.is_blind |= self.is_broken();
        self.replicas.push(Process::start(&self.etcd, &self.folder()));
    }

    fn is_broken(&self) -> bool {
        self.folder_is_broken || !self.broken.is_empty()
    }

    fn write(&mut self, name: &'static str) {
        self.hosts += 1;
        self.good.insert(name, self.hosts);
        self.broken.remove(name);
        put(&self.folder(), &format!("{name}.yaml"), &app(name, self.hosts));
    }

    fn must(&self) -> Must {
        let records = self.good.iter().flat_map(|(name, host)| {
            [
                (format!("services/hoth/ns/{name}"), None),
                (format!("endpoints/hoth/ns/{name}/{name}-1"), Some(*host)),
            ]
        });
        records.collect()
    }

    /// What is listed stands; with nothing broken, nothing else does.
    async fn settle(&mut self) {
        let must = self.must();
        let exactly = !self.is_broken();
        let synced = ["endpoints", "nodes", "services"].map(|kind| format!("synced/hoth/{kind}"));
        until_stands(&self.etcd, &format!("{must:?}, exactly: {exactly}"), |all| {
            let holds = |(key, host): (&String, &Option<u8>)| {
                all.get(key).is_some_and(|(value, _)| lists(key, value, *host))
            };
            let count = must.len() + synced.len();
            must.iter().all(holds)
                && (!exactly || (all.len() == count && synced.iter().all(|key| all.contains_key(key))))
        })
        .await;
    }

    /// No change since the last look has taken away what had to stand before this step and behind it.
    async fn look(&mut self, before: &Must) {
        let must = self.must();
        let stays: Must = must.into_iter().filter(|(key, host)| before.get(key) == Some(host)).collect();
        let past = self.etcd.history(self.revision + 1).await;
        for change in past {
            self.revision = self.revision.max(change.revision);
            let key = change.key.strip_prefix(PREFIX).unwrap_or_default();
            let Some(host) = stays.get(key) else { continue };
            let stands = change.value.as_ref().is_some_and(|value| lists(key, value, *host));
            assert!(stands, "revision {}: {} became {:?}", change.revision, change.key, change.text());
        }
    }

    async fn take(&mut self, step: Step) {
        let before = self.must();
        match step {
            Step::Change(name) if !self.folder_is_broken => {
                let name = NAMES[name];
                let _it_may_be_a_link = self.broken.contains(name).then(|| fs::remove_file(self.path(name)));
                self.write(name);
            }
            Step::Break(name, how) if !self.folder_is_broken => self.break_file(NAMES[name], how).await,
            Step::Remove(name) if self.can_go(NAMES[name]) => {
                self.good.remove(NAMES[name]);
                self.broken.remove(NAMES[name]);
                fs::remove_file(self.path(NAMES[name])).unwrap();
            }
            // The last of these breakages is of the file a.
            Step::BreakFolder(how) if !self.folder_is_broken && self.good.contains_key("a") => {
                (OF_THE_FOLDER[how].does)(&self.folder());
                self.folder_is_broken = true;
                self.until_told().await;
            }
            Step::Repair => self.repair(),
            Step::Restart(who, end) => self.restart(who, end).await,
            Step::Etcd(fault) => self.etcd(fault).await,
            _ => {}
        }
        self.settle().await;
        self.look(&before).await;
    }

    /// Whether it is there, and not the last one: an empty folder is none.
    fn can_go(&self, name: &str) -> bool {
        !self.folder_is_broken && self.good.len() > 1 && self.good.contains_key(name)
    }

    /// Every process has noticed that something is broken.
    async fn until_told(&mut self) {
        for replica in &mut self.replicas {
            let told = replica.status.wait_for(|status| !status.problems.is_empty());
            drop(tokio::time::timeout(DEADLINE, told).await.unwrap().unwrap());
        }
    }

    /// The breakages know one file's name only.
    async fn break_file(&mut self, name: &'static str, how: usize) {
        if !self.good.contains_key(name) || !self.broken.insert(name) {
            return;
        }
        let aside = tempfile::tempdir().unwrap();
        let (path, copy) = (self.path(name), aside.path().join(FILE));
        fs::copy(&path, &copy).unwrap();
        (OF_A_FILE[how].does)(aside.path());
        if copy.is_symlink() {
            fs::remove_file(&path).unwrap();
            symlink(&path, &path).unwrap();
        } else {
            fs::copy(&copy, &path).unwrap();
        }
        self.until_told().await;
    }

    fn repair(&mut self) {
        // All at once: who has just begun can't know that a folder is still being filled.
        let next = self.scratch.path().join("next");
        fs::create_dir(&next).unwrap();
        for (name, host) in &self.good {
            put(&next, &format!("{name}.yaml"), &app(name, *host));
        }
        let _it_may_be_gone = fs::remove_dir_all(self.folder());
        fs::rename(next, self.folder()).unwrap();
        self.broken.clear();
        self.folder_is_broken = false;
    }

    async fn restart(&mut self, who: Who, end: End) {
        let (leading, standing_by) =
            self.replicas.drain(..).partition::<Vec<_>, _>(|it| it.exporter.is_leading());
        let (ended, stays) = match who {
            Who::Leader => (leading, standing_by),
            Who::Standby => (standing_by, leading),
            Who::Both => (leading.into_iter().chain(standing_by).collect(), Vec::new()),
        };
        self.replicas = stays;
        for replica in ended {
            match end {
                End::Stop => replica.stop().await,
                End::Crash => replica.crash().await,
            }
            self.start();
        }
        if self.is_broken() {
            self.until_told().await;
        }
    }

    async fn etcd(&mut self, fault: Fault) {
        match fault {
            Fault::Restart => self.etcd.restart(),
            // What only etcd knows is lost with it, and nobody's fault.
            _ if self.is_blind => {}
            Fault::Wipe => {
                self.etcd.wipe();
                self.revision = 0;
            }
            Fault::Restore => {
                let backup = self.backup();
                self.etcd.restore(&backup);
                self.revision = 0;
            }
            Fault::DeleteAll => {
                self.etcd.ctl(&["del", "--prefix", PREFIX]);
            }
        }
        let written_by_hand = !matches!(fault, Fault::Restart) && !self.is_blind;
        if written_by_hand {
            self.settle().await;
            self.revision = self.etcd.revision().await;
        }
    }

    /// All is corrected, and the records are those that a fresh exporter would write.
    async fn end(mut self) {
        self.repair();
        self.is_blind = false;
        self.settle().await;
        let snapshots = &mut self.replicas[0].snapshots;
        let is_whole = |it: &Option<_>| {
            it.as_ref().is_some_and(|it: &std::sync::Arc<mesh_model::snapshot::ClusterSnapshot>| {
                it.services.len() == self.good.len() && it.unread.is_empty()
            })
        };
        let snapshot = tokio::time::timeout(DEADLINE, snapshots.wait_for(is_whole))
            .await
            .unwrap()
            .unwrap()
            .clone()
            .unwrap();
        let identity = identity("hoth", 2);
        let stands = stands(&self.etcd).await.into_iter();
        let stands: Entries = stands.map(|(key, (value, _))| (format!("{PREFIX}{key}"), value)).collect();
        let left = diff(&identity.name, &stands, &export(&identity, &snapshot, 0));
        assert!(left.is_empty(), "a fresh exporter would write: {left:?}");
        for replica in self.replicas {
            replica.stop().await;
        }
    }
}

/// Whether a slice's record lists this endpoint, and another's any value at all.
fn lists(key: &str, value: &[u8], host: Option<u8>) -> bool {
    host.is_none_or(|host| {
        let key = format!("{PREFIX}{key}");
        let Ok((RecordKey::Slice(..), Record::Slice(slice))) = record::parse(&key, value) else {
            return false;
        };
        slice.endpoints.iter().any(|endpoint| endpoint.address.to_string() == format!("10.2.0.{host}"))
    })
}

async fn history(steps: &[Step]) {
    let mut world = World::new().await;
    for step in steps {
        world.take(*step).await;
    }
    world.end().await;
}

#[test]
fn whatever_breaks_and_restarts_in_whatever_order_no_record_is_taken_away() {
    let histories = std::env::var("RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORIES);
    let config =
        Config { cases: histories, max_shrink_iters: 20, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&steps(), |steps| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(history(&steps));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
