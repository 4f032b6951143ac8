//! Replicas beside each other, their clients, and an etcd that goes away.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{Client, GetOptions, WatchOptions};
use mesh_kv::testing::{Etcd, wait_until};
use mesh_kv::{Change, Dialer, Event, PeerWatch, Tls};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cache::Window;
use super::testing::{Certificates, DEADLINE, Replica, cluster, dialer, dialer_of};
use super::view::Scope;
use super::wire::{RangeRequest, RangeResponse};

const PREFIX: &str = "clustermesh/v1/";

fn put(etcd: &Etcd, key: &str, value: &str) {
    etcd.ctl(&["put", &format!("{PREFIX}{key}"), value]);
}

fn started(dir: &std::path::Path) -> Etcd {
    let etcd = Etcd::start(dir);
    put(&etcd, "clusters/hoth", r#"{"id":1,"incarnation":"one"}"#);
    put(&etcd, "alive/hoth", "1");
    put(&etcd, "services/hoth/ns/a", "1");
    etcd
}

/// What an agent's watch knows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    records: BTreeMap<String, Vec<u8>>,
    lists: usize,
    resumes: usize,
    errors: Vec<String>,
}

impl Seen {
    fn take(&mut self, event: Event) {
        match event {
            Event::ListBegin => self.records.clear(),
            Event::ListPage(entries) => {
                self.records.extend(entries.into_iter().map(|entry| (entry.key, entry.value)));
            }
            Event::ListEnd { .. } => self.lists += 1,
            Event::Resumed { .. } => self.resumes += 1,
            Event::Changed { changes, .. } => changes.into_iter().for_each(|change| match change {
                Change::Put { key, value } => drop(self.records.insert(key, value)),
                Change::Delete { key } => drop(self.records.remove(&key)),
            }),
            Event::Disconnected { reason } => self.errors.push(reason.to_string()),
            Event::Connected { .. } | Event::ListCut { .. } | Event::Read { .. } => {}
        }
    }
}

struct Agent {
    seen: watch::Receiver<Seen>,
    _end: DropGuard,
}

impl Agent {
    fn follow(dialer: Arc<Dialer>) -> Self {
        let (sender, seen) = watch::channel(Seen::default());
        let token = CancellationToken::new();
        let peer = PeerWatch::new(dialer, &cluster("hoth"));
        tokio::spawn(peer.run(token.clone(), move |event| sender.send_modify(|seen| seen.take(event))));
        Self { seen, _end: token.drop_guard() }
    }

    async fn until(&mut self, what: &str, holds: impl FnMut(&Seen) -> bool) -> Seen {
        let found = tokio::time::timeout(DEADLINE, self.seen.wait_for(holds)).await;
        found
            .map(|seen| seen.unwrap().clone())
            .unwrap_or_else(|_| panic!("{what}: {:?}", *self.seen.borrow()))
    }

