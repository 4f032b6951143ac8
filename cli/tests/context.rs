//! Clusters by contexts of a kubeconfig: the real binary, on both ends of `pods/exec`.

#![allow(clippy::unwrap_used)]

#[path = "support/api_server.rs"]
mod api_server;
#[allow(dead_code, reason = "another binary of tests uses the rest")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use api_server::{Spec, kubeconfig, serve};
use support::Cluster;

const BINARY: &str = env!("CARGO_BIN_EXE_clustermesh");

struct World {
    folder: tempfile::TempDir,
    hoth: Cluster,
    yavin: Cluster,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [hoth, yavin] =
            [("hoth", 1), ("yavin", 2)].map(|(name, id)| Cluster::serve(folder.path(), name, id));
        Self { folder, hoth, yavin }
    }

    fn spec(&self, cluster: &Cluster) -> Spec {
        let program = BINARY.into();
        Spec { instance: cluster.folder.clone(), protocol: "v5.channel.k8s.io", program, may_exec: true }
    }

    fn kubeconfig(&self, hoth: Spec, yavin: Spec) -> PathBuf {
        kubeconfig(self.folder.path(), &[("hoth", &serve(hoth)), ("yavin", &serve(yavin))])
    }
}

fn said(status: i32, kubeconfig: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(BINARY);
    command.env_clear().args(arguments).arg("--kubeconfig").arg(kubeconfig);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    text
}

fn assert_said(text: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(text.contains(part), "{part:?} is not in: {text}"));
}

#[test]
fn clusters_behind_contexts_join_whatever_protocol_their_servers_speak() {
    let world = World::new();
    let old = Spec { protocol: "v4.channel.k8s.io", ..world.spec(&world.yavin) };
    let kubeconfig = world.kubeconfig(world.spec(&world.hoth), old);
    let both = ["--context", "hoth", "--context", "yavin"];
    let told = said(0, &kubeconfig, &[&["join", "--yes"], &both[..]].concat());
    assert_said(&told, &["hoth: wrote the peer file of yavin", "yavin: 1 of 1 nodes know hoth", "joined"]);
    assert_eq!(
        (world.hoth.knows(), world.yavin.knows()),
        (vec!["yavin".to_owned()], vec!["hoth".to_owned()])
    );
    let told = said(0, &kubeconfig, &[&["status", "-o", "wide"], &both[..]].concat());
    assert_said(&told, &["context yavin"]);
    said(0, &kubeconfig, &[&["leave", "hoth", "--yes"], &both[..]].concat());
    assert!(world.hoth.knows().is_empty() && world.yavin.knows().is_empty());
}

/// What is wrong on the way to a pod, and in it.
#[test]
fn what_fails_on_the_way_is_told_with_the_remedy() {
    let world = World::new();
    let good = || world.spec(&world.hoth);
    let forbidden = Spec { may_exec: false, ..good() };
    let without_program = Spec { program: "/nowhere/clustermesh".into(), ..good() };
    let without_apiserver = Spec { instance: world.folder.path().join("nobody"), ..good() };
    let cases: &[(Spec, &[&str], &[&str])] = &[
        (forbidden, &[], &["context hoth can't be asked", "403", "get and create pods/exec"]),
        (without_program, &[], &["no clustermesh in its image", "upgrade the release"]),
        (without_apiserver, &[], &["pod apiserver-good says", "nobody/apiserver.sock", "is it running"]),
        (
            good(),
            &["--namespace", "elsewhere"],
            &["no ready pod", "namespace elsewhere", "--namespace right"],
        ),
    ];
    for (spec, more, parts) in cases {
        let kubeconfig = world.kubeconfig(spec.clone(), world.spec(&world.yavin));
        let told = said(1, &kubeconfig, &[&["peer", "export", "--context", "hoth"], *more].concat());
        assert_said(&told, parts);
    }
    let kubeconfig = world.kubeconfig(good(), good());
    let told = said(1, &kubeconfig, &["status", "--context", "endor"]);
    assert_said(&told, &["no context endor", "hoth, yavin"]);
}
