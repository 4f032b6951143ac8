//! An etcd with users: who comes without one is told what to do, and who has a certificate of one may write.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use mesh_kv::election::{Candidate, Role};
use mesh_kv::fault::CallReason;
use mesh_kv::publish::{Publisher, Write, read_back};
use mesh_kv::testing::{Ca, Etcd};
use mesh_kv::{Dialer, Session, Tls};
use mesh_model::name::ClusterName;

fn hoth() -> ClusterName {
    ClusterName::new("hoth").unwrap()
}

fn enable(etcd: &Etcd) {
    etcd.ctl(&["user", "add", "root:secret"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["auth", "enable"]);
}

#[tokio::test]
async fn an_etcd_with_users_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path());
    enable(&etcd);
    let dialer = Arc::new(Dialer::new(vec![etcd.endpoint()], None).unwrap());
    let session = Session::open(&dialer).await.unwrap();
    let error = read_back(&session, &hoth()).await.unwrap_err();
    assert!(matches!(error.reason, CallReason::Auth(_)), "{error:?}");
    let text = error.to_string();
    for part in ["user name is empty", "authentication enabled", "common name", "grant-permission"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_whose_name_is_a_user_publishes() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new("test"));
    let (server, client) = (dir.path().join("server"), dir.path().join("client"));
    // etcdctl uses the server's certificate, so it is root.
    ca.issue("root", &server);
    ca.issue("hoth-exporter", &client);
    let etcd = Etcd::start_tls(dir.path(), &server);
    etcd.ctl(&["user", "add", "hoth-exporter", "--no-password"]);
    etcd.ctl(&["role", "add", "exporter"]);
    etcd.ctl(&["role", "grant-permission", "exporter", "readwrite", "--prefix=true", "clustermesh/"]);
    etcd.ctl(&["user", "grant-role", "hoth-exporter", "exporter"]);
    enable(&etcd);
    let dialer = Dialer::new(vec![etcd.endpoint()], Some(Tls::from_dir(&client))).unwrap();
    let session = Session::open(&Arc::new(dialer)).await.unwrap();
    let stored = read_back(&session, &hoth()).await.unwrap();
    let campaign = Candidate::new(&hoth(), "first").campaign(&session, None).await.unwrap();
    let Role::Leader(leadership) = campaign else { panic!("{campaign:?}") };
    let record = ("clustermesh/v1/clusters/hoth".to_owned(), b"{}".to_vec());
    let mut publisher = Publisher::open(&session, &leadership, &hoth(), stored, record).await.unwrap();
    let put = Write::Put(("clustermesh/v1/services/hoth/ns/a".into(), b"{}".to_vec()));
    publisher.apply(vec![put]).await.unwrap();
    publisher.compact().await.unwrap();
    leadership.resign(&session).await.unwrap();
    let refused = session.read("reading", "others/key").await.unwrap_err();
    assert!(matches!(refused.reason, CallReason::Auth(_)), "{refused:?}");
}
