//! kind's clusters as the story's provider, with stand-ins for docker and kubectl.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mesh_e2e::kind::KindClusters;
use mesh_e2e::kube::provider::Provider;
use tempfile::TempDir;

/// Notes what it is asked; a node that is off has the process 0, and one that nobody knows is refused.
const DOCKER: &str = r#"#!/bin/sh
echo "$*" >>"$(dirname "$0")/asked"
case "$*" in
*nowhere*) echo "Error: No such container: nowhere" >&2; exit 1 ;;
"inspect --format {{.State.Pid}} off") echo 0 ;;
inspect*) echo PID ;;
esac
"#;

/// Cluster hoth has two nodes, yavin one.
const KUBECTL: &str = r#"#!/bin/sh
node=${2#kind-}-worker
case $2 in kind-hoth) number=1 ;; kind-yavin) number=2 ;; esac
case "$*" in
*"--output name") echo "node/$node"; [ $number = 2 ] || echo "node/${node}2" ;;
*)
    echo "$node|10.9.0.$number |10.$number.1.0/24 "
    [ $number = 2 ] || echo "${node}2|10.9.0.3 |10.1.2.0/24 "
    ;;
esac
"#;

struct StandIns {
    folder: TempDir,
    clusters: KindClusters,
}

impl StandIns {
    fn new() -> Result<Self> {
        let folder = TempDir::new().context("making a folder")?;
        let docker = DOCKER.replace("PID", &std::process::id().to_string());
        for (name, script) in [("docker", docker.as_str()), ("kubectl", KUBECTL)] {
            let path = folder.path().join(name);
            fs::write(&path, script).context("writing a stand-in")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("making it a program")?;
        }
        let mut path = OsString::from(folder.path());
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let clusters = KindClusters::found(Path::new("/nowhere/kubeconfig"), &path);
        Ok(Self { folder, clusters })
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default()
    }
}

#[test]
fn the_clusters_are_two_contexts_of_one_kubeconfig() -> Result<()> {
    let sites = StandIns::new()?.clusters.sites();
    let told: Vec<_> = sites.iter().map(|site| (site.name.as_str(), site.context.name.as_str())).collect();
    assert_eq!(told, [("hoth", "kind-hoth"), ("yavin", "kind-yavin")]);
    assert!(sites.iter().all(|site| site.context.kubeconfig == Path::new("/nowhere/kubeconfig")));
    Ok(())
}

#[test]
fn a_nodes_root_is_seen_through_its_first_process() -> Result<()> {
    let stand_ins = StandIns::new()?;
    let root = stand_ins.clusters.node_root("hoth", "hoth-worker")?;
    assert_eq!(root, PathBuf::from(format!("/proc/{}/root", std::process::id())));
    assert!(root.join("proc").is_dir(), "{} is no root", root.display());
    let off = stand_ins.clusters.node_root("hoth", "off").map_err(|error| format!("{error:#}"));
    assert_eq!(off, Err("node off is not running: docker says that its process is \"0\"".into()));
    let unknown = stand_ins.clusters.node_root("hoth", "nowhere").map_err(|error| format!("{error:#}"));
    assert!(unknown.is_err_and(|error| error.contains("No such container: nowhere")));
    Ok(())
}

#[test]
fn a_node_comes_back_with_what_it_lost() -> Result<()> {
    let mut stand_ins = StandIns::new()?;
    stand_ins.clusters.power_off("hoth", "hoth-worker")?;
    assert_eq!(stand_ins.asked(), "kill --signal KILL hoth-worker\n");
    stand_ins.clusters.power_on("hoth", "hoth-worker")?;
    let asked = stand_ins.asked();
    let mut lines = asked.lines().skip(1);
    assert_eq!(lines.next(), Some("start hoth-worker"));
    let rest: Vec<_> = lines.collect();
    for node in ["hoth-worker", "hoth-worker2", "yavin-worker"] {
        let remembers = format!("exec {node} sh -ec file=/kind/before-kubelet.sh");
        ensure!(rest.contains(&remembers.as_str()), "{node} does not learn what it has to make: {rest:?}");
    }
    // A command each, on lines of their own; those of the node's own cluster are among them.
    for (node, routes) in [
        ("hoth-worker", ["10.1.2.0/24 via 10.9.0.3", "10.2.1.0/24 via 10.9.0.2"]),
        ("hoth-worker2", ["10.1.1.0/24 via 10.9.0.1", "10.2.1.0/24 via 10.9.0.2"]),
        ("yavin-worker", ["10.1.1.0/24 via 10.9.0.1", "10.1.2.0/24 via 10.9.0.3"]),
    ] {
        let begin = format!("exec {node} sh -ec ip -4 route replace ");
        let begun = rest.iter().position(|line| line.starts_with(&begin));
        let begun = begun.with_context(|| format!("nothing is routed on {node}: {rest:?}"))?;
        let mut told: Vec<_> = rest[begun..].iter().take(2).copied().collect();
        told[0] = told[0].trim_start_matches(&format!("exec {node} sh -ec "));
        let mut wanted = routes.map(|route| format!("ip -4 route replace {route}"));
        told.sort_unstable();
        wanted.sort();
        assert_eq!(told, wanted, "on {node}");
    }
    Ok(())
}
