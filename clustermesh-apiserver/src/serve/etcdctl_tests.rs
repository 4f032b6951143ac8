//! `etcdctl` as a person uses it says the same of the mesh API as of the etcd behind it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use mesh_kv::testing::Etcd;

use super::testing::{Certificates, Replica};

const PREFIX: &str = "clustermesh/v1/";

fn fill(etcd: &Etcd) {
    let put = |key: &str, value: &str| drop(etcd.ctl(&["put", &format!("{PREFIX}{key}"), value]));
    put("clusters/hoth", r#"{"id":1,"incarnation":"one"}"#);
    for name in ["a", "c", "b"] {
        put(&format!("services/hoth/ns/{name}"), name);
    }
    put("services/hoth/ns/a", "again");
    etcd.ctl(&["del", &format!("{PREFIX}services/hoth/ns/c")]);
    put("nodes/hoth/n1", "node");
}

/// What a command prints and how it ends, with what differs between any two servers taken out.
fn said(mut command: Command, arguments: &[&str]) -> (bool, String) {
    let output = command.args(arguments).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    let text = String::from_utf8(text).unwrap();
    // The last line of a complaint; the ones before log the endpoint.
    let text = if output.status.success() { text } else { text.lines().last().unwrap_or_default().into() };
    let mut lines = String::new();
    for line in text.lines() {
        let line = match serde_json::from_str::<serde_json::Value>(line) {
            Ok(mut json) => {
                let header = json.get_mut("header").and_then(serde_json::Value::as_object_mut);
                header.map(|header| ["cluster_id", "member_id", "raft_term"].map(|id| header.remove(id)));
                json.to_string()
            }
            Err(_)
                if ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\""]
                    .iter()
                    .any(|id| line.starts_with(id)) =>
            {
                continue;
            }
            Err(_) => line.to_owned(),
        };
        lines.push_str(&line);
        lines.push('\n');
    }
    (output.status.success(), lines)
}

fn plain(etcd: &Etcd) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &etcd.endpoint().to_string()]);
    command
}

/// The lines that a watch prints until there are so many.
fn watched(mut command: Command, arguments: &[&str], lines: usize) -> Vec<String> {
    let mut child = command.arg("watch").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let found = out.lines().take(lines).collect::<Result<_, _>>().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_reads_the_same() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = Etcd::start(dir.path());
    // The replica follows from the beginning, so that it knows the past.
    etcd.ctl(&["put", "clustermesh/first", ""]);
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(2).await;
    fill(&etcd);
    replica.reach(9).await;
    let services = &format!("{PREFIX}services/hoth/");
    let one = &format!("{services}ns/a");
    let reads: &[&[&str]] = &[
        &["get", one],
        &["get", "--prefix", services],
        &["get", "--prefix", PREFIX],
        &["get", "--prefix", PREFIX, "--limit", "2"],
        &["get", "--prefix", services, "--rev", "6"],
        &["get", "--prefix", services, "--rev", "6", "-w", "json"],
        &["get", "--prefix", services, "--keys-only"],
        &["get", "--prefix", services, "--count-only", "-w", "fields"],
        &["get", "--prefix", services, "-w", "fields"],
        &["get", "--prefix", PREFIX, "--sort-by=MODIFY", "--order=DESCEND", "-w", "json"],
        &["get", "--prefix", PREFIX, "--sort-by=CREATE", "--limit", "1"],
        &["get", "--from-key", services],
        &["get", services, &format!("{services}z"), "--print-value-only"],
        &["get", one, "--rev", "100"],
        &["get", one, "--rev", "1"],
        &["get", one, "--consistency", "s"],
        &["get", "nothing"],
        &["watch", one, "--rev", "1"],
    ];
    etcd.ctl(&["compact", "2"]);
    for arguments in reads {
        let (theirs, ours) = (said(plain(&etcd), arguments), said(replica.etcdctl(&certificates), arguments));
        assert_eq!(ours, theirs, "{arguments:?}");
    }
    for (arguments, lines) in [
        (&["--prefix", services, "--rev", "3"][..], 14),
        (&["--prefix", services, "--rev", "3", "--prev-kv"], 18),
    ] {
        let theirs = watched(plain(&etcd), arguments, lines);
        assert_eq!(watched(replica.etcdctl(&certificates), arguments, lines), theirs, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_asks_how_the_server_is_and_writes_nothing() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = Etcd::start(dir.path());
    fill(&etcd);
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(8).await;
    let ask = |arguments: &[&str]| said(replica.etcdctl(&certificates), arguments);
    let (is_well, status) = ask(&["endpoint", "status", "-w", "fields"]);
    assert!(is_well, "{status}");
    for line in [r#""Version" : "3.5.8""#, r#""Revision" : 8"#, r#""RaftIndex" : 8"#] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert!(ask(&["endpoint", "health"]).0);
    assert!(ask(&["alarm", "list"]).0);
    for write in [
        &["put", "a", "b"][..],
        &["del", "clustermesh/v1/clusters/hoth"],
        &["compact", "3"],
        &["lease", "grant", "10"],
        &["member", "list"],
        &["defrag"],
        &["auth", "enable"],
        &["snapshot", "save", "/dev/null/nowhere"],
    ] {
        let (succeeded, complaint) = ask(write);
        assert!(!succeeded, "{write:?}");
        let is_denied = complaint.contains("permission denied");
        assert!(is_denied || write[0] == "defrag" || write[0] == "snapshot", "{write:?}: {complaint}");
    }
    assert_eq!(etcd.revision().await, 8);
}