    async fn until_value(&mut self, key: &str, value: &str) -> Seen {
        let key = format!("{PREFIX}{key}");
        self.until(&key, |seen| seen.records.get(&key).is_some_and(|found| found == value.as_bytes())).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_follows_a_replica_as_it_follows_etcd() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = started(dir.path());
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(4).await;
    let direct = Arc::new(Dialer::new(vec![etcd.endpoint()], None).unwrap());
    let mut agents = [Agent::follow(direct), Agent::follow(dialer(vec![replica.endpoint()], &certificates))];
    for agent in &mut agents {
        agent.until("listed", |seen| seen.lists == 1).await;
    }
    for number in 0..50 {
        put(&etcd, &format!("services/hoth/ns/s{}", number % 7), &number.to_string());
        if number % 10 == 9 {
            etcd.ctl(&["del", "--prefix", &format!("{PREFIX}services/hoth/ns/s{}", number % 3)]);
        }
    }
    put(&etcd, "services/hoth/ns/a", "2");
    let mut seen = Vec::new();
    for agent in &mut agents {
        seen.push(agent.until_value("services/hoth/ns/a", "2").await);
    }
    assert_eq!(seen[0], seen[1]);
    // What is not the mesh's business is not even there.
    put(&etcd, "invites/hoth/1", "secret");
    put(&etcd, "services/hoth/ns/a", "3");
    let [direct, served] = &mut agents;
    assert!(
        direct.until_value("services/hoth/ns/a", "3").await.records.len() > {
            served.until_value("services/hoth/ns/a", "3").await.records.len()
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_moves_to_another_replica_resumes() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = started(dir.path());
    let mut replicas =
        [Replica::of_hoth(&etcd, &certificates).await, Replica::of_hoth(&etcd, &certificates).await];
    for replica in &mut replicas {
        replica.reach(4).await;
    }
    let endpoints = replicas.iter().map(Replica::endpoint).collect();
    let mut agent = Agent::follow(dialer(endpoints, &certificates));
    agent.until("listed", |seen| seen.lists == 1).await;
    put(&etcd, "services/hoth/ns/a", "2");
    agent.until_value("services/hoth/ns/a", "2").await;
    let serves = |replica: &Replica| replica.metrics().contains("mesh_api_watch_streams 1");
    let first = replicas.iter().position(serves).expect("one of them serves the agent");
    replicas[first].stop();
    put(&etcd, "services/hoth/ns/a", "3");
    let seen = agent.until_value("services/hoth/ns/a", "3").await;
    assert_eq!((seen.lists, seen.resumes), (1, 1), "{:?}", seen.errors);
    assert!(serves(&replicas[1 - first]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_is_served_while_etcd_is_away() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let mut etcd = started(dir.path());
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(4).await;
    let mut agent = Agent::follow(dialer(vec![replica.endpoint()], &certificates));
    agent.until("listed", |seen| seen.lists == 1).await;
    etcd.kill();
    wait_until("etcd is missed", DEADLINE, || replica.metrics().contains("mesh_api_etcd_connected 0"));
    let client = replica.client(&certificates, "yavin");
    let all = GetOptions::new().with_prefix();
    let found = client.kv_client().get(PREFIX, Some(all)).await.unwrap();
    assert_eq!((found.kvs().len(), found.header().unwrap().revision()), (3, 4));
    // Who comes now is served as well, and who was there goes on when etcd is back.
    let mut late = Agent::follow(dialer(vec![replica.endpoint()], &certificates));
    late.until("listed", |seen| seen.lists == 1).await;
    etcd.restart();
    put(&etcd, "services/hoth/ns/a", "back");
    for agent in [&mut agent, &mut late] {
        let seen = agent.until_value("services/hoth/ns/a", "back").await;
        assert_eq!((seen.lists, seen.errors.len()), (1, 0), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_etcd_shows_as_another_cluster_and_is_listed_by_everybody() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let mut etcd = started(dir.path());
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(4).await;
    let mut agent = Agent::follow(dialer(vec![replica.endpoint()], &certificates));
    agent.until("listed", |seen| seen.lists == 1).await;
    let id = |replica: &Replica| replica.snapshots.borrow().as_ref().unwrap().cluster_id;
    let before = id(&replica);
    etcd.wipe();
    put(&etcd, "clusters/hoth", r#"{"id":1,"incarnation":"two"}"#);
    put(&etcd, "services/hoth/ns/b", "new");
    let seen = agent.until_value("services/hoth/ns/b", "new").await;
    assert_eq!(seen.records.len(), 2);
    assert_ne!(id(&replica), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_etcd_is_listed_by_everybody_although_its_incarnation_is_the_same() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let (mut etcd, backup) = (started(dir.path()), dir.path().join("backup"));
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(4).await;
    let mut agent = Agent::follow(dialer(vec![replica.endpoint()], &certificates));
    agent.until("listed", |seen| seen.lists == 1).await;
    etcd.back_up(&backup);
    put(&etcd, "alive/hoth", "2");
    put(&etcd, "services/hoth/ns/lost", "1");
    agent.until_value("services/hoth/ns/lost", "1").await;
    etcd.restore(&backup);
    // It grows past what the agent knows.
    for number in 0..5 {
        put(&etcd, "alive/hoth", &format!("again {number}"));
    }
    put(&etcd, "services/hoth/ns/new", "1");
    agent.until("listed again", |seen| seen.lists == 2).await;
    let seen = agent.until_value("services/hoth/ns/new", "1").await;
    assert!(!seen.records.contains_key(&format!("{PREFIX}services/hoth/ns/lost")), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cancelled_and_the_others_hear_everything() {
    const WRITES: usize = 300;
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = started(dir.path());
    let window = Window { revisions: 40, bytes: usize::MAX };
    let mut replica = Replica::start(&etcd, &certificates, Scope::of_cluster(&cluster("hoth")), window).await;
    replica.reach(4).await;
    let (slow, fast) = (replica.client(&certificates, "yavin"), replica.client(&certificates, "yavin"));
    let options = || Some(WatchOptions::new().with_prefix());
    let mut slow = slow.watch_client().watch(PREFIX, options()).await.unwrap();
    let mut fast = fast.watch_client().watch(PREFIX, options()).await.unwrap();
    assert!(slow.message().await.unwrap().unwrap().created());
    let writer = Client::connect([etcd.endpoint().to_string()], None).await.unwrap();
    let (mut heard, mut told) = (0, 0);
    for number in 0..WRITES {
        let (key, value) = (format!("{PREFIX}services/hoth/ns/s{}", number % 5), vec![b'x'; 100_000]);
        writer.kv_client().put(key, value, None).await.unwrap();
        while heard <= number {
            let message = tokio::time::timeout(DEADLINE, fast.message()).await.unwrap().unwrap().unwrap();
            assert!(!message.canceled());
            heard += message.events().len();
        }
    }
    assert_eq!(heard, WRITES);
    // It gets what was on its way, and then the revision to list and go on from.
    let cancelled = loop {
        let message = tokio::time::timeout(DEADLINE, slow.message()).await.unwrap().unwrap().unwrap();
        told += message.events().len();
        if message.canceled() {
            break message;
        }
    };
    assert!(told < WRITES);
    assert!(cancelled.compact_revision() > 4, "{cancelled:?}");
    assert!(replica.metrics().contains("mesh_api_watches_compacted_total 1"), "{}", replica.metrics());
    slow.watch(PREFIX, options().map(|options| options.with_start_revision(cancelled.compact_revision())))
        .await
        .unwrap();
    assert!(slow.message().await.unwrap().unwrap().created());
    assert!(!slow.message().await.unwrap().unwrap().events().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_answers_that_are_not_read_take_only_their_clusters_share() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = started(dir.path());
    let writer = Client::connect([etcd.endpoint().to_string()], None).await.unwrap();
    for number in 0..30 {
        let (key, value) = (format!("{PREFIX}services/hoth/ns/s{number}"), vec![b'x'; 100_000]);
        writer.kv_client().put(key, value, None).await.unwrap();
    }
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(34).await;
    // Three times the share, and only its beginning fits into the connection's window.
    let mut raw = tonic::client::Grpc::new(replica.channel(&certificates, "yavin"));
    raw.ready().await.unwrap();
    let everything = RangeRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        ..RangeRequest::default()
    };
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Range");
    let codec = tonic_prost::ProstCodec::<RangeRequest, RangeResponse>::default();
    let unread = raw.server_streaming(tonic::Request::new(everything), path, codec).await.unwrap();
    let all = || Some(GetOptions::new().with_prefix());
    let (yavin, hoth) = (replica.client(&certificates, "yavin"), replica.client(&certificates, "hoth"));
    let refused = yavin.kv_client().get(PREFIX, all()).await.unwrap_err().to_string();
    assert!(refused.contains("etcdserver: too many requests"), "{refused}");
    // Small ones are answered, and so are other clusters.
    yavin.kv_client().get(format!("{PREFIX}services/hoth/ns/a"), None).await.unwrap();
    assert_eq!(hoth.kv_client().get(PREFIX, all()).await.unwrap().count(), 33);
    drop((unread, raw));
    let mut waited = 0;
    while yavin.kv_client().get(PREFIX, all()).await.is_err() {
        waited += 1;
        assert!(waited < 50, "the room does not come back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_watches_that_want_it_are_told_of_progress() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = started(dir.path());
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(4).await;
    let client = replica.client(&certificates, "yavin");
    let options = WatchOptions::new().with_progress_notify();
    let mut watch = client.watch_client().watch("x", Some(options)).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created());
    let told = tokio::time::timeout(DEADLINE, watch.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((told.watch_id(), told.header().unwrap().revision(), told.events().len()), (0, 4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_shows_no_certificate_that_counts_is_refused_and_counted() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = started(dir.path());
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(4).await;
    assert!(replica.client(&certificates, "forger").kv_client().get("a", None).await.is_err());
    assert!(replica.client(&certificates, "hoth").kv_client().get("a", None).await.is_ok());
    let metrics = replica.metrics();
    assert!(
        metrics.contains(r#"clustermesh_mesh_api_refused_certificates_total{reason="unknown_issuer"} 1"#),
        "{metrics}"
    );
    assert!(metrics.contains("clustermesh_mesh_api_failed_handshakes_total 1"), "{metrics}");
}

/// Load balancers and NATs stand between: no name that leads to the server is in its certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_known_by_its_identity_whatever_leads_to_it() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    certificates.renew_for(&[]);
    let etcd = started(dir.path());
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(4).await;
    let follow = |peer| Agent::follow(dialer_of(peer, vec![replica.endpoint()], &certificates));
    follow("hoth").until("listed", |seen| seen.lists == 1).await;
    let refused = follow("endor").until("refused", |seen| !seen.errors.is_empty()).await;
    assert!(refused.errors[0].contains("trust the CA that signed it"), "{:?}", refused.errors);
    assert_eq!(refused.lists, 0);
    // Whoever knows of no identities wants the name.
    let by_name = Dialer::new(vec![replica.endpoint()], Some(Tls::from_dir(&certificates.folder("yavin"))));
    let refused =
        Agent::follow(Arc::new(by_name.unwrap())).until("refused", |seen| !seen.errors.is_empty()).await;
    assert_eq!(refused.lists, 0);
}
