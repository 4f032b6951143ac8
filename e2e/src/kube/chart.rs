//! The mesh on the lab's clusters, installed by the chart as docs/install.md tells it: each cluster by its name and id, then the
//! peers, whose authorities have made themselves by then.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::cluster::KubeCluster;
use super::image;
use super::kubectl::Context;
use super::{KubeLab, node_cgroup};

/// Where the chart is installed.
pub const NAMESPACE: &str = "clustermesh";
const RELEASE: &str = "clustermesh";
/// Under which every node of a cluster leads peers to its mesh API.
const NODE_PORT: u16 = 32379;
/// The same for clusters that have an invite.
const INVITES_NODE_PORT: u16 = 32380;
pub(super) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Everything that has to be installed, and by what.
#[derive(Debug)]
pub struct Chart {
    helm: PathBuf,
    folder: PathBuf,
    pub(super) sites: Vec<Site>,
}

/// A cluster, as its own values and its peers' tell it.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) context: Context,
    id: u8,
    pods: Vec<String>,
    nodes: Vec<String>,
    /// Of the nodes.
    pub(super) addresses: Vec<IpAddr>,
    first_node: String,
}

impl Chart {
    /// For all clusters of a lab. Builds helm where it is missing.
    pub fn of_lab(lab: &KubeLab) -> Result<Self> {
        let found = output(Command::new(format!("{ROOT}/setup/tool.sh")).arg("helm"))?;
        let folder = lab.lab_dir().path().join("chart");
        let sites: Vec<Site> = lab.clusters().iter().map(Site::of).collect();
        let chart = Self { helm: found.trim().into(), folder, sites };
        for site in &chart.sites {
            let folder = chart.folder_of(site);
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        Ok(chart)
    }

    pub(super) fn folder_of(&self, site: &Site) -> PathBuf {
        self.folder.join(site.name())
    }

    pub(super) fn site(&self, cluster: &str) -> Result<&Site> {
        let found = self.sites.iter().find(|site| site.name() == cluster);
        found.with_context(|| format!("the lab has no cluster {cluster}"))
    }

    /// Installs it in every cluster, and waits until everything is ready: alone where it has never been, so that its
    /// authority makes itself, then with its peers.
    pub fn install(&self) -> Result<()> {
        self.install_without_peers()?;
        self.everywhere(|site| self.upgrade(site.name(), &[]))
    }

    /// Installs it in every cluster where it has never been, as a user does who joins them afterwards.
    pub fn install_without_peers(&self) -> Result<()> {
        self.everywhere(|site| self.install_alone(site))
    }

    /// Upgrades every cluster's release to one that takes invites, and leaves peers that have joined alone.
    pub fn take_invites(&self) -> Result<()> {
        self.everywhere(|site| {
            let mut values = self.values_alone(site)?;
            values["exposure"]["endpoints"] = site.endpoints(NODE_PORT).into();
            let invites =
                json!({"endpoints": site.endpoints(INVITES_NODE_PORT), "nodePort": INVITES_NODE_PORT});
            values["exposure"]["invites"] = invites;
            self.release(site, &values, &[])
        })
    }

    /// What `clustermesh invite` has to be told of a cluster.
    pub fn invitation_of(&self, cluster: &str) -> Result<[String; 4]> {
        let site = self.site(cluster)?;
        let ranges = [("pods", &site.pods), ("nodes", &site.nodes)];
        let [pods, nodes] = ranges.map(|(name, ranges)| format!("--{name}={}", ranges.join(",")));
        Ok([site.name().into(), format!("--id={}", site.id), pods, nodes])
    }

    pub(super) fn everywhere(&self, work: impl Fn(&Site) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let threads: Vec<_> = self.sites.iter().map(|site| scope.spawn(|| work(site))).collect();
            let ended =
                threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
            ended.collect::<Result<()>>()
        })
    }

    fn install_alone(&self, site: &Site) -> Result<()> {
        if site.authority()?.is_some() {
            return Ok(());
        }
        self.make_namespace(site)?;
        self.release(site, &self.values_alone(site)?, &[])
    }

    pub(super) fn make_namespace(&self, site: &Site) -> Result<()> {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
        });
        site.context.apply(&namespace.to_string())
    }

    /// Upgrades a cluster's release to the chart as it is, and waits until everything is ready; `changes` are like
    /// `agent.yieldAfter=1m`.
    pub fn upgrade(&self, cluster: &str, changes: &[&str]) -> Result<()> {
        let site = self.site(cluster)?;
        let mut peers = serde_json::Map::new();
        for peer in self.sites.iter().filter(|peer| peer.name() != site.name()) {
            let trust = peer.authority()?.with_context(|| format!("{} has no authority yet", peer.name()))?;
            peers.insert(peer.name().into(), peer.as_peer(trust));
        }
        let mut values = self.values_alone(site)?;
        values["peers"] = peers.into();
        self.release(site, &values, changes)
    }

    pub(super) fn release(&self, site: &Site, values: &Value, changes: &[&str]) -> Result<()> {
        self.release_of(Path::new("deploy/chart/clustermesh"), site, values, changes)
    }

    /// The same of another chart than this version's.
    pub(super) fn release_of(
        &self,
        chart: &Path,
        site: &Site,
        values: &Value,
        changes: &[&str],
    ) -> Result<()> {
        let path = self.folder_of(site).join("values.json");
        fs::write(&path, values.to_string()).context("writing the values")?;
        let mut args = vec![Path::new("upgrade"), Path::new("--install"), Path::new(RELEASE), chart];
        args.extend(["--wait", "--timeout=3m", "--values"].map(Path::new));
        args.push(&path);
        args.extend(changes.iter().flat_map(|change| ["--set", change]).map(Path::new));
        self.helm(site, args.into_iter())
    }

    /// Removes a cluster's release, if there is one; returns when no node has anything of it.
    pub fn uninstall(&self, cluster: &str) -> Result<()> {
        let args = ["uninstall", RELEASE, "--wait", "--timeout=3m", "--ignore-not-found"];
        self.helm(self.site(cluster)?, args.iter().map(Path::new))
    }

    fn helm<'a>(&self, site: &Site, args: impl Iterator<Item = &'a Path>) -> Result<()> {
        let mut command = Command::new(&self.helm);
        command.current_dir(ROOT).args(args).args(["--namespace", NAMESPACE]);
        command.args(["--kube-context", site.name(), "--kubeconfig"]).arg(&site.context.kubeconfig);
        for (name, folder) in [("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data")] {
            command.env(format!("HELM_{name}_HOME"), self.folder.join("helm").join(folder));
        }
        output(&mut command).map(drop)
    }

    /// Without peers.
    pub(super) fn values_alone(&self, site: &Site) -> Result<Value> {
        Ok(json!({
            "cluster": {"name": site.name(), "id": site.id},
            "images": {
                "registry": "lab.local",
                "tag": "dev",
                "pullPolicy": "Never",
                "etcd": image::ETCD,
                "kubectl": image::KUBECTL,
            },
            "exposure": {"type": "NodePort", "nodePort": NODE_PORT},
            // Beside CoreDNS: stories cut the other nodes.
            "etcd": {"nodeSelector": {"kubernetes.io/hostname": site.first_node}},
            // Nodes see their own cgroup as the root.
            // Nobody waits a minute for an Event here.
            "agent": {"cgroupRoot": node_cgroup()?, "extraArgs": ["--tell-after=5s"]},
        }))
    }
}

