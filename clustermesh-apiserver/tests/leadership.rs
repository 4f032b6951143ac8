//! Who leads depends on who could: on sources that are complete and heard, and on an etcd that takes the writes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod exporting;

use std::path::Path;
use std::time::Duration;

use exporting::{PREFIX, Running, etcd_of, until, until_stands};
use mesh_kv::testing::{Ca, Etcd, Past};
use mesh_kv::{Dialer, Tls};

const LEADER: &str = "clustermesh/leader/";
const STANDBY: &str = "clustermesh/standby/hoth/";
const ALIVE: &str = "clustermesh/v1/alive/hoth";
/// Long enough for a loaded machine to confirm within half of it.
const RESIGN_AFTER: Duration = Duration::from_secs(3);

fn replica(etcd: &Etcd) -> Running {
    Running::replica(Dialer::new(vec![etcd.endpoint()], None).unwrap(), RESIGN_AFTER)
}

fn standbys(etcd: &Etcd) -> usize {
    etcd.ctl(&["get", "--prefix", "--keys-only", STANDBY]).lines().filter(|line| !line.is_empty()).count()
}

async fn until_standbys(etcd: &Etcd, count: usize) {
    until(&format!("{count} stand by"), || standbys(etcd) == count).await;
}

async fn beats(etcd: &Etcd, count: usize) {
    for _ in 0..count {
        let before = etcd.ctl(&["get", ALIVE]);
        until("a beat", || etcd.ctl(&["get", ALIVE]) != before).await;
    }
}

/// A leader and a replica that stands by; both say the same.
async fn two(etcd: &Etcd) -> (Running, Running) {
    let first = replica(etcd);
    first.say(&[("ns/a", &[1])]);
    first.until_leading().await;
    let second = replica(etcd);
    second.say(&[("ns/a", &[1])]);
    until_standbys(etcd, 1).await;
    (first, second)
}

fn elections(past: &[Past]) -> usize {
    past.iter().filter(|change| change.key.starts_with(LEADER) && change.value.is_some()).count()
}

async fn assert_no_record_was_deleted(etcd: &Etcd) {
    let past = etcd.history(1).await;
    let deleted = past.iter().filter(|change| change.key.starts_with(PREFIX) && change.value.is_none());
    assert_eq!(deleted.map(|change| &change.key).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[tokio::test]
async fn a_replica_without_a_first_list_neither_campaigns_nor_stands_by() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let first = replica(&etcd);
    until("connected", || first.missing_of("etcd").is_empty()).await;
    let second = replica(&etcd);
    second.say(&[("ns/a", &[1])]);
    second.until_leading().await;
    until("the first sees it", || first.missing().starts_with("standby of")).await;
    beats(&etcd, 2).await;
    assert_eq!(standbys(&etcd), 0);
    assert_eq!(first.missing_of("fitness"), "waiting for the source's first full list");
    assert!(first.has_metric("clustermesh_export_fit 0") && second.has_metric("clustermesh_export_fit 1"));
    first.say(&[("ns/a", &[1])]);
    until_standbys(&etcd, 1).await;
    assert_eq!(elections(&etcd.history(1).await), 1);
}

#[tokio::test]
async fn a_leader_whose_source_is_silent_leaves_the_lead_to_one_that_stands_by_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let (first, second) = two(&etcd).await;
    first.silence();
    second.until_leading().await;
    until("the first knows", || !first.is_leading()).await;
    let says = || first.missing_of("fitness");
    until("it says why", || {
        says().contains("confirmed nothing for") && says().ends_with("does not stand by")
    })
    .await;
    assert!(first.has_metric("clustermesh_export_failures_total{reason=\"unfit\"} 1"));
    assert!(first.has_metric("clustermesh_export_fit 0"));
    second.say(&[("ns/a", &[1]), ("ns/b", &[2])]);
    until_stands(&etcd, "written by the second", |all| all.contains_key("services/hoth/ns/b")).await;
    until_standbys(&etcd, 0).await;
    // The second has nobody to leave the lead to until the first is heard again.
    second.silence();
    until("it says so", || second.missing_of("fitness").ends_with("leads until another stands by")).await;
    beats(&etcd, 2).await;
    assert!(second.is_leading());
    first.say(&[("ns/a", &[1]), ("ns/b", &[2])]);
    first.hear();
    first.until_leading().await;
    first.until_ready().await;
    beats(&etcd, 2).await;
    assert_eq!(elections(&etcd.history(1).await), 3, "somebody led in between");
    assert_no_record_was_deleted(&etcd).await;
}

