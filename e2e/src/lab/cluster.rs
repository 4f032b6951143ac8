//! Clusters: a router, a control namespace with etcd and clustermesh-apiserver, nodes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::LabSpec;
use super::address::Plan;
use super::cgroup::Cgroup;
use super::component::Component;
use super::http::{self, Door};
use super::lab_dir::LabDir;
use super::link::{self, Way};
use super::manifest;
use super::netns::Netns;
use super::node::{Identity, Node};
use super::process::{Launch, Program};
use super::workload::Workloads;
use crate::wait;

const ETCD_PORT: u16 = 2379;
/// The apiservers' HTTP ports, in their namespace: of the first, and of the one that starts as standby.
const ADMIN_PORTS: [u16; 2] = [9100, 9102];
/// Where each of them serves the mesh API.
const MESH_PORTS: [u16; 2] = [2443, 2444];
/// etcd reserves two segments of its log, 64 MB each.
const ETCD_DISK_MB: u32 = 160;
const APISERVER_DISK_MB: u32 = 2;

#[derive(Debug)]
pub struct Cluster {
    pub(super) identity: Identity,
    /// Of every cluster of the lab, this one included.
    plans: Vec<Plan>,
    router: Netns,
    control: Netns,
    control_cgroup: Cgroup,
    etcd: Component,
    /// With a standby, either may lead.
    pub(super) apiservers: Vec<Component>,
    pub(super) nodes: Vec<Node>,
    pub(super) workloads: Workloads,
}

impl Cluster {
    pub(super) fn create(
        lab_dir: &Arc<LabDir>,
        wan: &Netns,
        (name, plan): (&str, Plan),
        spec: &LabSpec,
        plans: &[Plan],
    ) -> Result<Self> {
        let others: Vec<_> = plans.iter().copied().filter(|other| *other != plan).collect();
        let router = Netns::create_router(lab_dir, &format!("{name}.router"))?;
        router.ip(&link::router(plan, wan.name(), &others))?;
        wan.ip(&link::wan(plan))?;
        let control = Netns::create(lab_dir, &format!("{name}.control"))?;
        router.ip(&link::plug("control", control.name()))?;
        let mut commands = link::lan_member(plan.control(), plan, &others);
        let numbers = 1..=spec.nodes_per_cluster;
        commands.extend(numbers.clone().flat_map(|node| link::router_to_node(plan, node)));
        control.ip(&commands)?;
        let identity = identity(lab_dir, (name, plan), spec)?;
        let control_cgroup = lab_dir.cgroup()?.child(name).child("control");
        lab_dir.make_cgroup(&control_cgroup)?;
        let etcd = Component::new(etcd(&identity, &control, &control_cgroup), lab_dir);
        let count = if spec.standby { 2 } else { 1 };
        let apiservers =
            (0..count).map(|index| apiserver(&identity, &control, &control_cgroup, (index, count)));
        let apiservers = apiservers.map(|launch| Component::new(launch, lab_dir)).collect();
        let nodes = numbers.map(|number| Node::create(lab_dir, &router, &identity, number, &others));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        let mut cluster = Self {
            identity,
            plans: plans.to_vec(),
            router,
            control,
            control_cgroup,
            etcd,
            apiservers,
            nodes,
            workloads: Workloads::default(),
        };
        if spec.disks {
            cluster.mount_disks()?;
        }
        cluster.write_nodes()?;
        Ok(cluster)
    }

    fn mount_disks(&mut self) -> Result<()> {
        self.etcd.mount_disk(&self.identity.manifests.with_file_name("etcd"), ETCD_DISK_MB)?;
        for apiserver in &mut self.apiservers {
            let path = self.identity.manifests.with_file_name(format!("{}-disk", apiserver.name()));
            apiserver.mount_disk(&path, APISERVER_DISK_MB)?;
        }
        self.nodes.iter_mut().try_for_each(Node::mount_disk)
    }

    fn write_nodes(&self) -> Result<()> {
        for node in &self.nodes {
            let plan = self.identity.plan;
            let object =
                manifest::node(node.name(), plan.node(node.number()), &plan.node_pods(node.number()));
            manifest::write(self.manifests(), &format!("node-{}.yaml", node.name()), &[object])?;
        }
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.identity.cluster
    }

    pub fn plan(&self) -> Plan {
        self.identity.plan
    }

    pub(super) fn plans(&self) -> &[Plan] {
        &self.plans
    }

    pub fn manifests(&self) -> &Path {
        &self.identity.manifests
    }

    /// The folder of peer files that the cluster's agents and apiservers share.
    pub fn peers_folder(&self) -> &Path {
        &self.identity.peers
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&mut self, name: &str) -> Result<&mut Node> {
        let cluster = &self.identity.cluster;
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.with_context(|| format!("cluster {cluster} has no node {name}"))
    }

    pub fn agents(&mut self) -> impl Iterator<Item = &mut Component> {
        self.nodes.iter_mut().map(Node::agent)
    }

    pub fn etcd(&mut self) -> &mut Component {
        &mut self.etcd
    }

