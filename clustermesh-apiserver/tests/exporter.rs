//! The exporter against a real etcd, with a source that the test holds in its hands.
#![allow(clippy::unwrap_used, clippy::panic)]

mod exporting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use exporting::{ALL_OF_A, DEADLINE, PREFIX, Running, Stands, etcd_of, keys, stands, until, until_stands};
use mesh_kv::testing::Etcd;
use mesh_kv::{Dialer, Event, PeerWatch};
use mesh_model::address_policy::{AddressPolicy, OwnRanges, PeerRanges, Ranges};
use mesh_model::name::{ClusterId, ClusterName, ServiceName};
use mesh_model::table::Knowledge;
use mesh_model::view::{PeerPin, PeerSnapshot, PeerView};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

#[tokio::test]
async fn a_change_is_one_transaction_and_touches_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1, 2]), ("ns/b", &[3])]);
    running.until_ready().await;
    let before = stands(&etcd).await;
    // A slice changes, another goes and a service appears, all in one snapshot.
    running.say(&[("ns/a", &[9]), ("ns/b", &[3]), ("ns/c", &[4])]);
    let after = until_stands(&etcd, "changed", |all| all.contains_key("services/hoth/ns/c")).await;
    let changed: Vec<&str> =
        after.iter().filter(|(key, at)| before.get(*key) != Some(*at)).map(|(key, _)| key.as_str()).collect();
    assert_eq!(changed, ["endpoints/hoth/ns/a/slice-0", "endpoints/hoth/ns/c/slice-0", "services/hoth/ns/c"]);
    let revisions: Vec<i64> = changed.iter().map(|key| after[*key].1).collect();
    assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{revisions:?}");
    assert!(!after.contains_key("endpoints/hoth/ns/a/slice-1"));
}

#[tokio::test]
async fn leftovers_are_pruned_only_once_the_source_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    for key in [
        "services/hoth/ns/old",
        "endpoints/hoth/ns/old/x",
        "services/hoth/what/is/this",
        "services/endor/ns/a",
    ] {
        etcd.ctl(&["put", &format!("{PREFIX}{key}"), "{}"]);
    }
    let before = stands(&etcd).await;
    let running = Running::start(&etcd);
    // It is connected and does not even campaign.
    until("connected", || running.has_metric("clustermesh_etcd_connected 1")).await;
    until("its alarms are read", || running.missing_of("etcd").is_empty()).await;
    assert_eq!(etcd.ctl(&["get", "--prefix", "clustermesh/leader/"]), "");
    assert_eq!(stands(&etcd).await, before);
    assert_eq!(running.missing(), "waiting for the source's first full list");
    running.say(&[("ns/a", &[1])]);
    running.until_ready().await;
    let mut expected = ALL_OF_A.to_vec();
    expected.push("services/endor/ns/a");
    expected.sort_unstable();
    assert_eq!(keys(&stands(&etcd).await), expected);
}

#[tokio::test]
async fn a_wiped_etcd_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = etcd_of(&dir);
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1])]);
    running.until_ready().await;
    let record = etcd.ctl(&["get", "--print-value-only", "clustermesh/v1/clusters/hoth"]);
    etcd.wipe();
    let all = until_stands(&etcd, "written anew", |all| all.contains_key("synced/hoth/nodes")).await;
    assert_eq!(keys(&all), ALL_OF_A);
    let anew = etcd.ctl(&["get", "--print-value-only", "clustermesh/v1/clusters/hoth"]);
    assert!(!record.is_empty() && !anew.is_empty() && record != anew, "the incarnation must be another one");
}

#[tokio::test]
async fn records_deleted_or_changed_by_others_are_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1])]);
    running.until_ready().await;
    let before = stands(&etcd).await;
    etcd.ctl(&["put", "clustermesh/v1/endpoints/hoth/ns/a/slice-0", "vandalised"]);
    etcd.ctl(&["put", "clustermesh/v1/services/hoth/ns/fake", "{}"]);
    let text = |all: &Stands| String::from_utf8(all["endpoints/hoth/ns/a/slice-0"].0.clone()).unwrap();
    until_stands(&etcd, "repaired", |all| keys(all) == ALL_OF_A && text(all).contains("10.2.0.1")).await;
    etcd.ctl(&["del", "--prefix", PREFIX]);
    let after = until_stands(&etcd, "written anew", |all| keys(all) == ALL_OF_A).await;
    assert_eq!(text(&after).split("changed").next(), text(&before).split("changed").next());
}

