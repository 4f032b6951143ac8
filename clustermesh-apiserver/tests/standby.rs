//! Two exporters of one cluster: who writes, when, and what the other one does meanwhile; and what etcd's own troubles
//! do to the one that leads.
#![allow(clippy::unwrap_used, clippy::panic)]

mod exporting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use exporting::{DEADLINE, Running, etcd_of, keys, stands, until, until_stands};
use mesh_kv::testing::{Etcd, Past, Proxy};
use tokio::time::{Instant, sleep};

const LEADER: &str = "clustermesh/leader/hoth";
const ALIVE: &str = "clustermesh/v1/alive/hoth";

/// The epoch of an alive record tells who wrote it.
fn epoch(alive: &Past) -> String {
    let text = alive.text();
    let rest = text.split("\"epoch\":").nth(1).unwrap();
    rest.split([',', '}']).next().unwrap().to_owned()
}

fn epochs(past: &[Past]) -> Vec<String> {
    let mut all: Vec<String> = past.iter().filter(|change| change.key == ALIVE).map(epoch).collect();
    all.dedup();
    all
}

fn deletions(past: &[Past]) -> Vec<&str> {
    let records = past.iter().filter(|change| change.key.starts_with(exporting::PREFIX));
    records.filter(|change| change.value.is_none()).map(|change| change.key.as_str()).collect()
}

/// What happened since the last takeover, that included.
fn since_takeover(past: &[Past]) -> &[Past] {
    let taken = past.iter().rposition(|change| change.key == LEADER && change.value.is_some()).unwrap();
    &past[taken..]
}

async fn beats(etcd: &Etcd, count: usize) {
    for _ in 0..count {
        let before = etcd.ctl(&["get", ALIVE]);
        until("a beat", || etcd.ctl(&["get", ALIVE]) != before).await;
    }
}