impl Site {
    fn of(cluster: &KubeCluster) -> Self {
        let (plan, families) = (cluster.address_plan(), cluster.testbed().spec.families());
        let some = |pair: [String; 2]| pair.into_iter().take(families).collect();
        let numbers = 1..=cluster.testbed().spec.nodes_per_cluster;
        Self {
            context: cluster.context(),
            id: plan.index(),
            pods: some(plan.pods()),
            nodes: some(plan.nodes()),
            first_node: cluster.nodes().into_iter().next().unwrap_or_default(),
            addresses: numbers.map(|number| plan.node(number)[0]).collect(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.context.name
    }

    /// The certificate of its authority, as PEM; none where nobody has made one yet.
    fn authority(&self) -> Result<Option<String>> {
        let secret = ["-n", NAMESPACE, "get", "secret", "clustermesh-ca", "--ignore-not-found"];
        let template = [r#"-o=go-template={{index .data "tls.crt" | base64decode}}"#];
        let said = self.context.kubectl(&[&secret[..], &template].concat())?;
        Ok(said.contains("BEGIN CERTIFICATE").then_some(said))
    }

    fn endpoints(&self, port: u16) -> Vec<String> {
        self.addresses.iter().map(|address| format!("https://{address}:{port}")).collect()
    }

    pub(super) fn as_peer(&self, trust: String) -> Value {
        json!({
            "id": self.id,
            "endpoints": self.endpoints(NODE_PORT),
            "ranges": {"pods": self.pods, "nodes": self.nodes},
            "trust": trust,
        })
    }
}

pub(super) fn output(command: &mut Command) -> Result<String> {
    let what = command.get_program().to_string_lossy().into_owned();
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let output = command.output().with_context(|| format!("starting {what}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what} {}: {}{said}", args.join(" "), complaint.trim());
    Ok(said)
}
