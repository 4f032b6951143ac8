//! What a peer writes into its etcd and must not get away with, over a real etcd and the running peers component: each
//! gives a message that names the record, the reason and the remedy, one log line, a counter; and nothing else changes.
//!
//! `crates/model/tests/bad_records.rs` has many more samples of each, without an etcd.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod world;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use mesh_admin::api::{Peer, PeerState};
use mesh_kv::testing::Etcd;
use node_agent::merge::merger::PeerInputs;
use world::{World, agreed, bad_lines, file, fill};

/// For every wait.
const DEADLINE: Duration = Duration::from_secs(60);
const SERVICE: &str = "services/PEER/default/rebel-base";
const SLICE: &str = "endpoints/PEER/default/rebel-base/rebel-base-x1";
const CLUSTER: &str = "clusters/PEER";

/// A record and what becomes of it.
struct Bad {
    key: &'static str,
    value: String,
    /// The metric's label.
    reason: &'static str,
    /// How much the metric goes up.
    count: u64,
    message: &'static [&'static str],
}

impl Bad {
    fn new(
        key: &'static str,
        value: impl Into<String>,
        reason: &'static str,
        message: &'static [&'static str],
    ) -> Self {
        Self { key, value: value.into(), reason, count: 1, message }
    }
}

fn everything() -> Vec<Bad> {
    let deep = |field: &str| format!("{{\"{field}\":{}", "[".repeat(500_000));
    let outside = r#"{"ports":[{"name":"http","port":8080}],"endpoints":[{"address":"10.2.0.1"},{"address":"10.9.0.1"},
        {"address":"10.1.0.1"}]}"#;
    let forbidden = r#"{"ports":[{"name":"http","port":8080}],"endpoints":[{"address":"10.2.0.1"},
        {"address":"169.254.169.254"},{"address":"127.0.0.1"},{"address":"::1"},{"address":"0.0.0.0"}]}"#;
    let port_0 = r#"{"ports":[{"name":"http","port":0}]}"#;
    vec![
        Bad::new(SLICE, "{]", "not_json", &["not JSON", "write it again"]),
        Bad::new(SERVICE, "<xml/>", "not_json", &["not JSON", "write it again"]),
        Bad::new(CLUSTER, "", "not_json", &["not JSON", "write it again"]),
        Bad::new(SERVICE, deep("future"), "not_json", &["not JSON"]),
        Bad::new(SLICE, deep("endpoints"), "wrong_type", &["wrong shape"]),
        Bad::new(SERVICE, r#"{"ports":"http"}"#, "wrong_type", &["wrong shape", "compatible exporter"]),
        Bad::new(SLICE, r#"{"endpoints":[{"address":1}]}"#, "wrong_type", &["wrong shape"]),
        Bad::new(SERVICE, "[]", "wrong_type", &["object"]),
        Bad::new(SLICE, r#"{"slice":"another"}"#, "disagrees", &["slice", "another", "only the peer can"]),
        Bad::new(SERVICE, r#"{"cluster":"hoth"}"#, "disagrees", &["cluster", "hoth"]),
        Bad::new("services/hoth/default/rebel-base", "{}", "foreign_cluster", &["belongs to cluster hoth"]),
        Bad::new("services/PEER/default/a/b", "{}", "bad_key", &["wrong number of parts"]),
        Bad::new("secrets/PEER", "{}", "bad_key", &["no kind of record"]),
        Bad::new(SERVICE, port_0, "port_zero", &["number 0", "1–65535"]),
        Bad { count: 2, ..Bad::new(SLICE, outside, "outside_fence", &["10.", "range"]) },
        Bad { count: 4, ..Bad::new(SLICE, forbidden, "outside_fence", &["169.254.169.254", "link-local"]) },
        Bad::new(
            SLICE,
            format!("{{}}{}", " ".repeat(1_999_998)),
            "too_large",
            &["2000000 bytes", "smaller slices"],
        ),
    ]
}

#[tokio::test]
async fn bad_records_are_named_counted_logged_and_change_nothing() {
    const PEER: &str = "kamino";
    let mut world = World::new();
    let (etcd, _dir) = large();
    follow(&mut world, &etcd, PEER, "10.2.0.0/16").await;
    let before = PeerInputs::of(&world.set());
    for bad in everything() {
        let counted = rejected(&world, PEER, bad.reason);
        let lines = refusals(PEER).len();
        let key = put(&etcd, bad.key, PEER, &bad.value);
        let what = format!("{key} {:.60}", bad.value);
        world.until_metric(&what, |world| rejected(world, PEER, bad.reason) == counted + bad.count).await;
        let row = world.until_row(PEER, |row| has_message(row, &key, bad.message)).await;
        assert_eq!((row.state, row.services, row.backends), (PeerState::Synced, 1, 1), "{what}: {row:?}");
        assert_eq!(PeerInputs::of(&world.set()).synced, before.synced, "{what}");
        assert_eq!(refusals(PEER).len(), lines + 1, "{what}: {:?}", refusals(PEER));
        fill(&etcd, PEER, 2, &["10.2.0.1"]);
    }
    settled(&mut world, &etcd, PEER).await;
    assert_eq!(PeerInputs::of(&world.set()).synced, before.synced);
    world.stop().await;
}

#[tokio::test]
async fn unknown_fields_and_what_is_not_for_us_are_ignored_in_silence() {
    const PEER: &str = "bespin";
    let mut world = World::new();
    let etcd = world.etcd("peer");
    follow(&mut world, &etcd, PEER, "10.2.0.0/16").await;
    let before = PeerInputs::of(&world.set());
    let slice = r#"{"ports":[{"name":"http","port":8080,"app":"h2c"}],"endpoints":[{"address":"10.2.0.1","weight":3}],
        "future":{"deep":[1]}}"#;
    // Before the others: nobody hears of the revision of a key that is not watched.
    etcd.ctl(&["put", "registry/somebody/elses", "{]"]);
    put(&etcd, SLICE, PEER, slice);
    put(&etcd, SERVICE, PEER, r#"{"ports":[{"name":"http","protocol":"TCP","port":80}],"future":null}"#);
    put(&etcd, CLUSTER, PEER, r#"{"id":2,"incarnation":"one","future":[]}"#);
    let row = settled(&mut world, &etcd, PEER).await;
    assert_eq!((row.state, row.rejected, row.rejections.len()), (PeerState::Synced, 0, 0), "{row:?}");
    assert_eq!(PeerInputs::of(&world.set()).synced, before.synced);
    assert!(refusals(PEER).is_empty(), "{:?}", refusals(PEER));
    world.stop().await;
}

#[tokio::test]
async fn a_cluster_record_of_another_id_freezes_the_peer_until_it_is_right_again() {
    const PEER: &str = "jakku";
    let mut world = World::new();
    let etcd = world.etcd("peer");
    follow(&mut world, &etcd, PEER, "10.2.0.0/16").await;
    let before = PeerInputs::of(&world.set());
    put(&etcd, CLUSTER, PEER, r#"{"id":9,"incarnation":"one"}"#);
    let row = world.until_row(PEER, |row| row.state == PeerState::Refused).await;
    let reason = row.reason.unwrap();
    assert!(reason.contains("its id is 9") && reason.contains("correct `id`"), "{reason}");
    assert_eq!(rejected(&world, PEER, "wrong_id"), 1);
    // Nothing that it says now is used, be it ever so well formed.
    let slice = r#"{"ports":[{"name":"http","port":8080}],"endpoints":[{"address":"10.2.0.7"}]}"#;
    put(&etcd, SLICE, PEER, slice);
    settled(&mut world, &etcd, PEER).await;
    assert_eq!(PeerInputs::of(&world.set()).synced, before.synced, "the last good state stays");
    put(&etcd, CLUSTER, PEER, r#"{"id":2,"incarnation":"one"}"#);
    world.until_row(PEER, |row| row.state == PeerState::Synced).await;
    assert_ne!(PeerInputs::of(&world.set()).synced, before.synced, "what it said meanwhile counts");
    world.stop().await;
}

#[tokio::test]
async fn a_hundred_thousand_endpoints_are_used_and_what_is_beyond_is_left_out_and_told() {
    const PEER: &str = "coruscant";
    let mut world = World::new();
    let (etcd, _dir) = large();
    follow(&mut world, &etcd, PEER, "10.2.0.0/15").await;
    let slice = |from: u32, count: u32| {
        let address = |n: u32| std::net::Ipv4Addr::from(u32::from_be_bytes([10, 2, 0, 0]) + n);
        let endpoints: Vec<_> =
            (from..from + count).map(|n| format!(r#"{{"address":"{}"}}"#, address(n))).collect();
        format!(r#"{{"ports":[{{"name":"http","port":8080}}],"endpoints":[{}]}}"#, endpoints.join(","))
    };
    // With the one that is there already these are 100,000.
    for (name, from, count) in [("y1", 2, 33_333), ("y2", 40_000, 33_333), ("y3", 80_000, 33_333)] {
        put(&etcd, &format!("endpoints/PEER/default/rebel-base/{name}"), PEER, &slice(from, count));
    }
    let row = world.until_row(PEER, |row| row.backends == 100_000).await;
    assert_eq!((row.state, row.rejected), (PeerState::Synced, 0), "{row:?}");
    put(&etcd, "endpoints/PEER/default/rebel-base/z", PEER, &slice(120_000, 1));
    world.until_metric("left out", |world| rejected(world, PEER, "too_many_endpoints") == 1).await;
    let parts = &["more than 100000 endpoints", "split the service"];
    let key = format!("clustermesh/v1/services/{PEER}/default/rebel-base");
    let row = world.until_row(PEER, |row| has_message(row, &key, parts)).await;
    assert_eq!(row.backends, 100_000);
    world.stop().await;
}

/// Lets the peer have a service of one endpoint, and waits until the agent knows it.
async fn follow(world: &mut World, etcd: &Etcd, peer: &str, range: &str) {
    fill(etcd, peer, 2, &["10.2.0.1"]);
    world.write(peer, &file(2, &etcd.endpoint().to_string(), &agreed(range)));
    world.until_row(peer, |row| row.state == PeerState::Synced).await;
}

/// An etcd that takes larger requests than etcd does by itself, and its folder.
fn large() -> (Etcd, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Etcd::start_limited(dir.path(), &["--max-request-bytes", "4000000"]), dir)
}

/// Writes a record, and says under which key. `etcdctl` takes long values from its input only.
fn put(etcd: &Etcd, key: &str, peer: &str, value: &str) -> String {
    let key = format!("clustermesh/v1/{}", key.replace("PEER", peer));
    if value.is_empty() {
        etcd.ctl(&["put", &key, ""]);
        return key;
    }
    let endpoint = etcd.endpoint().to_string();
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "put", &key]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{key}");
    key
}

/// Everything that stands in the etcd by now was read.
async fn settled(world: &mut World, etcd: &Etcd, peer: &str) -> Peer {
    let status = etcd.ctl(&["get", "nothing", "--write-out", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let revision = status["header"]["revision"].as_i64().unwrap();
    world.until_row(peer, |row| row.revision.is_some_and(|known| known >= revision)).await
}

fn rejected(world: &World, peer: &str, reason: &str) -> u64 {
    let metric = format!("clustermesh_peer_rejected_records{{peer=\"{peer}\",reason=\"{reason}\"}} ");
    let text = world.registry.encode();
    text.lines().find_map(|line| line.strip_prefix(&metric)).map_or(0, |value| value.parse().unwrap())
}

fn has_message(row: &Peer, key: &str, parts: &[&str]) -> bool {
    let has_all = |text: &String| text.contains(key) && parts.iter().all(|part| text.contains(part));
    row.rejections.iter().any(has_all)
}

fn refusals(peer: &str) -> Vec<String> {
    bad_lines(peer).into_iter().filter(|line| line.contains("refused what")).collect()
}