/// One that leads, over a way that can be frozen and slowed, and one that stands by; both say the same.
async fn leader_behind_a_proxy(etcd: &Etcd) -> (Proxy, Running, Running) {
    let path = Proxy::start(&etcd.endpoint());
    let first = Running::start_as(path.endpoint(), "hoth", 2);
    first.say(&[("ns/a", &[1])]);
    first.until_ready().await;
    let second = Running::start(etcd);
    second.say(&[("ns/a", &[1])]);
    second.until_standing_by().await;
    (path, first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_connection_freezes_is_replaced_and_writes_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let (path, first, second) = leader_behind_a_proxy(&etcd).await;
    // What it wants to write now is on its way when the connection freezes, or is tried again when it goes on.
    path.freeze();
    first.say(&[("ns/a", &[9])]);
    second.until_leading().await;
    path.resume();
    first.until_standing_by().await;
    second.say(&[("ns/a", &[1]), ("ns/b", &[2])]);
    until_stands(&etcd, "written by the second", |all| all.contains_key("services/hoth/ns/b")).await;
    beats(&etcd, 2).await;

    let past = etcd.history(1).await;
    let after = since_takeover(&past);
    assert_eq!(epochs(after).len(), 1, "{after:?}");
    assert!(!after.iter().any(|change| change.text().contains("10.2.0.9")), "{after:?}");
    assert_eq!(deletions(&past), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_takes_seconds_to_answer_keeps_its_leader() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let (path, first, second) = leader_behind_a_proxy(&etcd).await;
    path.delay(Duration::from_secs(2));
    beats(&etcd, 4).await;
    first.say(&[("ns/a", &[1]), ("ns/b", &[2])]);
    until_stands(&etcd, "written slowly", |all| all.contains_key("services/hoth/ns/b")).await;
    let past = etcd.history(1).await;
    assert_eq!(epochs(&past).len(), 1, "somebody took over");
    assert!(second.has_metric("clustermesh_export_leading 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_starts_on_an_etcd_that_takes_seconds_to_answer() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let path = Proxy::start(&etcd.endpoint());
    path.delay(Duration::from_millis(2500));
    let running = Running::start_as(path.endpoint(), "hoth", 2);
    running.say(&[("ns/a", &[1])]);
    let start = Instant::now();
    while !running.has_metric("clustermesh_export_leading 1") || !running.readiness.is_ready() {
        assert!(start.elapsed() < Duration::from_secs(120), "{:?}", running.readiness.missing());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(keys(&stands(&etcd).await), exporting::ALL_OF_A);
}

#[tokio::test]
async fn a_crashed_leaders_records_stand_throughout_the_takeover() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let first = Running::start(&etcd);
    first.say(&[("ns/a", &[1, 2]), ("ns/b", &[3])]);
    first.until_ready().await;
    let before = stands(&etcd).await;
    let second = Running::start(&etcd);
    second.say(&[("ns/a", &[1, 2]), ("ns/b", &[3])]);
    second.until_standing_by().await;
    first.crash().await;
    second.until_leading().await;
    beats(&etcd, 2).await;
    let past = etcd.history(1).await;
    assert_eq!(deletions(&past), Vec::<&str>::new());
    assert_eq!(epochs(&past).len(), 2);
    assert_eq!(stands(&etcd).await, before, "what stood as it should was written again");
}

/// The revisions in which records were written, with operations and bytes of each.
fn transactions(past: &[Past]) -> BTreeMap<i64, (usize, usize)> {
    let mut all = BTreeMap::<i64, (usize, usize)>::new();
    for change in past {
        let (operations, bytes) = all.entry(change.revision).or_default();
        *operations += 1;
        *bytes += change.key.len() + change.value.as_ref().map_or(0, Vec::len);
    }
    all
}

#[tokio::test]
async fn no_transaction_exceeds_100_operations_or_a_megabyte() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let running = Running::start(&etcd);
    // 330 services of two records each bound by number, 240 wide slices bound by bytes: 100 of these are too much.
    let mut services = exporting::many_services(330);
    services.extend(exporting::wide_service("ns/wide", 240, 100));
    running.say_all(services);
    running.until_ready().await;
    let past = etcd.history(1).await;
    let all = transactions(&past);
    let most = |pick: fn(&(usize, usize)) -> usize| all.values().map(pick).max().unwrap();
    let (operations, bytes) = (most(|of| of.0), most(|of| of.1));
    assert!((90..=100).contains(&operations), "{operations} operations in one transaction");
    assert!((900_000..=1_000_000).contains(&bytes), "{bytes} bytes in one transaction");
    let wide = stands(&etcd).await.keys().filter(|key| key.starts_with("endpoints/hoth/ns/wide/")).count();
    assert_eq!(wide, 240);
}

#[tokio::test]
async fn a_record_too_big_for_etcd_holds_up_no_other_and_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start_limited(dir.path(), &["--max-request-bytes", "8000"]);
    let running = Running::start(&etcd);
    let mut services = exporting::many_services(50);
    services.extend(exporting::wide_service("ns/wide", 1, 100));
    running.say_all(services);
    running.until_ready().await;
    let all = stands(&etcd).await;
    assert_eq!(all.keys().filter(|key| key.starts_with("services/")).count(), 51, "{:?}", keys(&all));
    assert!(!all.contains_key("endpoints/hoth/ns/wide/slice-0"));
    assert!(running.has_metric("clustermesh_export_oversized_records 1"));
    // It fits once it is smaller, and is forgotten.
    running.say_all(exporting::wide_service("ns/wide", 1, 10));
    until_stands(&etcd, "written", |all| all.contains_key("endpoints/hoth/ns/wide/slice-0")).await;
    until("forgotten", || running.has_metric("clustermesh_export_oversized_records 0")).await;
    assert!(running.has_metric("clustermesh_export_oversized_total 1"), "told of more than once");

    // Too big again, and one that was there is gone: peers must not use it any more.
    let mut services = exporting::wide_service("ns/wide", 1, 100);
    let (_, service) = services.iter_mut().next().unwrap();
    let slice = Arc::make_mut(service).slices.values_mut().next().unwrap();
    let gone = format!("\"{}\"", Arc::make_mut(slice).endpoints.remove(3).address);
    let text = |all: &BTreeMap<String, (Vec<u8>, i64)>| {
        String::from_utf8(all["endpoints/hoth/ns/wide/slice-0"].0.clone()).unwrap()
    };
    assert!(text(&stands(&etcd).await).contains(&gone));
    running.say_all(services);
    until_stands(&etcd, "withdrawn", |all| !text(all).contains(&gone)).await;
    assert_eq!(text(&stands(&etcd).await).matches("\"address\"").count(), 9, "the others stay");
}

#[tokio::test]
async fn a_standby_that_was_away_longer_than_the_history_still_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    let path = Proxy::start(&etcd.endpoint());
    let first = Running::start(&etcd);
    first.say(&[("ns/a", &[1])]);
    first.until_ready().await;
    let second = Running::start_as(path.endpoint(), "hoth", 2);
    second.say(&[("ns/a", &[1])]);
    second.until_standing_by().await;
    path.cut();
    until("noticed", || !second.readiness.is_ready()).await;
    beats(&etcd, 2).await;
    etcd.ctl(&["compact", &etcd.revision().await.to_string()]);
    first.crash().await;
    path.heal();
    let deadline = Instant::now() + DEADLINE;
    while !second.has_metric("clustermesh_export_leading 1") {
        assert!(Instant::now() < deadline, "{}", second.missing());
        sleep(Duration::from_millis(20)).await;
    }
}