#[tokio::test]
async fn a_restarted_etcd_or_exporter_rewrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = etcd_of(&dir);
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1])]);
    running.until_ready().await;
    let before = stands(&etcd).await;

    etcd.restart();
    until("noticed", || !running.readiness.is_ready()).await;
    running.until_ready().await;
    assert_eq!(stands(&etcd).await, before);

    running.stop().await;
    assert_eq!(stands(&etcd).await, before, "to stop is not to leave");
    let started = Instant::now();
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1])]);
    running.until_ready().await;
    assert!(started.elapsed() < Duration::from_secs(2), "the leadership was not given up");
    assert_eq!(stands(&etcd).await, before);
}

#[tokio::test]
async fn a_successor_of_a_crashed_exporter_takes_over_within_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1])]);
    running.until_ready().await;
    let before = stands(&etcd).await;
    running.crash().await;
    let started = Instant::now();
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1])]);
    running.until_standing_by().await;
    running.until_leading().await;
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(stands(&etcd).await, before);
    running.say(&[("ns/a", &[1]), ("ns/b", &[2])]);
    let after = until_stands(&etcd, "written", |all| all.contains_key("services/hoth/ns/b")).await;
    assert!(before.iter().all(|(key, at)| after.get(key) == Some(at)), "{:?}", keys(&after));
}

#[tokio::test]
async fn a_frozen_etcd_is_noticed_and_gets_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1])]);
    running.until_ready().await;
    etcd.freeze();
    running.say(&[("ns/b", &[1])]);
    until("noticed", || running.missing().contains("no answer in time")).await;
    etcd.resume();
    running.until_ready().await;
    assert!(stands(&etcd).await.contains_key("services/hoth/ns/b"));
}

#[tokio::test]
async fn an_etcd_of_another_cluster_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let first = Running::start(&etcd);
    first.say(&[("ns/a", &[1])]);
    first.until_ready().await;
    first.stop().await;
    let before = etcd.ctl(&["get", "--prefix", ""]);
    for (name, id, part) in [("endor", 3, "holds records of hoth"), ("hoth", 7, "has the id 2, not 7")] {
        let wrong = Running::start_as(etcd.endpoint(), name, id);
        wrong.say(&[("ns/a", &[1])]);
        until("refused", || wrong.missing().contains(part)).await;
        wrong.stop().await;
        assert_eq!(etcd.ctl(&["get", "--prefix", ""]), before);
    }
}

#[tokio::test]
async fn a_standby_writes_nothing_until_it_leads() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let first = Running::start(&etcd);
    first.say(&[("ns/a", &[1])]);
    first.until_ready().await;
    let second = Running::start(&etcd);
    second.say(&[("ns/b", &[1])]);
    second.until_standing_by().await;
    first.say(&[("ns/a", &[2])]);
    until_stands(&etcd, "written by the first", |all| {
        String::from_utf8_lossy(&all["endpoints/hoth/ns/a/slice-0"].0).contains("10.2.0.2")
    })
    .await;
    first.stop().await;
    until_stands(&etcd, "written by the second", |all| {
        all.contains_key("services/hoth/ns/b") && !all.contains_key("services/hoth/ns/a")
    })
    .await;
}

#[tokio::test]
async fn on_partial_knowledge_nothing_is_pruned_or_called_complete() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    etcd.ctl(&["put", "clustermesh/v1/services/hoth/ns/unread", "{}"]);
    let running = Running::start(&etcd);
    running.know(Knowledge::Partial);
    running.say(&[("ns/a", &[1])]);
    running.until_ready().await;
    let mut expected = vec![ALL_OF_A[0], ALL_OF_A[1], ALL_OF_A[2], "services/hoth/ns/unread"];
    assert_eq!(keys(&stands(&etcd).await), expected);
    running.know(Knowledge::Complete);
    expected = ALL_OF_A.to_vec();
    until_stands(&etcd, "pruned", |all| keys(all) == expected).await;
}

/// What a peer's node-agent makes of this cluster's etcd.
struct Peer {
    view: watch::Receiver<Arc<PeerSnapshot>>,
    /// Whether it ever lost its services after it had them.
    lost: Arc<AtomicBool>,
    _end: DropGuard,
}

