//! The namespace lab: clusters out of network namespaces, with real processes, in about a second.
//!
//! Owns everything that it makes, and ends all of it when it is dropped, on a panic and on a signal. Nothing in it
//! can reach the host's network.

pub(crate) mod address;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod component;
pub(crate) mod disk;
pub mod enter;
pub(crate) mod events;
pub mod http;
pub(crate) mod inspect;
mod interrupt;
mod joining;
pub mod lab_dir;
pub(crate) mod link;
pub(crate) mod logs;
pub mod manifest;
mod mesh;
pub mod netns;
pub(crate) mod node;
pub mod pod;
pub mod process;
pub(crate) mod workload;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use address::Plan;
use client::Client;
use cluster::Cluster;
use lab_dir::LabDir;
use link::Way;
use netns::Netns;
use pod::Pod;

/// How long a lab's processes may take until they are ready.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// The lab to build.
#[derive(Clone, Debug)]
pub struct LabSpec {
    pub clusters: Vec<String>,
    pub nodes_per_cluster: u8,
    /// Whether the mesh's processes are started; without, it is a network with pods.
    pub mesh: bool,
    /// Whether every cluster has a second apiserver, which stands by.
    pub standby: bool,
    /// Whether peers read the served mesh API over mutual TLS, and not etcd.
    pub mesh_api: bool,
    /// Whether clusters have each other's peer files from the beginning; else somebody has to join them.
    pub joined: bool,
    /// Whether every component has a small disk of its own, for tests that fill or wipe it.
    pub disks: bool,
    /// Whether the lab may be left to itself at the end.
    pub keep: bool,
}

impl LabSpec {
    /// Clusters with two nodes each and the mesh between them.
    pub fn new(clusters: &[&str]) -> Self {
        let clusters = clusters.iter().map(|name| (*name).to_owned()).collect();
        Self {
            clusters,
            nodes_per_cluster: 2,
            mesh: true,
            standby: false,
            mesh_api: false,
            joined: true,
            disks: false,
            keep: false,
        }
    }

    /// hoth and yavin with one node each.
    pub fn small() -> Self {
        Self { nodes_per_cluster: 1, ..Self::new(&["hoth", "yavin"]) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        lab_dir::stand_aside();
        if thread::panicking() {
            self.say_tails();
        }
    }
}

#[derive(Debug)]
pub struct Lab {
    // Before `lab_dir`: processes are ended and waited for one by one, then the lab directory's drop ends whatever is left.
    clusters: Vec<Cluster>,
    clients: Vec<Client>,
    idle: Vec<Pod>,
    _wan: Netns,
    lab_dir: Arc<LabDir>,
}

impl Lab {
    /// Runs a test in a lab, shows the ends of the logs when it fails, and afterwards holds every process to its
    /// duty: still there, and no warning that contains none of `odd`.
    pub fn test(spec: &LabSpec, odd: &[&str], work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let mut lab = Self::start(spec)?;
        let outcome = work(&mut lab).and_then(|()| lab.check()).and_then(|()| lab.check_logs(odd));
        outcome.inspect_err(|_| lab.say_tails())
    }

    /// Builds it and waits until every component is ready.
    pub fn start(spec: &LabSpec) -> Result<Self> {
        Self::start_all(spec).inspect_err(|_| lab_dir::stand_aside())
    }

    fn start_all(spec: &LabSpec) -> Result<Self> {
        let mut lab = Self::build(spec)?;
        if spec.mesh {
            // Nobody could have waited for this: an etcd that isn't there yet is a warning to all who dial it.
            lab.clusters.iter_mut().try_for_each(Cluster::start_etcd)?;
            lab.clusters.iter_mut().try_for_each(Cluster::start_apiservers)?;
            if spec.mesh_api {
                lab.wait_certificates().inspect_err(|_| lab.say_tails())?;
            }
            if spec.joined {
                lab.join_all()?;
            }
            lab.clusters.iter_mut().try_for_each(Cluster::start_agents)?;
            lab.wait_ready().inspect_err(|_| lab.say_tails())?;
        }
        Ok(lab)
    }

