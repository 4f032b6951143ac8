//! The real binary on a folder of manifests and a real etcd.
#![allow(clippy::unwrap_used, clippy::panic)]

mod binaries;

use std::fs;
use std::path::Path;
use std::process::Command;

use binaries::{ALL, Apiserver, DEADLINE, Lab, base, keys, service, slice};
use mesh_kv::testing::{Ca, Etcd, wait_until};

#[test]
fn a_manifest_is_exported_and_a_change_touches_only_what_changed() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1", "10.2.0.2"]));
    lab.write("other.yaml", &(service("other", "10.102.0.2") + &slice("other", "x1", &["10.2.0.9"])));
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    let before = lab.stands();
    // One slice changes and one comes, in one file.
    lab.write("base.yaml", &(base(&["10.2.0.1"]) + &slice("rebel-base", "x2", &["10.2.0.3"])));
    lab.until_has("endpoints/hoth/default/rebel-base/rebel-base-x2");
    let after = lab.stands();
    let changed: Vec<&String> = after.keys().filter(|key| before.get(*key) != after.get(*key)).collect();
    assert_eq!(
        changed,
        [
            "endpoints/hoth/default/rebel-base/rebel-base-x1",
            "endpoints/hoth/default/rebel-base/rebel-base-x2"
        ]
    );
    assert_eq!(after[changed[0]].1, after[changed[1]].1, "both in one transaction");
    let metrics = apiserver.http("/metrics");
    for name in ["clustermesh_export_passes_total", "clustermesh_export_records{kind=\"endpoints\"} 3"] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    assert_eq!(apiserver.stop(), Vec::<String>::new());
    let stopped = lab.stands();
    assert_eq!(stopped, after, "to stop is not to leave");
}

#[test]
fn a_missing_folder_prunes_nothing_and_its_return_prunes_leftovers() {
    let lab = Lab::new();
    fs::remove_dir(&lab.manifests).unwrap();
    lab.etcd.ctl(&["put", "clustermesh/v1/services/hoth/default/leftover", "{}"]);
    let apiserver = Apiserver::start(&lab);
    wait_until("connected", DEADLINE, || apiserver.http("/metrics").contains("clustermesh_etcd_connected 1"));
    assert!(apiserver.http("/readyz").contains("first full list"));
    assert_eq!(lab.etcd.ctl(&["get", "clustermesh/leader/hoth"]), "");
    assert!(lab.has("services/hoth/default/leftover"));
    assert!(!lab.has("synced/hoth/services"));
    fs::create_dir(&lab.manifests).unwrap();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    apiserver.until_ready();
    assert_eq!(keys(&lab.stands()), ALL);
}

/// What the alive record says of the source's age, in milliseconds.
fn source_age(lab: &Lab) -> Option<u64> {
    let alive = lab.etcd.ctl(&["get", "--print-value-only", "clustermesh/v1/alive/hoth"]);
    let age = alive.split("\"source_age_ms\":").nth(1)?;
    age.split(['}', ',']).next()?.parse().ok()
}

#[test]
fn peers_are_told_how_old_the_sources_word_is() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    wait_until("young", DEADLINE, || source_age(&lab).is_some_and(|age| age < 5000));
    let aside = lab.root.join("aside");
    fs::rename(&lab.manifests, &aside).unwrap();
    wait_until("old", DEADLINE, || source_age(&lab).is_some_and(|age| age > 8000));
    fs::rename(&aside, &lab.manifests).unwrap();
    wait_until("young again", DEADLINE, || source_age(&lab).is_some_and(|age| age < 5000));
}

