//! The verbs about clusters, by the real binary over sockets.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use support::Cluster;

fn run(arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clustermesh"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // What reads nothing may have gone already.
    let _unread = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// Both outputs, after the status was compared.
fn said(status: i32, arguments: &[&str]) -> String {
    said_of(status, arguments, "")
}

fn said_of(status: i32, arguments: &[&str], stdin: &str) -> String {
    let output = run(arguments, stdin);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    text
}

fn assert_said(text: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(text.contains(part), "{part:?} is not in: {text}"));
}

struct Mesh {
    _folder: tempfile::TempDir,
    hoth: Cluster,
    yavin: Cluster,
}

impl Mesh {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (hoth, yavin) =
            (Cluster::serve(folder.path(), "hoth", 1), Cluster::serve(folder.path(), "yavin", 2));
        Self { _folder: folder, hoth, yavin }
    }
}

#[test]
fn two_clusters_join_are_well_and_part() {
    let mesh = Mesh::new();
    let (hoth, yavin) = (mesh.hoth.socket(), mesh.yavin.socket());
    let told = said(1, &["join", &hoth, &yavin]);
    assert_said(
        &told,
        &["CLUSTER", "10.1.0.0/16", "hoth: add the peer yavin", "nobody can be asked", "--yes"],
    );
    assert!(mesh.hoth.knows().is_empty());
    let told = said(0, &["join", &hoth, &yavin, "--yes"]);
    assert_said(&told, &["yavin: wrote the peer file of hoth", "hoth: 1 of 1 nodes know yavin", "joined"]);
    assert_eq!((mesh.hoth.knows(), mesh.yavin.knows()), (vec!["yavin".to_owned()], vec!["hoth".to_owned()]));
    let told = said(0, &["join", &hoth, &yavin]);
    assert_said(&told, &["hoth: knows the peer yavin already"]);

    let told = said(0, &["status", &hoth, &yavin, "--wait"]);
    assert_said(&told, &["CONNECTED", "hoth     yavin  1      1          1       now    1         2"]);
    let told = said(0, &["cert", "show", &hoth, &yavin]);
    assert_said(&told, &["hoth     agent   7 d      in 2 d", "clustermesh://yavin/agent"]);
    let json = String::from_utf8(run(&["status", &hoth, "-o", "json"], "").stdout).unwrap();
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status["items"][0]["peers"][0]["synced"], 1);

    let told = said(0, &["leave", "yavin", &hoth, &yavin, "--yes"]);
    assert_said(
        &told,
        &["hoth: remove the peer yavin", "hoth: 1 of 1 nodes have forgotten yavin", "yavin has left"],
    );
    assert!(mesh.hoth.knows().is_empty() && mesh.yavin.knows().is_empty());
}

#[test]
fn peer_files_go_from_one_cluster_to_the_other() {
    let mesh = Mesh::new();
    let (hoth, yavin) = (mesh.hoth.socket(), mesh.yavin.socket());
    let exported = String::from_utf8(run(&["peer", "export", &hoth], "").stdout).unwrap();
    assert_said(&exported, &["# hoth.yaml", "id: 1", "https://192.168.1.1:2379", "BEGIN CERTIFICATE"]);
    let told = said_of(0, &["peer", "import", "-", "--name", "hoth", &yavin], &exported);
    assert_said(&told, &["hoth is a peer now"]);
    assert_eq!(mesh.yavin.knows(), ["hoth"]);
    assert_said(&said(0, &["peer", "remove", "hoth", &yavin]), &["no peer any more"]);
    let files = said(0, &["join", &hoth, &yavin, "--dry-run", "-o", "yaml"]);
    assert_said(&files, &["# hoth.yaml for yavin", "# yavin.yaml for hoth"]);
    assert!(mesh.yavin.knows().is_empty());
}

#[test]
fn an_invite_is_a_token_on_its_first_line() {
    let mesh = Mesh::new();
    let (hoth, yavin) = (mesh.hoth.socket(), mesh.yavin.socket());
    let told = said(0, &["invite", "hoth", "--id=1", "--pods=10.1.0.0/16", &yavin]);
    assert_said(&told, &["token-for-hoth\n", "clustermesh join --invite", "AB:CD"]);
    // Two are not invited at once.
    assert_said(&said(1, &["invite", "list", &hoth, &yavin]), &["one cluster"]);
}

#[test]
fn a_cluster_that_does_not_answer_is_named_with_the_remedy() {
    let mesh = Mesh::new();
    let hoth = mesh.hoth.socket();
    let told = said(1, &["join", &hoth, "--socket=/nowhere/apiserver.sock", "--yes"]);
    assert_said(&told, &["/nowhere/apiserver.sock", "can't be asked", "is it running"]);
    let told = said(1, &["status", &hoth, "--socket=/nowhere/apiserver.sock"]);
    assert_said(&told, &["WRONG", "/nowhere/apiserver.sock", "one thing is wrong"]);
    let told = said(1, &["join", &hoth, "--yes"]);
    assert_said(&told, &["two or more clusters", "--invite"]);
    let told = said(1, &["join", "--context=hoth", "--context=yavin", "--kubeconfig=/nowhere/config"]);
    assert_said(&told, &["/nowhere/config"]);
}

#[test]
fn a_request_is_passed_on_and_answered_as_one_document() {
    let mesh = Mesh::new();
    let folder = mesh.hoth.folder.parent().unwrap().to_str().unwrap();
    let here = ["--run-dir", folder, "--instance", "hoth"];
    let asked = |arguments: &[&str], stdin: &str| -> serde_json::Value {
        let output = run(&[&here[..], arguments].concat(), stdin);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let answer = asked(&["api", "GET", "/v1/cluster"], "");
    assert_eq!((&answer["status"], &answer["body"]["name"]), (&200.into(), &"hoth".into()));
    let answer = asked(&["api", "--agent", "GET", "/v1/node"], "");
    assert_eq!(answer["body"]["items"][0]["node"], "n1");
    // What stands behind the body on standard input is not waited for, and not read.
    let answer = asked(&["api", "PUT", "/v1/peers/endor", "--body-bytes", "8"], "{\"id\":3}and more");
    assert_eq!(answer["body"]["changed"], true);
    assert_eq!(mesh.hoth.peers.lock().unwrap()["endor"]["id"], 3);
    let answer = asked(&["api", "GET", "/v1/nothing"], "");
    assert_eq!(
        (&answer["status"], &answer["body"]["remedy"]),
        (&404.into(), &"ask for something else".into())
    );
}
