//! Nodes: a namespace on the cluster's LAN, a cgroup that is the node's whole world, and a node-agent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::address::{Plan, with_length};
use super::cgroup::Cgroup;
use super::component::Component;
use super::http::{self, Door};
use super::lab_dir::LabDir;
use super::link;
use super::netns::Netns;
use super::process::{Launch, Program};
use crate::agent_api::AgentApi;
use crate::wait;

/// The agent's HTTP port, in its own namespace.
const ADMIN_PORT: u16 = 9101;
const DISK_MB: u32 = 4;

/// Shared by the agents of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) plan: Plan,
    pub(crate) manifests: PathBuf,
    pub(crate) peers: PathBuf,
    /// Where certificates are, as the apiserver makes them, where peers read the mesh API.
    pub(crate) certificates: Option<PathBuf>,
    /// Where the processes of the lab have their sockets.
    pub(crate) run_dir: PathBuf,
}

impl Identity {
    /// The flags that both binaries take.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--cluster-name={}", self.cluster),
            format!("--cluster-id={}", self.plan.index()),
            format!("--source=manifests:{}", self.manifests.display()),
        ];
        flags.extend(self.plan.pods().iter().map(|range| format!("--pod-cidr={range}")));
        flags.extend(self.plan.services().iter().map(|range| format!("--service-cidr={range}")));
        flags.extend(self.plan.nodes().iter().map(|range| format!("--node-cidr={range}")));
        flags
    }
}

#[derive(Debug)]
pub struct Node {
    name: String,
    cluster: String,
    plan: Plan,
    number: u8,
    netns: Netns,
    cgroup: Cgroup,
    lab_dir: Arc<LabDir>,
    agent: Component,
    next_slot: u8,
}

impl Node {
    /// Makes a node and plugs it into its cluster's router.
    pub(super) fn create(
        lab_dir: &Arc<LabDir>,
        router: &Netns,
        identity: &Identity,
        number: u8,
        others: &[Plan],
    ) -> Result<Self> {
        let (cluster, plan) = (identity.cluster.clone(), identity.plan);
        let name = format!("n{number}");
        let netns = Netns::create_router(lab_dir, &format!("{cluster}.{name}"))?;
        router.ip(&link::plug(&name, netns.name()))?;
        let mut commands = link::lan_member(plan.node(number), plan, others);
        commands.extend(link::pod_bridge(plan, number));
        netns.ip(&commands)?;
        router.ip(&link::router_to_node(plan, number))?;
        let cgroup = lab_dir.cgroup()?.child(&cluster).child(&name);
        lab_dir.make_cgroup(&cgroup)?;
        let agent = Component::new(agent(lab_dir, identity, &name, &netns, &cgroup), lab_dir);
        Ok(Self { name, cluster, plan, number, netns, cgroup, lab_dir: lab_dir.clone(), agent, next_slot: 2 })
    }

    /// Puts what the agent keeps in files on a disk of its own.
    pub(super) fn mount_disk(&mut self) -> Result<()> {
        let folder = self.lab_dir.run_dir().join(self.instance());
        self.agent.mount_disk(&folder, DISK_MB)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(super) fn plan(&self) -> Plan {
        self.plan
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }

    pub(super) fn lab_dir(&self) -> &Arc<LabDir> {
        &self.lab_dir
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub fn agent(&mut self) -> &mut Component {
        &mut self.agent
    }

    pub(super) fn launch(&self) -> &Launch {
        self.agent.launch()
    }

    /// The instance name of the node's agent: all agents of a lab share one bpffs and one run folder.
    pub(crate) fn instance(&self) -> String {
        instance(&self.cluster, &self.name)
    }

    /// The agent's admin socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.lab_dir.run_dir().join(self.instance()).join("agent.sock")
    }

    pub(crate) fn api(&self) -> AgentApi {
        AgentApi { node: self.describe(), socket: self.socket() }
    }

    /// An answer of the agent's admin API, without the `/v1/`.
    pub fn admin(&self, path: &str) -> Result<Value> {
        let text = http::fetch(&Door::Unix(self.socket()), &format!("/v1/{path}"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("the agent's answer to {path} is not JSON: {text}"))
    }

    /// What the agent says of a peer, if it knows it.
    pub fn peer(&self, name: &str) -> Result<Value> {
        let peers = self.admin("peers")?;
        let items = peers["items"].as_array().context("peers are no list")?;
        let found = items.iter().find(|peer| peer["name"] == name).cloned();
        found.with_context(|| format!("{name} is not among the peers"))
    }

    /// Waits until the agent says that it is ready.
    pub(crate) fn wait_ready(&mut self, patience: Duration) -> Result<()> {
        let what = format!("the agent of {} to be ready", self.describe());
        let (agent, netns) = (&mut self.agent, &self.netns);
        wait::until_or(&what, patience, || agent.check(), || in_node(netns, "/readyz").map(drop))
    }

    /// An answer from the agent's HTTP port (`/metrics`, `/readyz`, `/livez`).
    pub(crate) fn admin_port(&self, path: &'static str) -> Result<String> {
        in_node(&self.netns, path)
    }

    /// A series of the agent.
    pub fn metric(&self, series: &str) -> Result<f64> {
        http::series(&self.admin_port("/metrics")?, series)
    }

    pub(super) fn claim_slot(&mut self) -> Result<u8> {
        ensure!(self.next_slot < 250, "node {} has no pod address left", self.name);
        self.next_slot += 1;
        Ok(self.next_slot - 1)
    }

    /// Pulls the plug: every process on the node dies, and nobody answers at its address.
    pub(super) fn power_off(&mut self, router: &Netns) -> Result<()> {
        router.ip(&[format!("link set {} down", self.name)])?;
        self.cgroup.kill()?;
        self.agent.lost();
        Ok(())
    }

    /// How the node is shown to people.
    pub(crate) fn describe(&self) -> String {
        format!("{}/{} at {}", self.cluster, self.name, with_length(self.plan.node(self.number)[0], 24, 64))
    }
}

fn in_node(netns: &Netns, path: &'static str) -> Result<String> {
    let door = Door::Tcp(SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT)));
    netns.enter(move || http::fetch(&door, path))
}

fn instance(cluster: &str, node: &str) -> String {
    format!("{cluster}-{node}")
}

fn agent(lab_dir: &Arc<LabDir>, identity: &Identity, node: &str, netns: &Netns, cgroup: &Cgroup) -> Launch {
    let instance = instance(&identity.cluster, node);
    let mut args = vec![
        format!("--node-name={node}"),
        format!("--peers-dir={}", identity.peers.display()),
        format!("--instance={instance}"),
        format!("--admin-address=127.0.0.1:{ADMIN_PORT}"),
    ];
    let mut folder = |flag: &str, path: &Path| args.push(format!("--{flag}={}", path.display()));
    folder("cgroup-root", cgroup.path());
    folder("bpffs", &lab_dir.bpffs());
    folder("run-dir", &lab_dir.run_dir());
    folder("state-dir", &lab_dir.state_dir());
    if let Some(certificates) = &identity.certificates {
        folder("tls-dir", &certificates.join("agent"));
    }
    args.extend(identity.flags());
    Launch {
        name: format!("{}.{node}.agent", identity.cluster),
        program: Program::Ours("node-agent"),
        args,
        netns: netns.name().into(),
        cgroup: cgroup.child("agent"),
    }
}
