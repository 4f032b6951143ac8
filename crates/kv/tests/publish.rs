//! Elections and fenced transactions against a real etcd.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_kv::alarm::Alarm;
use mesh_kv::election::{Candidate, Leadership, Role};
use mesh_kv::fault::CallReason;
use mesh_kv::forget::{ForgetError, Remains};
use mesh_kv::health::{alarms, raise};
use mesh_kv::publish::{PublishError, Publisher, Write, read_back, transactions};
use mesh_kv::testing::Etcd;
use mesh_kv::{Dialer, Session};
use mesh_model::export::{ServiceOps, Subject};
use mesh_model::name::ClusterName;

fn hoth() -> ClusterName {
    ClusterName::new("hoth").unwrap()
}

fn record() -> (String, Vec<u8>) {
    ("clustermesh/v1/clusters/hoth".into(), br#"{"incarnation":"one"}"#.to_vec())
}

fn put(name: &str, value: &str) -> Write {
    Write::Put((format!("clustermesh/v1/services/hoth/ns/{name}"), value.into()))
}

async fn session(etcd: &Etcd) -> Session {
    let dialer = Arc::new(Dialer::new(vec![etcd.endpoint()], None).unwrap());
    Session::open(&dialer).await.unwrap()
}

async fn lead(session: &Session, holder: &str) -> Leadership {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Candidate::new(&hoth(), holder).campaign(session, None).await.unwrap() {
            Role::Leader(leadership) => return leadership,
            Role::Standby { .. } => assert!(Instant::now() < deadline, "{holder} is never elected"),
        }
        tokio::task::yield_now().await;
    }
}

async fn publisher<'a>(session: &'a Session, leadership: &'a Leadership) -> Publisher<'a> {
    let stored = read_back(session, &hoth()).await.unwrap();
    Publisher::open(session, leadership, &hoth(), stored, record()).await.unwrap()
}

#[tokio::test]
async fn there_is_one_leader_and_the_next_after_it_resigns() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    let first = lead(&session, "first").await;
    let second = Candidate::new(&hoth(), "second");
    let role = second.campaign(&session, None).await.unwrap();
    assert_eq!(role, Role::Standby { holder: "first".into(), revision: 2 });
    let again = Candidate::new(&hoth(), "first").campaign(&session, Some(&first)).await.unwrap();
    assert_eq!(again, Role::Leader(first.clone()));
    first.resign(&session).await.unwrap();
    assert!(matches!(second.campaign(&session, None).await.unwrap(), Role::Leader(_)));
}

#[tokio::test]
async fn a_leader_without_a_sign_of_life_is_replaced_within_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    lead(&session, "first").await;
    let start = Instant::now();
    lead(&session, "second").await;
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_leader_that_keeps_its_lease_stays() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    let first = lead(&session, "first").await;
    let kept = tokio::time::timeout(Duration::from_secs(6), first.keep(&session)).await;
    assert!(kept.is_err(), "{kept:?}");
    let again = Candidate::new(&hoth(), "first").campaign(&session, Some(&first)).await.unwrap();
    assert_eq!(again, Role::Leader(first.clone()));
    first.clone().resign(&session).await.unwrap();
    let error = first.keep(&session).await.unwrap_err().to_string();
    assert!(error.contains("the lease has expired"), "{error}");
}

#[tokio::test]
async fn a_leader_that_was_replaced_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    let first = lead(&session, "first").await;
    let mut old = publisher(&session, &first).await;
    old.apply(vec![put("a", "1")]).await.unwrap();
    first.clone().resign(&session).await.unwrap();
    let second = lead(&session, "second").await;
    assert!(matches!(old.apply(vec![put("a", "2")]).await, Err(PublishError::Fenced)));
    let mut new = publisher(&session, &second).await;
    assert_eq!(new.actual()["clustermesh/v1/services/hoth/ns/a"], b"1");
    new.apply(vec![put("a", "3")]).await.unwrap();
}

#[tokio::test]
async fn a_store_whose_cluster_record_was_replaced_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    let leadership = lead(&session, "first").await;
    let mut publisher = publisher(&session, &leadership).await;
    etcd.ctl(&["del", "clustermesh/v1/clusters/hoth"]);
    etcd.ctl(&["put", "clustermesh/v1/clusters/hoth", "another"]);
    assert!(matches!(publisher.apply(vec![put("a", "1")]).await, Err(PublishError::Fenced)));
}

#[tokio::test]
async fn a_large_service_arrives_whole_in_several_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    let leadership = lead(&session, "first").await;
    let mut publisher = publisher(&session, &leadership).await;
    let value = vec![b'x'; 20_000];
    let key = |index: usize| format!("clustermesh/v1/endpoints/hoth/ns/big/slice-{index:04}");
    let ops = ServiceOps {
        subject: Subject::Service("ns/big".parse().unwrap()),
        puts: (0..300).map(|index| (key(index), value.clone())).collect(),
        deletes: Vec::new(),
    };
    let transactions = transactions(vec![ops]);
    assert!(transactions.len() > 3);
    let count = transactions.len();
    let before = publisher.revision();
    for writes in transactions {
        publisher.apply(writes).await.unwrap();
    }
    assert_eq!(publisher.revision(), before + i64::try_from(count).unwrap());
    let stored = read_back(&session, &hoth()).await.unwrap();
    assert_eq!(stored.own.len(), 300);
    assert_eq!(&stored.own, publisher.actual());
}

