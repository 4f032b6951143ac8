//! The fixture with an agent among peers: the peers' etcds in one namespace, the agent in another, and one wire between them.
//!
//! No exporter: the records are written by the bench. The agent is the product's own binary, on a cgroup of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use node_agent::datapath::actual::Capacity;

use crate::lab::cgroup::Cgroup;
use crate::lab::http::{self, Door};
use crate::lab::lab_dir::LabDir;
use crate::lab::manifest;
use crate::lab::netns::Netns;
use crate::lab::process::{Launch, Process, Program};
use crate::wait;

use super::agent::Agent;
use super::data_set::{DataSet, OWN_NODES, OWN_PODS, OWN_SERVICES, own_services};
use super::store::Store;

/// The peers' end of the wire, and the agent's.
const PEERS: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 2);
/// The agent's HTTP port.
const ADMIN_PORT: u16 = 9101;
/// Services in one of the agent's manifests.
const PER_FILE: usize = 1000;
/// For a process to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Dropped in the order of the fields: processes, namespaces, lab directory.
#[derive(Debug)]
pub(crate) struct Fixture {
    etcds: Vec<Process>,
    pub(crate) peers: Netns,
    pub(crate) node: Netns,
    pub(crate) lab_dir: Arc<LabDir>,
    agents: usize,
}

impl Fixture {
    /// Makes it, with an empty etcd for each of so many peers.
    pub(crate) fn new(peers: usize) -> Result<Self> {
        let lab_dir = LabDir::claim(false)?;
        let (peers_netns, node) = (Netns::create(&lab_dir, "peers")?, Netns::create(&lab_dir, "node")?);
        peers_netns.ip(&[
            format!("link add node type veth peer name eth0 netns {}", node.name()),
            format!("addr add {PEERS}/30 dev node"),
            "link set node up".into(),
        ])?;
        node.ip(&["link set eth0 up".into(), format!("addr add {NODE}/30 dev eth0")])?;
        let mut fixture = Self { etcds: Vec::new(), peers: peers_netns, node, lab_dir, agents: 0 };
        for number in 0..peers {
            let etcd = fixture.etcd(number)?.start(&fixture.lab_dir)?;
            fixture.etcds.push(etcd);
        }
        (0..peers).try_for_each(|number| fixture.wait_etcd(number))?;
        Ok(fixture)
    }

    fn etcd(&self, number: usize) -> Result<Launch> {
        let (client, peer) = (client_port(number)?, client_port(number)? + 1);
        let data = self.lab_dir.path().join("data").join(format!("etcd-{number}"));
        let args = [
            "--name=bench".to_owned(),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls=http://{PEERS}:{client}"),
            format!("--advertise-client-urls=http://{PEERS}:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=bench=http://127.0.0.1:{peer}"),
            "--log-level=error".into(),
            "--logger=zap".into(),
            "--log-outputs=stderr".into(),
        ];
        Ok(Launch {
            name: format!("etcd-{number}"),
            program: Program::Installed("etcd"),
            args: args.to_vec(),
            netns: self.peers.name().into(),
            cgroup: self.lab_dir.cgroup()?.child("etcd"),
        })
    }

    fn wait_etcd(&mut self, number: usize) -> Result<()> {
        let door = Door::Tcp(SocketAddr::from((PEERS, client_port(number)?)));
        let (etcd, peers) = (&mut self.etcds[number], &self.peers);
        wait::until_or(
            "etcd to answer",
            PATIENCE,
            || etcd.check(),
            || {
                let door = door.clone();
                let health = peers.enter(move || http::fetch(&door, "/health"))?;
                ensure!(health.contains("true"), "{health}");
                Ok(())
            },
        )
    }

    pub(crate) fn store(&self, number: usize) -> Result<Store> {
        Ok(Store { endpoint: format!("http://{PEERS}:{}", client_port(number)?) })
    }

    /// Fills a peer's etcd.
    pub(crate) fn fill(&self, number: usize, data_set: &DataSet) -> Result<()> {
        self.store(number)?.fill(&self.peers, data_set)
    }

    /// Starts an agent with empty maps and so many Services of its own, and waits until it is ready.
    pub(crate) fn agent(&mut self, services: usize, room: Capacity) -> Result<Agent> {
        self.agents += 1;
        let instance = format!("agent-{}", self.agents);
        let folder = self.lab_dir.path().join(&instance);
        let (manifests, peers) = (folder.join("manifests"), folder.join("peers"));
        self.lab_dir.make_folder(&manifests)?;
        self.lab_dir.make_folder(&peers)?;
        for from in (0..services).step_by(PER_FILE) {
            let text = own_services(from, services.min(from + PER_FILE))?;
            manifest::write_text(&manifests, &format!("from-{from}.yaml"), &text)?;
        }
        let root = self.lab_dir.cgroup()?.child(&instance);
        self.lab_dir.make_cgroup(&root)?;
        let launch = self.launch(&instance, &root, room, [manifests, peers.clone()]);
        let mut process = launch.start(&self.lab_dir)?;
        let (node, door) = (&self.node, Door::Tcp(SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT))));
        wait::until_or(
            "the agent to be ready",
            PATIENCE,
            || process.check(),
            || {
                let door = door.clone();
                node.enter(move || http::fetch(&door, "/readyz")).map(drop)
            },
        )?;
        Agent::new(process, launch.cgroup, peers, (self.lab_dir.clone(), instance))
    }

    fn launch(&self, instance: &str, root: &Cgroup, room: Capacity, folders: [PathBuf; 2]) -> Launch {
        let Capacity { services, slots, backends, counters } = room;
        let [manifests, peers] = folders;
        let args = [
            "--cluster-name=own".to_owned(),
            "--cluster-id=1".into(),
            "--node-name=bench".into(),
            format!("--pod-cidr={OWN_PODS}"),
            format!("--node-cidr={OWN_NODES}"),
            format!("--service-cidr={OWN_SERVICES}"),
            format!("--source=manifests:{}", manifests.display()),
            format!("--peers-dir={}", peers.display()),
            format!("--instance={instance}"),
            format!("--cgroup-root={}", root.path().display()),
            format!("--bpffs={}", self.lab_dir.bpffs().display()),
            format!("--run-dir={}", self.lab_dir.run_dir().display()),
            format!("--state-dir={}", self.lab_dir.state_dir().display()),
            format!("--admin-address=127.0.0.1:{ADMIN_PORT}"),
            format!("--max-services={services}"),
            format!("--max-slots={slots}"),
            format!("--max-backends={backends}"),
            format!("--max-counters={counters}"),
            // One peer has it all here.
            format!("--max-peer-slots={}", slots / 2),
            format!("--max-peer-backends={}", backends - 1),
        ];
        Launch {
            name: instance.into(),
            program: Program::Ours("node-agent"),
            args: args.to_vec(),
            netns: self.node.name().into(),
            cgroup: root.child("agent"),
        }
    }

    /// Bytes that the agent has sent and received over its wire, headers and all.
    pub(crate) fn wire_bytes(&self) -> Result<u64> {
        let table = self.node.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
        let numbers = line.context("no eth0 in /proc/net/dev")?.split_whitespace();
        let numbers: Vec<u64> = numbers.map(str::parse).collect::<Result<_, _>>()?;
        Ok(numbers.first().context("no bytes received")? + numbers.get(8).context("no bytes sent")?)
    }
}

fn client_port(number: usize) -> Result<u16> {
    Ok(u16::try_from(2379 + 2 * number)?)
}
