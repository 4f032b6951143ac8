//! An exporter that restarts while something of its source is broken takes nothing away from peers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod exporting;

use std::fs;

use exporting::folder::{Process, app};
use exporting::{Stands, etcd_of, stands, until};
use mesh_kv::testing::Etcd;
use mesh_source::testing::folder::put;
use mesh_source::testing::{FILE, OF_A_FILE, OF_THE_FOLDER};

const ALL: [&str; 4] =
    ["endpoints/hoth/ns/a/a-1", "endpoints/hoth/ns/b/b-1", "services/hoth/ns/a", "services/hoth/ns/b"];

async fn records(etcd: &Etcd) -> Stands {
    let all = stands(etcd).await.into_iter();
    all.filter(|(key, _)| key.starts_with("endpoints/") || key.starts_with("services/")).collect()
}

async fn until_addresses(etcd: &Etcd, addresses: [&str; 2]) {
    until("the endpoints stand", || {
        let all = etcd.ctl(&["get", "--prefix", "clustermesh/v1/endpoints"]);
        addresses.iter().all(|address| all.contains(&format!("\"{address}\"")))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_while_something_is_broken_deletes_no_record_and_follows_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = etcd_of(&dir);
    for breakage in OF_A_FILE.into_iter().chain(OF_THE_FOLDER) {
        let what = breakage.what;
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("manifests");
        fs::create_dir(&folder).unwrap();
        put(&folder, FILE, &app("a", 1));
        put(&folder, "b.yaml", &app("b", 2));
        let first = Process::start(&etcd, &folder);
        until_addresses(&etcd, ["10.2.0.1", "10.2.0.2"]).await;
        first.exporter.until_ready().await;
        first.stop().await;
        let before = records(&etcd).await;
        assert_eq!(before.keys().collect::<Vec<_>>(), ALL, "{what}");

        (breakage.does)(&folder);
        let mut second = Process::start(&etcd, &folder);
        if OF_A_FILE.iter().any(|of_a_file| of_a_file.what == what) {
            second.exporter.until_leading().await;
            second.exporter.until_ready().await;
            put(&folder, "b.yaml", &app("b", 9));
            until_addresses(&etcd, ["10.2.0.1", "10.2.0.9"]).await;
        } else {
            second.status.wait_for(|status| !status.problems.is_empty()).await.unwrap();
        }
        let after = records(&etcd).await;
        assert_eq!(after.keys().collect::<Vec<_>>(), ALL, "{what}");
        assert_eq!(after["services/hoth/ns/a"], before["services/hoth/ns/a"], "{what}");
        second.stop().await;
        // The next one begins with a good folder.
        etcd.ctl(&["del", "--prefix", "clustermesh/v1/"]);
    }
}