impl Peer {
    fn follow(etcd: &Etcd) -> Self {
        let agreed = Ranges { pods: vec!["10.2.0.0/16".parse().unwrap()], nodes: Vec::new() };
        let policy = AddressPolicy::new(PeerRanges::Agreed(agreed), OwnRanges::default());
        let name = ClusterName::new("hoth").unwrap();
        let pin = PeerPin { name: name.clone(), id: ClusterId::new(2).unwrap(), policy };
        let (mut view, (sender, receiver)) = (PeerView::new(pin), watch::channel(Arc::default()));
        let dialer = Arc::new(Dialer::new(vec![etcd.endpoint()], None).unwrap());
        let (token, lost) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let marks = Arc::clone(&lost);
        let sink = move |event: Event| {
            event.feed(&mut view);
            let snapshot = view.snapshot();
            if snapshot.synced && snapshot.services.is_empty() {
                marks.store(true, Ordering::Relaxed);
            }
            sender.send_replace(snapshot);
        };
        tokio::spawn(PeerWatch::new(dialer, &name).run(token.clone(), sink));
        Self { view: receiver, lost, _end: token.drop_guard() }
    }

    /// Waits until it sees exactly these services, with so many endpoints in all.
    async fn until_sees(&mut self, services: &[&str], endpoints: usize) {
        let sees = |view: &Arc<PeerSnapshot>| {
            view.synced
                && view.services.keys().map(ServiceName::as_str).eq(services.iter().copied())
                && view.endpoints == endpoints
        };
        let seen =
            tokio::time::timeout(DEADLINE, self.view.wait_for(sees)).await.map(|view| drop(view.unwrap()));
        assert!(seen.is_ok(), "{services:?}: {:?}", *self.view.borrow());
    }
}

#[tokio::test]
async fn a_peer_sees_what_is_exported_and_loses_nothing_when_etcd_is_wiped() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = etcd_of(&dir);
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1, 2]), ("ns/b", &[3])]);
    let mut peer = Peer::follow(&etcd);
    peer.until_sees(&["ns/a", "ns/b"], 3).await;
    running.say(&[("ns/a", &[1]), ("ns/c", &[4])]);
    peer.until_sees(&["ns/a", "ns/c"], 2).await;
    for _ in 0..3 {
        let before = peer.view.borrow().incarnation().map(ToOwned::to_owned);
        etcd.wipe();
        let renewed = peer.view.wait_for(|view| view.incarnation() != before.as_deref());
        drop(tokio::time::timeout(DEADLINE, renewed).await.unwrap().unwrap());
        peer.until_sees(&["ns/a", "ns/c"], 2).await;
    }
    running.say(&[("ns/c", &[4, 5])]);
    peer.until_sees(&["ns/c"], 2).await;
    let view = peer.view.borrow().clone();
    assert!(!peer.lost.load(Ordering::Relaxed), "it lost everything on the way");
    assert_eq!((view.rejected_total(), view.refused.clone()), (0, None), "{:?}", view.recent_rejections);
}

#[tokio::test]
async fn the_cluster_record_follows_the_clusters_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1])]);
    let says = async |range: &str| {
        let dialer = Arc::new(mesh_kv::Dialer::new(vec![etcd.endpoint()], None).unwrap());
        let session = mesh_kv::Session::open(&dialer).await.unwrap();
        let mut pages = session.list("reading", "clustermesh/v1/clusters/hoth");
        let page = pages.next().await.unwrap();
        page.is_some_and(|page| {
            page.entries.iter().any(|it| String::from_utf8_lossy(&it.value).contains(range))
        })
    };
    for range in ["10.2.0.0/16", "10.4.0.0/14"] {
        let pods = vec![range.parse().unwrap()];
        let ranges = mesh_model::address_policy::OwnRanges { pods, ..Default::default() };
        running.ranges.send_replace(Some(Arc::new(ranges)));
        let end = tokio::time::Instant::now() + DEADLINE;
        while !says(range).await {
            assert!(tokio::time::Instant::now() < end, "the record never says {range}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_peer_loses_nothing_when_all_records_are_deleted_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let running = Running::start(&etcd);
    running.say(&[("ns/a", &[1, 2]), ("ns/b", &[3])]);
    running.until_ready().await;
    let mut peer = Peer::follow(&etcd);
    peer.until_sees(&["ns/a", "ns/b"], 3).await;
    for _ in 0..3 {
        etcd.ctl(&["del", "--prefix", PREFIX]);
        until_stands(&etcd, "written anew", |all| all.contains_key("synced/hoth/services")).await;
    }
    running.say(&[("ns/b", &[3, 4])]);
    peer.until_sees(&["ns/b"], 2).await;
    assert!(!peer.lost.load(Ordering::Relaxed), "it lost everything on the way");
}
