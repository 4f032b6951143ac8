//! The raw follower against a real etcd: every revision, whole and in order, and when a history is another.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Txn, TxnOp};
use mesh_kv::testing::Etcd;
use mesh_kv::{Dialer, RawChange, RawEntry, RawEvent, RawWatch};
use mesh_model::name::ClusterName;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const PREFIX: &str = "clustermesh/v1/";
const DEADLINE: Duration = Duration::from_secs(30);

/// What was heard, and what it adds up to.
#[derive(Clone, Debug, Default)]
struct Heard {
    entries: BTreeMap<String, RawEntry>,
    /// Of the last list, or the last whole revision.
    revision: i64,
    /// Each whole revision that came behind a list, in the order in which they came.
    revisions: Vec<(i64, Vec<RawChange>)>,
    connects: usize,
    lists: usize,
    resumes: usize,
    progress: i64,
    errors: Vec<String>,
}

fn key_of(key: &[u8]) -> String {
    let key = std::str::from_utf8(key).unwrap();
    key.strip_prefix(PREFIX).expect("nothing else is followed").to_owned()
}

impl Heard {
    fn take(&mut self, event: RawEvent) {
        match event {
            RawEvent::Connected { .. } => self.connects += 1,
            RawEvent::Init => self.entries.clear(),
            RawEvent::InitApply(entries) => {
                self.entries.extend(entries.into_iter().map(|entry| (key_of(&entry.key), entry)));
            }
            RawEvent::InitDone { revision } => (self.lists, self.revision) = (self.lists + 1, revision),
            RawEvent::Resumed { revision } => {
                assert_eq!(revision, self.revision);
                self.resumes += 1;
            }
            RawEvent::Revision(revision) => {
                assert!(revision.revision > self.revision, "{} again", revision.revision);
                self.revision = revision.revision;
                for change in &revision.changes {
                    match change {
                        RawChange::Put(entry) => drop(self.entries.insert(key_of(&entry.key), entry.clone())),
                        RawChange::Delete { key } => drop(self.entries.remove(&key_of(key))),
                    }
                }
                self.revisions.push((revision.revision, revision.changes));
            }
            RawEvent::Progress { revision } => self.progress = revision,
            RawEvent::Disconnected { reason } => self.errors.push(reason.to_string()),
        }
    }
}

struct Following {
    heard: watch::Receiver<Heard>,
    _end: DropGuard,
}

impl Following {
    fn of(etcd: &Etcd) -> Self {
        let (sender, heard) = watch::channel(Heard::default());
        let token = CancellationToken::new();
        let dialer = Arc::new(Dialer::new(vec![etcd.endpoint()], None).unwrap());
        let raw = RawWatch::new(dialer, &ClusterName::new("hoth").unwrap(), PREFIX);
        tokio::spawn(raw.run(token.clone(), move |event| sender.send_modify(|heard| heard.take(event))));
        Self { heard, _end: token.drop_guard() }
    }

    async fn until(&mut self, what: &str, holds: impl FnMut(&Heard) -> bool) -> Heard {
        let found =
            tokio::time::timeout(DEADLINE, self.heard.wait_for(holds)).await.map(|it| it.unwrap().clone());
        found.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}: {:?}", *self.heard.borrow()))
    }

    async fn until_value(&mut self, key: &str, value: &str) -> Heard {
        let is_it =
            |heard: &Heard| heard.entries.get(key).is_some_and(|entry| entry.value == value.as_bytes());
        self.until(key, is_it).await
    }
}

fn put(etcd: &Etcd, key: &str, value: &str) {
    etcd.ctl(&["put", &format!("{PREFIX}{key}"), value]);
}

fn started(dir: &Path) -> Etcd {
    let etcd = Etcd::start(dir);
    put(&etcd, "clusters/hoth", r#"{"id":1,"incarnation":"one"}"#);
    etcd
}

/// Create revision, modification revision and version.
fn numbers(entry: &RawEntry) -> [i64; 3] {
    [entry.create_revision, entry.mod_revision, entry.version]
}

#[tokio::test]
async fn entries_have_the_numbers_that_etcd_gives_them() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = started(dir.path());
    put(&etcd, "services/hoth/ns/a", "1");
    put(&etcd, "services/hoth/ns/a", "2");
    let mut following = Following::of(&etcd);
    let listed = following.until("listed", |heard| heard.lists == 1).await;
    assert_eq!(numbers(&listed.entries["services/hoth/ns/a"]), [3, 4, 2]);
    assert_eq!(listed.revision, 4);

    etcd.ctl(&["put", "elsewhere", "5"]);
    put(&etcd, "services/hoth/ns/a", "6");
    etcd.ctl(&["del", &format!("{PREFIX}services/hoth/ns/a")]);
    put(&etcd, "services/hoth/ns/a", "8");
    let mut client = Client::connect([etcd.endpoint().to_string()], None).await.unwrap();
    let puts: Vec<_> =
        ["a", "b"].map(|name| TxnOp::put(format!("{PREFIX}services/hoth/ns/{name}"), "9", None)).into();
    client.txn(Txn::new().and_then(puts)).await.unwrap();
    let heard = following.until_value("services/hoth/ns/b", "9").await;
    let seen: Vec<_> = heard.revisions.iter().map(|(revision, changes)| (*revision, changes.len())).collect();
    assert_eq!(seen, [(6, 1), (7, 1), (8, 1), (9, 2)], "whole revisions, and none of other keys");
    let put_at = |at: usize, change: usize| match &heard.revisions[at].1[change] {
        RawChange::Put(entry) => numbers(entry),
        RawChange::Delete { .. } => panic!("{:?}", heard.revisions[at]),
    };
    assert_eq!(put_at(0, 0), [3, 6, 3]);
    assert!(
        matches!(&heard.revisions[1].1[0], RawChange::Delete { key } if key_of(key) == "services/hoth/ns/a")
    );
    assert_eq!([put_at(2, 0), put_at(3, 0), put_at(3, 1)], [[8, 8, 1], [8, 9, 2], [9, 9, 1]]);
}

