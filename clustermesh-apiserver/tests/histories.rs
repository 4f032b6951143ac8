//! A restart is always safe, as a property of the whole exporter on a real etcd: manifests change, break in any way, are
//! corrected and removed, one of two replicas or both restart or are killed, and etcd restarts, loses its data, goes back in
//! time or is meddled with, in any order. At no revision is anything missing that the last readable content of every file
//! listed; in the end, with all corrected, the records are those that a fresh exporter would write.
//!
//! `RESTARTS=200 cargo test -p clustermesh-apiserver --test histories` looks longer.
#![allow(clippy::unwrap_used, clippy::panic)]

mod exporting;

use std::collections::BTreeMap;
use std::path::PathBuf;

use exporting::folder::{Process, app};
use exporting::{DEADLINE, PREFIX, etcd_of, identity, stands, until_stands};
use mesh_kv::testing::Etcd;
use mesh_model::export::{Entries, diff, export};
use mesh_model::record::{self, Record, RecordKey};
use mesh_source::testing::folder::Folder;
use mesh_source::testing::{OF_A_FILE, OF_THE_FOLDER};
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
    folder: Folder,
    /// Whether a process runs that can't have read everything, so that nobody knows what only etcd has.
    is_blind: bool,
    /// Both empty only while a step restarts them.
    replicas: Vec<Process>,
}

impl World {
    async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let etcd = etcd_of(&scratch);
        let mut folder = Folder::new(scratch.path().join("manifests"), app);
        NAMES.into_iter().for_each(|name| folder.change(name));
        let mut world = Self { scratch, etcd, revision: 1, folder, is_blind: false, replicas: Vec::new() };
        world.start();
        world.start();
        world.settle().await;
        world.etcd.back_up(&world.backup());
        world
    }

    fn backup(&self) -> PathBuf {
        self.scratch.path().join("backup")
    }

    fn start(&mut self) {
        self.is_blind |= !self.folder.is_readable();
        self.replicas.push(Process::start(&self.etcd, self.folder.path()));
    }

    fn must(&self) -> Must {
        let records = self.folder.listed().iter().flat_map(|(name, host)| {
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
        let exactly = self.folder.is_readable();
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
            Step::Change(name) if !self.folder.is_broken() => self.folder.change(NAMES[name]),
            Step::Break(name, how) if self.folder.break_file(NAMES[name], how) => self.until_told().await,
            Step::Remove(name) => drop(self.folder.remove(NAMES[name])),
            Step::BreakFolder(how) if self.folder.break_folder(how) => self.until_told().await,
            Step::Repair => self.folder.repair(),
            Step::Restart(who, end) => self.restart(who, end).await,
            Step::Etcd(fault) => self.etcd(fault).await,
            _ => {}
        }
        self.settle().await;
        self.look(&before).await;
    }

    /// Every process has noticed that something is broken.
    async fn until_told(&mut self) {
        for replica in &mut self.replicas {
            let told = replica.status.wait_for(|status| !status.problems.is_empty());
            drop(tokio::time::timeout(DEADLINE, told).await.unwrap().unwrap());
        }
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
        if !self.folder.is_readable() {
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
        self.folder.repair();
        self.is_blind = false;
        self.settle().await;
        let snapshots = &mut self.replicas[0].snapshots;
        let is_whole = |it: &Option<_>| {
            it.as_ref().is_some_and(|it: &std::sync::Arc<mesh_model::snapshot::ClusterSnapshot>| {
                it.services.len() == self.folder.listed().len() && it.unread.is_empty()
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