#[tokio::test]
async fn reading_back_sees_own_records_and_other_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    for key in [
        "clusters/hoth",
        "clusters/hoth-2",
        "services/hoth/ns/a",
        "services/hoth-2/ns/a",
        "synced/hoth/nodes",
    ] {
        etcd.ctl(&["put", &format!("clustermesh/v1/{key}"), "{}"]);
    }
    let stored = read_back(&session, &hoth()).await.unwrap();
    assert_eq!(stored.others, ["hoth-2"]);
    assert!(stored.cluster.is_some());
    let own: Vec<&String> = stored.own.keys().collect();
    assert_eq!(own, ["clustermesh/v1/services/hoth/ns/a", "clustermesh/v1/synced/hoth/nodes"]);
}

#[tokio::test]
async fn others_writes_below_the_own_name_are_noticed_and_own_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    let leadership = lead(&session, "first").await;
    let mut publisher = publisher(&session, &leadership).await;
    publisher.apply(vec![put("a", "1"), put("b", "1")]).await.unwrap();
    publisher
        .apply(vec![put("a", "2"), Write::Delete("clustermesh/v1/services/hoth/ns/b".into())])
        .await
        .unwrap();
    etcd.ctl(&["put", "clustermesh/v1/services/endor/ns/a", "x"]);
    let quiet = tokio::time::timeout(Duration::from_secs(1), publisher.interference()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    etcd.ctl(&["del", "clustermesh/v1/services/hoth/ns/a"]);
    let error = tokio::time::timeout(Duration::from_secs(10), publisher.interference()).await.unwrap();
    assert!(matches!(&error, PublishError::Interference { key } if key.ends_with("ns/a")), "{error}");
}

#[tokio::test]
async fn compaction_keeps_what_happened_since_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    let leadership = lead(&session, "first").await;
    let mut publisher = publisher(&session, &leadership).await;
    let start = publisher.compact().await.unwrap();
    publisher.apply(vec![put("a", "1")]).await.unwrap();
    let first = publisher.revision();
    publisher.compact().await.unwrap();
    publisher.apply(vec![put("a", "2")]).await.unwrap();
    assert_eq!(publisher.compact().await.unwrap(), first);
    // What was compacted once is no error the second time.
    assert_eq!(publisher.compact().await.unwrap(), first + 1);
    publisher.compact().await.unwrap();
    assert!(start < first);
}

#[tokio::test]
async fn an_alarm_is_told_of_and_so_is_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    assert!(alarms(&session).await.unwrap().is_empty());
    let leadership = lead(&session, "first").await;
    let mut publisher = publisher(&session, &leadership).await;
    raise(&session, Alarm::NoSpace).await.unwrap();
    assert_eq!(alarms(&session).await.unwrap().into_iter().collect::<Vec<_>>(), [Alarm::NoSpace]);
    let refused = publisher.apply(vec![put("a", "1")]).await.unwrap_err();
    let is_no_space =
        matches!(&refused, PublishError::Call(call) if matches!(call.reason, CallReason::NoSpace(_)));
    assert!(is_no_space, "{refused:?}");
    // What frees space goes on, and so does the lease.
    publisher.apply(vec![Write::Delete("clustermesh/v1/services/hoth/ns/a".into())]).await.unwrap();
    etcd.ctl(&["alarm", "disarm"]);
    assert!(alarms(&session).await.unwrap().is_empty());
    publisher.apply(vec![put("a", "1")]).await.unwrap();
    raise(&session, Alarm::Corrupt).await.unwrap();
    assert_eq!(alarms(&session).await.unwrap().into_iter().collect::<Vec<_>>(), [Alarm::Corrupt]);
}

#[tokio::test]
async fn what_a_cluster_left_is_not_removed_once_somebody_leads_under_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    let session = session(&etcd).await;
    for key in ["clusters/hoth", "services/hoth/ns/a", "synced/hoth/services", "synced/hoth/newer"] {
        etcd.ctl(&["put", &format!("clustermesh/v1/{key}"), "{}"]);
    }
    let remains = Remains::read(&session, &hoth()).await.unwrap();
    assert_eq!((remains.keys().count(), remains.leader.clone()), (4, None));
    let leadership = lead(&session, "first").await;
    let before = etcd.ctl(&["get", "--prefix", "clustermesh/v1/"]);
    let refused = remains.delete(&session).await.unwrap_err();
    assert!(matches!(refused, ForgetError::Led { deleted: 0, .. }), "{refused:?}");
    assert_eq!(etcd.ctl(&["get", "--prefix", "clustermesh/v1/"]), before);
    let led = Remains::read(&session, &hoth()).await.unwrap();
    assert_eq!(led.leader.as_deref(), Some("first"));
    leadership.resign(&session).await.unwrap();
    assert_eq!(remains.delete(&session).await.unwrap(), 4);
    assert_eq!(etcd.ctl(&["get", "--prefix", "clustermesh/v1/"]), "");
}