#[test]
fn a_manifest_broken_at_the_start_prunes_nothing() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    apiserver.stop();
    lab.write("base.yaml", "kind: [");
    let apiserver = Apiserver::start(&lab);
    lab.until_has("alive/hoth");
    // Whatever it makes of the broken file, several beats later everything still stands.
    lab.beats(2);
    assert_eq!(keys(&lab.stands()), ALL);
    let remarks = || {
        let answer = apiserver.http("/readyz");
        answer.lines().filter(|line| line.starts_with("remark: ")).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let told = |line: &String| line.starts_with("remark: source: base.yaml: ") && line.contains("(since 20");
    wait_until("what stays is told", DEADLINE, || remarks().iter().any(told));
    lab.write("base.yaml", &base(&["10.2.0.2"]));
    apiserver.until_ready();
    wait_until("nothing is left to tell", DEADLINE, || remarks().is_empty());
    assert_eq!(keys(&lab.stands()), ALL);
}

#[test]
fn a_wiped_etcd_is_written_anew() {
    let mut lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    lab.etcd.wipe();
    lab.until_has("synced/hoth/nodes");
    assert_eq!(keys(&lab.stands()), ALL);
    let warnings = apiserver.stop();
    assert!(warnings.iter().any(|line| line.contains("not publishing; trying again")), "{warnings:?}");
}

#[test]
fn a_killed_exporter_continues_without_rewriting() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    let before = lab.stands();
    apiserver.kill();
    let apiserver = Apiserver::start(&lab);
    apiserver.until_ready();
    assert_eq!(lab.stands(), before);
    lab.write("base.yaml", &(base(&["10.2.0.1"]) + &slice("rebel-base", "x2", &["10.2.0.3"])));
    lab.until_has("endpoints/hoth/default/rebel-base/rebel-base-x2");
}

#[test]
fn an_exporter_that_froze_and_was_replaced_writes_nothing_when_it_runs_again() {
    let lab = Lab::new();
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let mut first = Apiserver::start(&lab);
    first.until_ready();
    let other = lab.root.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("base.yaml"), base(&["10.2.0.2"])).unwrap();
    let (source, endpoint) = (format!("manifests:{}", other.display()), lab.etcd.endpoint().to_string());
    let mut second = Apiserver::start_with(&lab, &["--source", &source, "--etcd-endpoint", &endpoint]);
    second.line("standing by");
    first.signal("STOP");
    wait_until("replaced", DEADLINE, || lab.base_slice().contains("10.2.0.2"));
    lab.write("base.yaml", &base(&["10.2.0.3"]));
    first.signal("CONT");
    first.line("standing by");
    lab.beats(2);
    assert!(lab.base_slice().contains("10.2.0.2"), "{}", lab.base_slice());
    // Once the second goes, the first has its say.
    second.stop();
    wait_until("replaced again", DEADLINE, || lab.base_slice().contains("10.2.0.3"));
}

#[test]
fn etcd_is_reached_over_mutual_tls() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("tls");
    Ca::new("hoth").issue("etcd", &tls);
    let manifests = dir.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let etcd = Etcd::start_tls(dir.path(), &tls);
    let lab = Lab { root: dir.path().to_owned(), dir, manifests, etcd };
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let (endpoint, tls) = (lab.etcd.endpoint().to_string(), tls.display().to_string());
    let apiserver = Apiserver::start_with(&lab, &["--etcd-endpoint", &endpoint, "--etcd-tls-dir", &tls]);
    apiserver.until_ready();
    assert_eq!(keys(&lab.stands()), ALL);
}

#[test]
fn a_bad_command_line_says_what_to_do() {
    let refused = |arguments: &[&str]| {
        let output = Command::new(Path::new(env!("CARGO_BIN_EXE_clustermesh-apiserver")))
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&[]).contains("--etcd-endpoint"));
    let base =
        ["--cluster-name", "hoth", "--cluster-id", "2", "--source", "manifests:/nowhere", "--etcd-endpoint"];
    let with = |endpoint: &'static str| refused(&[&base[..], &[endpoint]].concat());
    assert!(with("https://etcd").contains("--etcd-tls-dir is needed"));
    assert!(with("etcd:2379").contains("write https://HOST:PORT"));
}
