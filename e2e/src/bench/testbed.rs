//! The testbed on which dials are measured: a namespace with servers, and one namespace for each kind of client,
//! joined by veth pairs. No default route, no way to the host.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::cgroup::Cgroup;
use crate::lab::lab_dir::LabDir;
use crate::lab::netns::Netns;
use crate::lab::process::{Launch, Process, Program};
use crate::wait;

use super::dial::{Outcome, Plan};
use super::serve::{ACCEPT_PORT, ECHO_PORT};

/// Every address of it is one of the server's own.
const BACKENDS: &str = "10.50.0.0/16";
/// The ClusterIPs. Only a namespace whose packets are translated after routing has a route to them.
const FRONTENDS: &str = "10.96.0.0/12";

/// The `number`th backend's address.
pub(crate) fn backend(number: usize) -> Ipv4Addr {
    let offset = u32::try_from(number % 65_000).expect("below 65,000");
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 50, 0, 1)) + offset)
}

/// The `number`th ClusterIP.
pub(crate) fn frontend(number: usize) -> Ipv4Addr {
    let offset = u32::try_from(number % 1_000_000).expect("below a million");
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + offset)
}

/// Dropped in the order of the fields: processes, namespaces, lab directory.
#[derive(Debug)]
pub(crate) struct Testbed {
    _server: Process,
    clients: Vec<Netns>,
    _servers: Netns,
    pub(crate) lab_dir: Arc<LabDir>,
}

impl Testbed {
    /// Makes it, with a client namespace for each label, and waits until the servers listen.
    pub(crate) fn new(labels: &[&str]) -> Result<Self> {
        let lab_dir = LabDir::claim(false)?;
        let servers = Netns::create(&lab_dir, "servers")?;
        servers.ip(&[format!("route add local {BACKENDS} dev lo")])?;
        let mut clients = Vec::new();
        for (number, label) in labels.iter().enumerate() {
            clients.push(client(&lab_dir, &servers, number, label)?);
        }
        let launch = Launch {
            name: "servers".into(),
            program: Program::Ours("bench"),
            args: vec!["serve".into()],
            netns: servers.name().into(),
            cgroup: lab_dir.cgroup()?.child("servers"),
        };
        let mut server = launch.start(&lab_dir)?;
        for port in [ACCEPT_PORT, ECHO_PORT] {
            wait_listening(&servers, &mut server, port)?;
        }
        Ok(Self { _server: server, clients, _servers: servers, lab_dir })
    }

    /// The client namespace made for the `number`th label.
    pub(crate) fn client(&self, number: usize) -> Result<&Netns> {
        self.clients.get(number).context("no such client namespace")
    }

    /// A cgroup of the testbed.
    pub(crate) fn cgroup(&self, name: &str) -> Result<Cgroup> {
        let cgroup = self.lab_dir.cgroup()?.child(name);
        self.lab_dir.make_cgroup(&cgroup)?;
        Ok(cgroup)
    }

    /// Has a process of its own carry a plan out.
    pub(crate) fn dial(&self, plan: &Plan) -> Result<Outcome> {
        let path = self.lab_dir.path().join("plan.json");
        std::fs::write(&path, serde_json::to_vec(plan)?)
            .with_context(|| format!("writing {}", path.display()))?;
        let launch = Launch {
            name: "dialler".into(),
            program: Program::Ours("bench"),
            args: vec!["dial".into(), path.display().to_string()],
            netns: self.client(0)?.name().into(),
            cgroup: self.cgroup("dialler")?,
        };
        let (mut process, stdout) = launch.start_piped(&self.lab_dir)?;
        let outcome = serde_json::from_reader(stdout);
        match outcome {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                process.check()?;
                let tail = crate::lab::process::tail(&self.lab_dir.log("dialler"), 5);
                Err(error).with_context(|| format!("the dialler gave no result:\n{tail}"))
            }
        }
    }
}

fn client(lab_dir: &Arc<LabDir>, servers: &Netns, number: usize, label: &str) -> Result<Netns> {
    let netns = Netns::create(lab_dir, label)?;
    let link = format!("c{number}");
    servers.ip(&[
        format!("link add {link} type veth peer name eth0 netns {}", netns.name()),
        format!("addr add 10.201.{number}.1/30 dev {link}"),
        format!("link set {link} up"),
    ])?;
    netns.ip(&[
        "link set eth0 up".into(),
        format!("addr add 10.201.{number}.2/30 dev eth0"),
        format!("route add {BACKENDS} via 10.201.{number}.1"),
    ])?;
    Ok(netns)
}

/// Gives a namespace a route to the ClusterIPs, for translation that comes after routing.
pub(crate) fn route_frontends(netns: &Netns, number: usize) -> Result<()> {
    netns.ip(&[format!("route add {FRONTENDS} via 10.201.{number}.1")])
}

fn wait_listening(netns: &Netns, server: &mut Process, port: u16) -> Result<()> {
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    wait::until("the servers to listen", Duration::from_secs(10), || {
        server.check()?;
        netns.enter(move || {
            std::net::TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
            Ok(())
        })
    })
}