    /// The one that leads where there is no standby.
    pub fn apiserver(&mut self) -> &mut Component {
        &mut self.apiservers[0]
    }

    pub(crate) fn apiservers(&mut self) -> &mut [Component] {
        &mut self.apiservers
    }

    /// The index of the apiserver that leads.
    pub fn leader(&self) -> Result<usize> {
        let leads = |index| -> Result<bool> {
            let metrics = self.apiserver_metrics(index)?;
            Ok(metrics.lines().any(|line| line == "clustermesh_export_leading 1"))
        };
        let leading = (0..self.apiservers.len()).map(leads).collect::<Result<Vec<_>>>()?;
        let sum = leading.iter().filter(|leads| **leads).count();
        anyhow::ensure!(sum == 1, "{sum} apiservers of {} lead", self.identity.cluster);
        leading.iter().position(|leads| *leads).context("nobody leads")
    }

    pub fn control(&self) -> &Netns {
        &self.control
    }

    /// The content of a peer file of this cluster.
    pub fn peer_file(&self) -> Result<serde_json::Value> {
        let plan = self.identity.plan;
        let at = |port| SocketAddr::new(plan.control()[0], port);
        let mut file = json!({"id": plan.index(), "ranges": {"pods": plan.pods(), "nodes": plan.nodes()}});
        if self.identity.certificates.is_some() {
            let ports = MESH_PORTS.iter().take(self.apiservers.len());
            file["endpoints"] = ports.map(|port| format!("https://{}", at(*port))).collect();
            file["trust"] = self.authority()?.into();
        } else {
            file["endpoints"] = json!([format!("http://{}", at(ETCD_PORT))]);
        }
        Ok(file)
    }

    /// The certificate of the cluster's authority.
    fn authority(&self) -> Result<String> {
        let certificates = self.identity.certificates.as_ref().context("the lab reads etcds")?;
        let path = certificates.join("ca/tls.crt");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Writes the peer file of `peer` for this cluster's agents and apiservers.
    pub fn join(&self, peer: &str, file: &serde_json::Value) -> Result<()> {
        manifest::write(self.peers_folder(), &format!("{peer}.yaml"), std::slice::from_ref(file)).map(drop)
    }

    /// Removes the peer file of `peer`.
    pub fn leave(&self, peer: &str) -> Result<()> {
        let path = self.peers_folder().join(format!("{peer}.yaml"));
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Starts etcd and waits for its answer.
    pub(super) fn start_etcd(&mut self) -> Result<()> {
        self.etcd.start()?;
        let (etcd, control) = (&mut self.etcd, &self.control);
        let answers = || in_control(control, ETCD_PORT, "/health").map(drop);
        wait::until_or("etcd to answer", Duration::from_secs(15), || etcd.check(), answers)
    }

    pub(super) fn start_apiservers(&mut self) -> Result<()> {
        self.apiservers.iter_mut().try_for_each(Component::start)
    }

    pub(super) fn start_agents(&mut self) -> Result<()> {
        self.agents().try_for_each(Component::start)
    }

    /// Waits until etcd, the apiservers and all agents say that they are ready.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<()> {
        self.wait_apiservers(patience)?;
        self.nodes.iter_mut().try_for_each(|node| node.wait_ready(patience))
    }

    /// Waits until etcd and the apiservers say that they are.
    pub(super) fn wait_apiservers(&mut self, patience: Duration) -> Result<()> {
        let (etcd, control) = (&mut self.etcd, &self.control);
        for (apiserver, port) in self.apiservers.iter_mut().zip(ADMIN_PORTS) {
            let what = format!("{} to be ready", apiserver.name());
            wait::until_or(
                &what,
                patience,
                || etcd.check().and_then(|()| apiserver.check()),
                || in_control(control, port, "/readyz").map(drop),
            )?;
        }
        Ok(())
    }

    /// Succeeds when etcd answers.
    pub fn etcd_ready(&self) -> Result<()> {
        in_control(&self.control, ETCD_PORT, "/health").map(drop)
    }

    /// The metrics of one of the apiservers.
    pub(crate) fn apiserver_metrics(&self, index: usize) -> Result<String> {
        in_control(&self.control, ADMIN_PORTS[index], "/metrics")
    }

    /// A series of one of the apiservers.
    pub fn apiserver_metric(&self, index: usize, series: &str) -> Result<f64> {
        http::series(&self.apiserver_metrics(index)?, series)
    }

    /// Runs `etcdctl` against the cluster's etcd, and gives what it printed.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.control.enter(move || {
            let mut command = std::process::Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").arg(format!("--endpoints=http://127.0.0.1:{ETCD_PORT}"));
            let output = command.args(&args).output().context("starting etcdctl")?;
            let complaint = String::from_utf8_lossy(&output.stderr);
            anyhow::ensure!(output.status.success(), "etcdctl {args:?}: {}", complaint.trim());
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }

    /// Forgets all that etcd knows; it must be stopped.
    pub fn wipe_etcd(&self) -> Result<()> {
        let data = etcd_data(&self.identity);
        fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))
    }

    pub(super) fn turn(&self, way: Way, peer: Plan) -> Result<()> {
        self.router.ip(&link::turn(way, peer))
    }

    pub(super) fn turn_control(&self, way: Way, peer: Plan) -> Result<()> {
        self.router.ip(&link::turn_control(way, peer))
    }

    /// Pulls the plug of one node.
    pub(crate) fn power_off_node(&mut self, name: &str) -> Result<()> {
        let router = &self.router;
        let node = self.nodes.iter_mut().find(|node| node.name() == name);
        node.with_context(|| format!("no node {name}"))?.power_off(router)?;
        self.workloads.forget_processes(name)
    }

    /// Pulls the plug of everything.
    pub fn power_off(&mut self) -> Result<()> {
        self.router.ip(&["link set wan down".into(), "link set control down".into()])?;
        self.control_cgroup.kill()?;
        self.etcd.lost();
        self.apiservers.iter_mut().for_each(Component::lost);
        let names: Vec<_> = self.nodes.iter().map(|node| node.name().to_owned()).collect();
        names.iter().try_for_each(|name| self.power_off_node(name))
    }

    /// Fails when something that should run does not.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.etcd.check()?;
        self.apiservers.iter_mut().try_for_each(Component::check)?;
        self.agents().try_for_each(Component::check)?;
        self.workloads.check()
    }
}

/// An answer from a server in a control namespace.
fn in_control(control: &Netns, port: u16, path: &'static str) -> Result<String> {
    let door = Door::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
    control.enter(move || http::fetch(&door, path))
}

fn identity(lab_dir: &LabDir, (name, plan): (&str, Plan), spec: &LabSpec) -> Result<Identity> {
    let folder = |kind: &str| -> Result<PathBuf> {
        let path = lab_dir.path().join(name).join(kind);
        lab_dir.make_folder(&path)?;
        Ok(path)
    };
    let certificates = spec.mesh_api.then(|| lab_dir.path().join(name).join("certificates"));
    let (manifests, peers) = (folder("manifests")?, folder("peers")?);
    let run_dir = lab_dir.run_dir();
    Ok(Identity { cluster: name.into(), plan, manifests, peers, certificates, run_dir })
}

fn etcd_data(identity: &Identity) -> PathBuf {
    identity.manifests.with_file_name("etcd").join("data")
}

fn etcd(identity: &Identity, netns: &Netns, cgroup: &Cgroup) -> Launch {
    let lan = format!("http://{}", SocketAddr::new(identity.plan.control()[0], ETCD_PORT));
    let args = [
        "--name=lab".to_owned(),
        format!("--data-dir={}", etcd_data(identity).display()),
        format!("--listen-client-urls={lan},http://127.0.0.1:{ETCD_PORT}"),
        format!("--advertise-client-urls={lan}"),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
        "--initial-cluster=lab=http://127.0.0.1:2380".into(),
        // Alone, it has nobody to wait for: it leads after at most twice this.
        "--heartbeat-interval=20".into(),
        "--election-timeout=200".into(),
        "--log-level=warn".into(),
        "--logger=zap".into(),
        "--log-outputs=stderr".into(),
    ];
    Launch {
        name: format!("{}.etcd", identity.cluster),
        program: Program::Installed("etcd"),
        args: args.to_vec(),
        netns: netns.name().into(),
        cgroup: cgroup.child("etcd"),
    }
}

fn apiserver(
    identity: &Identity,
    netns: &Netns,
    cgroup: &Cgroup,
    (index, replicas): (usize, usize),
) -> Launch {
    let role = ["apiserver", "standby"][index];
    let mut args = identity.flags();
    args.push(format!("--etcd-endpoint=http://127.0.0.1:{ETCD_PORT}"));
    args.push(format!("--admin-address=127.0.0.1:{}", ADMIN_PORTS[index]));
    args.push(format!("--run-dir={}", identity.run_dir.display()));
    args.push(format!("--instance={}-{role}", identity.cluster));
    if let Some(certificates) = &identity.certificates {
        let address = SocketAddr::new(identity.plan.control()[0], MESH_PORTS[index]);
        args.push(format!("--mesh-address={address}"));
        let endpoints = MESH_PORTS.iter().take(replicas);
        let endpoints = endpoints.map(|port| SocketAddr::new(identity.plan.control()[0], *port));
        args.extend(endpoints.map(|endpoint| format!("--mesh-endpoint=https://{endpoint}")));
        args.push(format!("--certificates-dir={}", certificates.display()));
        args.push(format!("--peers-dir={}", identity.peers.display()));
        let state = identity.manifests.with_file_name(format!("{role}-state"));
        args.push(format!("--state-dir={}", state.display()));
    }
    Launch {
        name: format!("{}.{role}", identity.cluster),
        program: Program::Ours("clustermesh-apiserver"),
        args,
        netns: netns.name().into(),
        cgroup: cgroup.child(role),
    }
}