#[tokio::test]
async fn nothing_is_lost_between_a_list_and_the_changes_behind_it_nor_over_lost_connections() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = started(dir.path());
    let mut client = Client::connect([etcd.endpoint().to_string()], None).await.unwrap();
    let mut following = None;
    for number in 0..600 {
        let (name, value) = (number % 7, number.to_string());
        client.put(format!("{PREFIX}services/hoth/ns/{name}"), value, None).await.unwrap();
        match number {
            // It lists while this goes on.
            100 => following = Some(Following::of(&etcd)),
            200 | 400 => {
                let following = following.as_mut().unwrap();
                following.until("listed", |heard| heard.lists == 1).await;
                etcd.restart();
                client = Client::connect([etcd.endpoint().to_string()], None).await.unwrap();
            }
            _ => {}
        }
    }
    let mut following = following.unwrap();
    let heard = following.until_value("services/hoth/ns/4", "599").await;
    assert_eq!(heard.lists, 1, "{:?}", heard.errors);
    assert!(heard.resumes >= 1, "{:?}", heard.errors);
    let first = heard.revisions[0].0;
    let mut past: Vec<_> = etcd.history(first).await.into_iter().map(|it| (it.revision, it.value)).collect();
    past.dedup_by_key(|(revision, _)| *revision);
    let seen: Vec<_> = heard
        .revisions
        .iter()
        .map(|(revision, changes)| match &changes[..] {
            [RawChange::Put(entry)] => (*revision, Some(entry.value.clone())),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, past);
}

#[tokio::test]
async fn progress_is_told_also_where_only_other_keys_change() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = started(dir.path());
    let mut following = Following::of(&etcd);
    following.until("listed", |heard| heard.lists == 1).await;
    for value in ["1", "2", "3"] {
        etcd.ctl(&["put", "elsewhere", value]);
    }
    let heard = following.until("progress", |heard| heard.progress > 0).await;
    assert_eq!((heard.progress, heard.revision), (5, 2));
}

#[tokio::test]
async fn a_compacted_history_leads_to_a_list() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = started(dir.path());
    let mut following = Following::of(&etcd);
    following.until("listed", |heard| heard.lists == 1).await;
    etcd.kill();
    let mut elsewhere = etcd.on_another_port();
    for value in ["1", "2", "3"] {
        put(&elsewhere, "services/hoth/ns/a", value);
    }
    elsewhere.ctl(&["compact", "5"]);
    elsewhere.kill();
    etcd.restart();
    let heard = following.until("listed again", |heard| heard.lists == 2).await;
    assert_eq!(numbers(&heard.entries["services/hoth/ns/a"]), [3, 5, 3]);
    assert_eq!(heard.revision, 5);
}

/// A server that is behind what its reader has seen: a backup of the time before.
struct Behind {
    etcd: Etcd,
    following: Following,
    _dir: tempfile::TempDir,
}

/// Written behind the backup, and seen by the reader.
const LATER: [(&str, &str); 3] =
    [("alive/hoth", "2"), ("services/hoth/ns/a", "later"), ("services/hoth/ns/b", "later")];

impl Behind {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut etcd, backup) = (started(dir.path()), dir.path().join("backup"));
        put(&etcd, "alive/hoth", "1");
        put(&etcd, "services/hoth/ns/a", "before");
        etcd.back_up(&backup);
        let mut following = Following::of(&etcd);
        for (key, value) in LATER {
            put(&etcd, key, value);
        }
        following.until_value("services/hoth/ns/b", "later").await;
        etcd.restore(&backup);
        Self { etcd, following, _dir: dir }
    }
}

#[tokio::test]
async fn a_replica_that_is_behind_is_waited_for_and_resumed() {
    let Behind { etcd, mut following, _dir } = Behind::new().await;
    following.until("connected again", |heard| heard.connects == 2).await;
    for (key, value) in LATER {
        put(&etcd, key, value);
    }
    put(&etcd, "services/hoth/ns/c", "after");
    let heard = following.until_value("services/hoth/ns/c", "after").await;
    assert_eq!((heard.lists, heard.resumes), (1, 1), "{:?}", heard.errors);
    let mut revisions: Vec<i64> = heard.revisions.iter().map(|(revision, _)| *revision).collect();
    revisions.dedup();
    assert_eq!(revisions.last(), Some(&8));
}

#[tokio::test]
async fn a_restored_etcd_is_not_resumed_when_it_catches_up_with_other_changes() {
    let Behind { etcd, mut following, _dir } = Behind::new().await;
    for (key, _) in LATER {
        put(&etcd, key, "other");
    }
    put(&etcd, "services/hoth/ns/c", "after");
    let heard = following.until_value("services/hoth/ns/c", "after").await;
    assert_eq!((heard.lists, heard.resumes), (2, 0), "{:?}", heard.errors);
    assert_eq!(heard.entries["services/hoth/ns/a"].value, b"other");
}

#[tokio::test]
async fn a_restored_etcd_that_stays_behind_is_listed() {
    let Behind { etcd: _etcd, mut following, _dir } = Behind::new().await;
    let heard = following.until("listed again", |heard| heard.lists == 2).await;
    assert_eq!(heard.entries["services/hoth/ns/a"].value, b"before");
    assert!(!heard.entries.contains_key("services/hoth/ns/b"));
}