    fn build(spec: &LabSpec) -> Result<Self> {
        let lab_dir = LabDir::claim(spec.keep)?;
        let wan = Netns::create_router(&lab_dir, "wan")?;
        let plans = (1..=spec.clusters.len()).map(Plan::new).collect::<Result<Vec<_>>>()?;
        let clusters = thread::scope(|scope| {
            let create = |(name, plan)| {
                let (lab_dir, wan, plans) = (&lab_dir, &wan, &plans);
                scope.spawn(move || Cluster::create(lab_dir, wan, (name, plan), spec, plans))
            };
            let named = spec.clusters.iter().map(String::as_str).zip(plans.iter().copied());
            let threads: Vec<_> = named.map(create).collect();
            let made =
                threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
            made.collect::<Result<Vec<_>>>()
        })?;
        Ok(Self { clusters, clients: Vec::new(), idle: Vec::new(), _wan: wan, lab_dir })
    }

    /// Gives every cluster the peer files of all others.
    fn join_all(&self) -> Result<()> {
        for cluster in &self.clusters {
            for peer in self.clusters.iter().filter(|peer| peer.name() != cluster.name()) {
                cluster.join(peer.name(), &peer.peer_file()?)?;
            }
        }
        Ok(())
    }

    /// Waits until every cluster has certificates, of which the peer files say whom to trust.
    fn wait_certificates(&mut self) -> Result<()> {
        self.clusters.iter_mut().try_for_each(|cluster| cluster.wait_apiservers(START_PATIENCE))
    }

    pub fn wait_ready(&mut self) -> Result<()> {
        self.clusters.iter_mut().try_for_each(|cluster| cluster.wait_ready(START_PATIENCE))
    }

    pub fn lab_dir(&self) -> &Arc<LabDir> {
        &self.lab_dir
    }

    pub fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    pub fn clusters_mut(&mut self) -> &mut [Cluster] {
        &mut self.clusters
    }

    pub fn cluster(&mut self, name: &str) -> Result<&mut Cluster> {
        let found = self.clusters.iter_mut().find(|cluster| cluster.name() == name);
        found.with_context(|| format!("the lab has no cluster {name}"))
    }

    /// Cuts the way between two clusters, in both directions and without a word: packets vanish.
    pub fn partition(&self, one: &str, other: &str) -> Result<()> {
        self.turn(Cluster::turn, Way::Cut, one, other)
    }

    pub fn heal(&self, one: &str, other: &str) -> Result<()> {
        self.turn(Cluster::turn, Way::Healed, one, other)
    }

    /// Cuts the way between the agents of two clusters and the other's etcd; pods still reach each other.
    pub fn partition_control(&self, one: &str, other: &str) -> Result<()> {
        self.turn(Cluster::turn_control, Way::Cut, one, other)
    }

    pub fn heal_control(&self, one: &str, other: &str) -> Result<()> {
        self.turn(Cluster::turn_control, Way::Healed, one, other)
    }

    fn turn(
        &self,
        turn: fn(&Cluster, Way, Plan) -> Result<()>,
        way: Way,
        one: &str,
        other: &str,
    ) -> Result<()> {
        let find = |name: &str| {
            let found = self.clusters.iter().find(|cluster| cluster.name() == name);
            found.with_context(|| format!("the lab has no cluster {name}"))
        };
        let (one, other) = (find(one)?, find(other)?);
        turn(one, way, other.plan())?;
        turn(other, way, one.plan())
    }

    /// Fails when something that should run does not.
    pub fn check(&mut self) -> Result<()> {
        self.clusters.iter_mut().try_for_each(Cluster::check)?;
        self.check_clients()
    }

    /// Leaves it as it is and to itself; only for one that was built with `keep`.
    pub fn abandon(self) -> String {
        let id = self.lab_dir.id().to_owned();
        // Dropping it would end everything; its lock goes with this process.
        std::mem::forget(self);
        id
    }
}
