//! Arrows between crates point at the model and the ABI: what each crate may not reach, however indirectly.
//!
//! Only what is linked into the product counts: dependencies of tests and of build scripts may be what they like.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A crate and what it must not depend on, from the table of crates in docs/architecture.md.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "mesh-model",
        &[
            "tokio",
            "tokio-util",
            "futures",
            "hyper",
            "notify",
            "kube",
            "k8s-openapi",
            "etcd-client",
            "aya",
            "tonic",
        ],
    ),
    (
        "mesh-admin",
        &[
            "tokio",
            "axum",
            "hyper",
            "clap",
            "prometheus-client",
            "aya",
            "mesh-abi",
            "mesh-kv",
            "mesh-source",
            "mesh-runtime",
        ],
    ),
    (
        "mesh-membership",
        &[
            "tokio",
            "hyper",
            "ring",
            "rustls",
            "mesh-trust",
            "clap",
            "kube",
            "k8s-openapi",
            "etcd-client",
            "aya",
            "mesh-abi",
            "mesh-kv",
            "mesh-peers",
            "mesh-source",
            "mesh-runtime",
        ],
    ),
    ("mesh-files", &["tokio", "notify", "mesh-model", "mesh-kv", "mesh-source", "mesh-runtime"]),
    ("mesh-failure", &["tokio", "tracing", "mesh-model", "mesh-runtime"]),
    (
        "mesh-kube",
        &["etcd-client", "tonic", "aya", "mesh-abi", "mesh-kv", "mesh-model", "mesh-runtime", "mesh-source"],
    ),
    (
        "mesh-secrets",
        &[
            "etcd-client",
            "tonic",
            "aya",
            "mesh-abi",
            "mesh-kv",
            "mesh-model",
            "mesh-peers",
            "mesh-runtime",
            "mesh-source",
            "mesh-trust",
        ],
    ),
    (
        "mesh-kv",
        &[
            "kube",
            "k8s-openapi",
            "aya",
            "mesh-abi",
            "mesh-files",
            "mesh-peers",
            "mesh-source",
            "mesh-runtime",
        ],
    ),
    ("mesh-peers", &["kube", "k8s-openapi", "aya", "mesh-abi", "mesh-source", "mesh-runtime"]),
    (
        "mesh-trust",
        &[
            "tokio",
            "tokio-rustls",
            "tonic",
            "etcd-client",
            "kube",
            "aya",
            "mesh-abi",
            "mesh-kv",
            "mesh-peers",
            "mesh-runtime",
        ],
    ),
    (
        "mesh-verdict",
        &[
            "tokio",
            "futures",
            "hyper",
            "socket2",
            "nix",
            "tracing",
            "kube",
            "k8s-openapi",
            "etcd-client",
            "aya",
            "mesh-abi",
            "mesh-kv",
            "mesh-peers",
            "mesh-source",
            "mesh-runtime",
        ],
    ),
    ("mesh-source", &["etcd-client", "tonic", "aya", "mesh-abi", "mesh-kv", "mesh-peers", "mesh-runtime"]),
    (
        "mesh-runtime",
        &[
            "etcd-client",
            "kube",
            "k8s-openapi",
            "aya",
            "mesh-abi",
            "mesh-kv",
            "mesh-model",
            "mesh-peers",
            "mesh-source",
        ],
    ),
    ("clustermesh-apiserver", &["aya", "mesh-abi", "node-agent"]),
    ("node-agent", &["clustermesh-apiserver"]),
    ("clustermesh", &["clustermesh-apiserver", "mesh-e2e"]),
];

/// The platform that the product is for.
const NODE: &str = "x86_64-unknown-linux-gnu";

/// Where the command line has to build too, and what it can't have there: whatever needs a node's kernel, or is of no use
/// without it.
const LAPTOP: &str = "aarch64-apple-darwin";
const NOT_ON_A_LAPTOP: &[&str] = &[
    "aya",
    "aya-obj",
    "mesh-abi",
    "node-agent",
    "inotify",
    "linux-raw-sys",
    "nix",
    "mesh-kv",
    "mesh-peers",
    "mesh-source",
    "etcd-client",
];

/// One TLS stack with one provider.
const FORBIDDEN_EVERYWHERE: &[&str] = &["openssl-sys", "native-tls", "aws-lc-sys", "aws-lc-rs"];

/// Each package's normal dependencies on a platform.
fn dependencies(platform: &str) -> BTreeMap<String, BTreeSet<String>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    // The crates of other platforms need not even be here.
    let target = ["--filter-platform", platform];
    let arguments = ["metadata", "--format-version=1", "--locked", "--manifest-path"];
    let output = Command::new(env!("CARGO")).args(arguments).arg(manifest).args(target).output().unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names: BTreeMap<String, String> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        // Versions of one crate are merged: the question is who can reach which name.
        let reached = graph.entry(names[&text(&node["id"])].clone()).or_default();
        let normal = node["deps"].as_array().unwrap().iter().filter(|dependency| is_normal(dependency));
        reached.extend(normal.map(|dependency| names[&text(&dependency["pkg"])].clone()));
    }
    graph
}

fn is_normal(dependency: &Value) -> bool {
    dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null())
}

/// The way from one crate to another, if there is one.
fn way(graph: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> Option<Vec<String>> {
    let (mut seen, mut ways) = (BTreeSet::new(), vec![vec![from.to_owned()]]);
    while let Some(way) = ways.pop() {
        let last = way.last().expect("a way has a beginning");
        if last == to {
            return Some(way);
        }
        if seen.insert(last.clone()) {
            let next = graph.get(last).into_iter().flatten();
            ways.extend(next.map(|next| way.iter().chain([next]).cloned().collect()));
        }
    }
    None
}

#[test]
fn no_arrow_points_the_wrong_way() {
    let graph = dependencies(NODE);
    assert!(way(&graph, "mesh-kv", "etcd-client").is_some(), "the graph has lost its edges");
    let mut wrong = Vec::new();
    for (from, forbidden) in FORBIDDEN {
        assert!(graph.contains_key(*from), "the workspace has no crate {from}: correct this test's table");
        for to in forbidden.iter().chain(FORBIDDEN_EVERYWHERE) {
            wrong.extend(way(&graph, from, to).map(|way| way.join(" -> ")));
        }
    }
    assert!(wrong.is_empty(), "arrows that must not be:\n{}", wrong.join("\n"));
}

#[test]
fn the_command_line_needs_no_kernel_of_a_node() {
    let cli = "clustermesh";
    assert!(way(&dependencies(NODE), cli, "node-agent").is_some(), "on a node it reads the maps");
    let graph = dependencies(LAPTOP);
    assert!(way(&graph, cli, "mesh-admin").is_some(), "the graph has lost its edges");
    let ways = NOT_ON_A_LAPTOP.iter().filter_map(|to| way(&graph, cli, to));
    let ways: Vec<String> = ways.map(|way| way.join(" -> ")).collect();
    assert!(ways.is_empty(), "what can't be, or is of no use, on a laptop:\n{}", ways.join("\n"));
}

#[test]
fn the_abi_depends_on_nothing() {
    assert_eq!(dependencies(NODE)["mesh-abi"], BTreeSet::new());
}

#[test]
fn a_way_is_found_through_others() {
    let graph = [("a", "b"), ("b", "c"), ("c", "a")];
    let graph = graph.map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()]))).into();
    assert_eq!(way(&graph, "a", "c"), Some(vec!["a".into(), "b".into(), "c".into()]));
    assert_eq!(way(&graph, "a", "d"), None);
}
