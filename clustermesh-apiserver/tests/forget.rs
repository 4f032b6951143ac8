//! The command that removes what a cluster left under a former name, by the real binary on a real etcd.
#![allow(clippy::unwrap_used, clippy::panic)]

mod binaries;

use std::process::{Command, Output};

use binaries::{ALL, Apiserver, Lab, base, keys};
use mesh_kv::testing::{Etcd, Past, free_port};

const MARKER: &str = "clustermesh/v1/synced/hoth/";
const OTHERS: [&str; 3] = ["clusters/hoth-2", "services/hoth-2/ns/a", "synced/hoth-2/services"];

fn history(etcd: &Etcd, from: i64) -> Vec<Past> {
    wait(etcd.history(from))
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn forget(endpoint: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clustermesh-apiserver"));
    // As in a pod of the renamed cluster.
    command.env("CLUSTERMESH_CLUSTER_NAME", "endor").env("CLUSTERMESH_ETCD_ENDPOINT", endpoint);
    command.arg("forget").args(more).output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// An etcd with the records of a cluster that nobody exports any more, and of one whose name begins with the same.
fn left() -> Lab {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    let endpoint = lab.etcd.endpoint().to_string();
    let (status, text) = said(&forget(&endpoint, &["--cluster-name", "hoth", "--yes"]));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("an exporter leads as hoth") && text.contains("nothing was deleted"), "{text}");
    apiserver.stop();
    for key in OTHERS {
        lab.etcd.ctl(&["put", &format!("{}{key}", binaries::PREFIX), "{}"]);
    }
    lab
}

#[test]
fn what_is_left_is_listed_first_and_goes_in_an_order_that_readers_survive() {
    let lab = left();
    let endpoint = lab.etcd.endpoint().to_string();
    let before = lab.stands();
    let (status, listed) = said(&forget(&endpoint, &["--cluster-name", "hoth"]));
    assert_eq!(status, Some(0), "{listed}");
    assert!(listed.contains("7 records of hoth stand") && listed.contains("--yes deletes them"), "{listed}");
    assert!(ALL.iter().all(|key| listed.contains(&format!("{}{key}\n", binaries::PREFIX))), "{listed}");
    assert_eq!(lab.stands(), before);

    let revision = wait(lab.etcd.revision());
    let (status, done) = said(&forget(&endpoint, &["--cluster-name", "hoth", "--yes"]));
    assert_eq!(status, Some(0), "{done}");
    assert!(done.contains("deleted 7 records of hoth") && done.contains("hoth.yaml"), "{done}");
    assert_eq!(keys(&lab.stands()), OTHERS);
    assert!(!lab.has("alive/hoth") && lab.has("clusters/hoth-2"));

    let past = history(&lab.etcd, revision + 1);
    let gone: Vec<(&str, i64)> =
        past.iter().map(|change| (change.key.as_str(), change.revision - revision)).collect();
    assert!(past.iter().all(|change| change.value.is_none()), "{past:?}");
    for (key, step) in &gone {
        let expected = match *key {
            key if key.starts_with(MARKER) => 1,
            "clustermesh/v1/clusters/hoth" => 3,
            _ => 2,
        };
        assert_eq!(*step, expected, "{key}");
    }

    let (status, none) = said(&forget(&endpoint, &["--cluster-name", "hoth", "--yes"]));
    assert_eq!(status, Some(0), "{none}");
    assert!(none.contains("no record of hoth stands") && none.contains("only of hoth-2"), "{none}");
}

#[test]
fn the_name_is_never_taken_from_the_environment_and_a_dead_etcd_is_named() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let (status, text) = said(&forget(&endpoint, &["--yes"]));
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("--cluster-name"), "{text}");
    let (status, text) = said(&forget(&endpoint, &["--cluster-name", "hoth", "--yes"]));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains(&endpoint) && text.contains("check that etcd runs"), "{text}");
}
