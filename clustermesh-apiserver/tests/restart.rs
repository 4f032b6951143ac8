//! An exporter that restarts while something of its source is broken takes nothing away from peers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod exporting;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use exporting::{Running, Stands, etcd_of, stands, until};
use mesh_kv::testing::Etcd;
use mesh_source::testing::{FILE, OF_A_FILE, OF_THE_FOLDER};
use mesh_source::{Manifests, SourceMetrics, Status};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn app(name: &str, host: u8) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: ns, annotations: {{clustermesh.io/global: \"true\"}}}}
spec: {{clusterIPs: [10.102.0.{host}], ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: ns, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [10.2.0.{host}]}}]
"
    )
}

fn put(folder: &Path, file: &str, text: &str) {
    let beside = folder.join(format!("{file}.tmp"));
    fs::write(&beside, text).unwrap();
    fs::rename(beside, folder.join(file)).unwrap();
}

/// An exporter with a source of its own.
struct Process {
    exporter: Running,
    status: watch::Receiver<Arc<Status>>,
    source: CancellationToken,
}

impl Process {
    fn start(etcd: &Etcd, folder: &Path) -> Self {
        let source = Manifests::new(folder, SourceMetrics::unregistered());
        let status = source.status();
        let exporter = Running::start_with(etcd, source.snapshots(), source.status());
        let token = CancellationToken::new();
        tokio::spawn(source.run(token.clone()));
        Self { exporter, status, source: token }
    }

    async fn stop(self) {
        self.source.cancel();
        self.exporter.stop().await;
    }
}

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
