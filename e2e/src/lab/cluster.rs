//! Clusters: a router, a control namespace with etcd and clustermesh-apiserver, nodes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::address::Plan;
use super::cgroup::Cgroup;
use super::component::Component;
use super::home::Home;
use super::http::{self, Door};
use super::link::{self, Way};
use super::manifest;
use super::netns::Netns;
use super::node::{Identity, Node};
use super::process::{Launch, Program};
use super::workload::Workloads;
use crate::wait;

const ETCD_PORT: u16 = 2379;
/// The apiserver's HTTP port, in its own namespace.
const ADMIN_PORT: u16 = 9100;

#[derive(Debug)]
pub struct Cluster {
    identity: Identity,
    /// Of every cluster of the lab, this one included.
    plans: Vec<Plan>,
    router: Netns,
    control: Netns,
    control_cgroup: Cgroup,
    etcd: Component,
    apiserver: Component,
    pub(super) nodes: Vec<Node>,
    pub(super) workloads: Workloads,
}

impl Cluster {
    pub(super) fn create(
        home: &Arc<Home>,
        wan: &Netns,
        (name, plan): (&str, Plan),
        nodes: u8,
        plans: &[Plan],
    ) -> Result<Self> {
        let others: Vec<_> = plans.iter().copied().filter(|other| *other != plan).collect();
        let router = Netns::create_router(home, &format!("{name}.router"))?;
        router.ip(&link::router(plan, wan.name(), &others))?;
        wan.ip(&link::wan(plan))?;
        let control = Netns::create(home, &format!("{name}.control"))?;
        router.ip(&link::plug("control", control.name()))?;
        let mut commands = link::lan_member(plan.control(), plan, &others);
        commands.extend((1..=nodes).flat_map(|node| link::router_to_node(plan, node)));
        control.ip(&commands)?;
        let identity = identity(home, name, plan)?;
        let control_cgroup = home.cgroup()?.child(name).child("control");
        home.make_cgroup(&control_cgroup)?;
        let etcd = Component::new(etcd(&identity, &control, &control_cgroup), home);
        let apiserver = Component::new(apiserver(&identity, &control, &control_cgroup), home);
        let nodes = (1..=nodes).map(|number| Node::create(home, &router, &identity, number, &others));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        let cluster = Self {
            identity,
            plans: plans.to_vec(),
            router,
            control,
            control_cgroup,
            etcd,
            apiserver,
            nodes,
            workloads: Workloads::default(),
        };
        cluster.write_nodes()?;
        Ok(cluster)
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

    /// The folder of peer files that the cluster's agents share.
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

    pub fn apiserver(&mut self) -> &mut Component {
        &mut self.apiserver
    }

    pub fn control(&self) -> &Netns {
        &self.control
    }

    /// What a peer file says of this cluster.
    pub fn peer_file(&self) -> serde_json::Value {
        let plan = self.identity.plan;
        let endpoint = SocketAddr::new(plan.control()[0], ETCD_PORT);
        json!({
            "id": plan.index(),
            "endpoints": [format!("http://{endpoint}")],
            "ranges": {"pods": plan.pods(), "nodes": plan.nodes()},
        })
    }

    /// Writes the peer file of `peer` for this cluster's agents.
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

    /// Starts what uses etcd; waits for nothing.
    pub(super) fn start(&mut self) -> Result<()> {
        self.apiserver.start()?;
        self.agents().try_for_each(Component::start)
    }

    /// Waits until etcd, the apiserver and all agents say that they are ready.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<()> {
        let what = format!("the apiserver of {} to be ready", self.identity.cluster);
        let (etcd, apiserver, control) = (&mut self.etcd, &mut self.apiserver, &self.control);
        wait::until_or(
            &what,
            patience,
            || etcd.check().and_then(|()| apiserver.check()),
            || in_control(control, ADMIN_PORT, "/readyz").map(drop),
        )?;
        self.nodes.iter_mut().try_for_each(|node| node.wait_ready(patience))
    }

    /// Succeeds when etcd answers.
    pub fn etcd_ready(&self) -> Result<()> {
        in_control(&self.control, ETCD_PORT, "/health").map(drop)
    }

    /// An answer from the apiserver's HTTP port.
    pub fn apiserver_port(&self, path: &'static str) -> Result<String> {
        in_control(&self.control, ADMIN_PORT, path)
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

    /// Pulls the plug of one node.
    pub fn power_off_node(&mut self, name: &str) -> Result<()> {
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
        self.apiserver.lost();
        let names: Vec<_> = self.nodes.iter().map(|node| node.name().to_owned()).collect();
        names.iter().try_for_each(|name| self.power_off_node(name))
    }

    /// Fails when something that should run does not.
    pub fn check(&mut self) -> Result<()> {
        self.etcd.check()?;
        self.apiserver.check()?;
        self.agents().try_for_each(Component::check)?;
        self.workloads.check()
    }
}

/// An answer from a server in a control namespace.
fn in_control(control: &Netns, port: u16, path: &'static str) -> Result<String> {
    let door = Door::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
    control.enter(move || http::fetch(&door, path))
}

fn identity(home: &Home, name: &str, plan: Plan) -> Result<Identity> {
    let folder = |kind: &str| -> Result<PathBuf> {
        let path = home.folder().join(name).join(kind);
        home.make_folder(&path)?;
        Ok(path)
    };
    Ok(Identity { cluster: name.into(), plan, manifests: folder("manifests")?, peers: folder("peers")? })
}

fn etcd_data(identity: &Identity) -> PathBuf {
    identity.manifests.with_file_name("etcd")
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

fn apiserver(identity: &Identity, netns: &Netns, cgroup: &Cgroup) -> Launch {
    let mut args = identity.flags();
    args.push(format!("--etcd-endpoint=http://127.0.0.1:{ETCD_PORT}"));
    args.push(format!("--admin-address=127.0.0.1:{ADMIN_PORT}"));
    Launch {
        name: format!("{}.apiserver", identity.cluster),
        program: Program::Ours("clustermesh-apiserver"),
        args,
        netns: netns.name().into(),
        cgroup: cgroup.child("apiserver"),
    }
}