#[tokio::test]
async fn of_two_that_should_not_lead_the_last_leader_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let (first, second) = two(&etcd).await;
    second.silence();
    until_standbys(&etcd, 0).await;
    first.silence();
    until("told", || first.missing_of("fitness").ends_with("leads until another stands by")).await;
    let holder = etcd.ctl(&["get", "--prefix", LEADER]);
    // It loses the key, as to an etcd that was away for longer than the lease.
    etcd.ctl(&["del", "--prefix", LEADER]);
    until("somebody leads", || !etcd.ctl(&["get", "--prefix", LEADER]).is_empty()).await;
    assert_eq!(etcd.ctl(&["get", "--prefix", LEADER]), holder);
    first.until_leading().await;
    beats(&etcd, 2).await;
    assert!(!second.is_leading());
    assert_eq!(elections(&etcd.history(1).await), 2);
}

#[tokio::test]
async fn a_standby_that_stops_takes_its_announcement_back_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let (first, second) = two(&etcd).await;
    until("the leader sees it", || first.has_metric("clustermesh_export_standbys 1")).await;
    second.stop().await;
    assert_eq!(standbys(&etcd), 0);
}

/// An etcd with users: `weak` may become the leader and read records, but not write them.
fn etcd_with_users(dir: &Path) -> Etcd {
    let ca = Ca::new("test");
    for name in ["root", "weak", "strong"] {
        ca.issue(name, &dir.join(name));
    }
    // etcdctl uses the server's certificate, so it is root.
    let etcd = Etcd::start_tls(dir, &dir.join("root"));
    for name in ["weak", "strong"] {
        etcd.ctl(&["user", "add", name, "--no-password"]);
        etcd.ctl(&["role", "add", name]);
        etcd.ctl(&["user", "grant-role", name, name]);
    }
    let grant = |role, kind, prefix| {
        etcd.ctl(&["role", "grant-permission", role, kind, "--prefix=true", prefix]);
    };
    grant("strong", "readwrite", "clustermesh/");
    grant("weak", "readwrite", "clustermesh/leader/");
    grant("weak", "readwrite", "clustermesh/standby/");
    grant("weak", "read", "clustermesh/v1/");
    etcd.ctl(&["user", "add", "root:secret"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["auth", "enable"]);
    etcd
}

#[tokio::test]
async fn a_replica_whose_writes_are_denied_leaves_the_lead_and_stands_by_once_they_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_with_users(dir.path());
    let start = |name: &str| {
        let tls = Tls::from_dir(&dir.path().join(name));
        let running = Running::replica(Dialer::new(vec![etcd.endpoint()], Some(tls)).unwrap(), RESIGN_AFTER);
        running.say(&[("ns/a", &[1])]);
        running
    };
    let weak = start("weak");
    until("denied", || weak.missing().contains("permission denied")).await;
    let strong = start("strong");
    strong.until_leading().await;
    strong.until_ready().await;
    until("told", || weak.missing_of("fitness").contains("does not take what this replica writes")).await;
    assert!(weak.has_metric("clustermesh_export_fit 0"));
    beats(&etcd, 2).await;
    assert_eq!(standbys(&etcd), 0);
    let leader = etcd.ctl(&["get", "--prefix", LEADER]);
    etcd.ctl(&["role", "grant-permission", "weak", "readwrite", "--prefix=true", "clustermesh/v1/"]);
    // Those who stayed away because their writes failed do so for a while.
    until_standbys(&etcd, 1).await;
    assert_eq!(etcd.ctl(&["get", "--prefix", LEADER]), leader);
    strong.silence();
    weak.until_leading().await;
    weak.until_ready().await;
}
