//! The Kubernetes lab: real clusters on one kernel, without a container engine.
//!
//! Owns everything that it makes, as the namespace lab does, on whose network it stands: the same plan of addresses, the
//! same routers that can be cut, the same end. Nothing in it can reach the host's network; the host reaches the API
//! servers through gates on loopback. Knows nothing of the mesh but its images.

mod access;
mod archive;
mod assets;
pub mod audit;
pub mod before;
pub mod chart;
mod cluster;
mod control;
pub mod gate;
mod hierarchy;
pub mod image;
pub mod join;
pub mod kubectl;
mod node;
mod node_files;
mod pki;
pub(crate) mod pod_log;
pub mod provider;
mod spec;
pub mod testing;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::lab::address::Plan;
use crate::lab::lab_dir::{self, LabDir};
use crate::lab::link::Way;
use crate::lab::netns::Netns;
use assets::Assets;
use cluster::Testbed;
use hierarchy::Hierarchies;

pub use cluster::KubeCluster;
pub use control::Part;
pub use spec::{KubeFlags, KubeSpec, ProxyMode};

/// How long a cluster may take to come up.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The manifest of CoreDNS, with words to replace.
const COREDNS: &str = include_str!("../../kube/coredns.yaml");

#[derive(Debug)]
pub struct KubeLab {
    clusters: Vec<KubeCluster>,
    adopted: bool,
    lab_dir: Arc<LabDir>,
}

impl Drop for KubeLab {
    fn drop(&mut self) {
        lab_dir::stand_aside();
        if self.adopted {
            self.clusters.iter_mut().for_each(KubeCluster::abandon);
        }
    }
}

impl KubeLab {
    /// Builds it and waits until every node is Ready and names are resolved. Says on standard error how far it is.
    pub fn start(spec: &KubeSpec) -> Result<Self> {
        let assets = Assets::ensure(&spec.version)?;
        Self::build(spec, assets).inspect_err(|_| lab_dir::stand_aside())
    }

    fn build(spec: &KubeSpec, assets: Assets) -> Result<Self> {
        let begun = Instant::now();
        let say = |what: &str| eprintln!("kube: {:>5.1} s  {what}", begun.elapsed().as_secs_f64());
        let lab_dir = LabDir::claim(spec.keep)?;
        spec::write(lab_dir.path(), spec)?;
        let mut lab = Self::planned(spec, assets, lab_dir.clone())?;
        let testbed = lab.testbed()?;
        testbed.hierarchies.make(lab_dir.path())?;
        image::write_all(&lab_dir.path().join("images"), &testbed.assets)?;
        say("images");
        let wan = Netns::create_router(&lab_dir, "wan")?;
        lab.clusters.iter().try_for_each(|cluster| cluster.wire(&wan))?;
        lab.clusters.iter_mut().try_for_each(KubeCluster::start)?;
        let gates = lab.clusters.iter().map(KubeCluster::gate).collect::<Result<Vec<_>>>()?;
        access::write_host(&lab.kubeconfig(), &gates)?;
        say("processes started");
        lab.in_parallel(|cluster| cluster.wait_api(PATIENCE).and_then(|()| cluster.go_on()))?;
        say("API servers ready");
        lab.in_parallel(|cluster| {
            cluster.wait_nodes(PATIENCE)?;
            start_coredns(cluster)
        })?;
        say("nodes and CoreDNS ready");
        Ok(lab)
    }

    /// Takes over a kept lab for a while.
    pub fn adopt(id: &str) -> Result<Self> {
        let lab_dir = LabDir::adopt(id)?;
        let written = spec::read(lab_dir.path()).with_context(|| format!("{id} is no Kubernetes lab"))?;
        let assets = Assets::ensure(&written.spec.version)?;
        let mut lab = Self::planned(&written.spec, assets, lab_dir)?;
        lab.adopted = true;
        Ok(lab)
    }

    fn planned(spec: &KubeSpec, assets: Assets, lab_dir: Arc<LabDir>) -> Result<Self> {
        let plans = (1..=spec.clusters.len()).map(Plan::new).collect::<Result<Vec<_>>>()?;
        let hierarchies = Hierarchies::of_lab(lab_dir.id())?;
        let named = spec.clusters.iter().zip(plans.clone());
        let testbed = Testbed { lab_dir: lab_dir.clone(), spec: spec.clone(), assets, plans, hierarchies };
        let testbed = Arc::new(testbed);
        let clusters = named.map(|(name, plan)| KubeCluster::plan(&testbed, name, plan));
        Ok(Self { clusters: clusters.collect::<Result<_>>()?, adopted: false, lab_dir })
    }

    fn testbed(&self) -> Result<Arc<Testbed>> {
        Ok(self.clusters.first().context("a lab without clusters")?.testbed().clone())
    }

    fn in_parallel(&mut self, work: impl Fn(&mut KubeCluster) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> =
                self.clusters.iter_mut().map(|cluster| scope.spawn(move || work(cluster))).collect();
            let ended =
                threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
            ended.collect::<Result<()>>()
        })
    }

    pub(crate) fn lab_dir(&self) -> &Arc<LabDir> {
        &self.lab_dir
    }

    /// The host's kubeconfig, with a context per cluster.
    pub fn kubeconfig(&self) -> std::path::PathBuf {
        self.lab_dir.path().join("kubeconfig")
    }

    pub fn clusters(&self) -> &[KubeCluster] {
        &self.clusters
    }

    pub fn cluster(&mut self, name: &str) -> Result<&mut KubeCluster> {
        let found = self.clusters.iter_mut().find(|cluster| cluster.name() == name);
        found.with_context(|| format!("the lab has no cluster {name}"))
    }

    /// Cuts the way between two clusters, in both directions and without a word: packets vanish.
    pub fn partition(&self, one: &str, other: &str) -> Result<()> {
        self.turn(Way::Cut, one, other)
    }

    pub fn heal(&self, one: &str, other: &str) -> Result<()> {
        self.turn(Way::Healed, one, other)
    }

    fn turn(&self, way: Way, one: &str, other: &str) -> Result<()> {
        let find = |name: &str| {
            let found = self.clusters.iter().find(|cluster| cluster.name() == name);
            found.with_context(|| format!("the lab has no cluster {name}"))
        };
        let (one, other) = (find(one)?, find(other)?);
        one.turn(way, other.address_plan())?;
        other.turn(way, one.address_plan())
    }

    /// Fails when something that should run does not.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.clusters.iter_mut().try_for_each(KubeCluster::check)
    }

    /// Leaves it as it is and to itself; only for one that was built with `keep`.
    pub fn abandon(mut self) -> String {
        let id = self.lab_dir.id().to_owned();
        self.clusters.iter_mut().for_each(KubeCluster::abandon);
        // Dropping it would end everything; its lock goes with this process.
        std::mem::forget(self);
        id
    }
}

/// Where a node sees its own folder of cgroup v2, which is the root of what it sees.
pub(crate) fn node_cgroup() -> Result<std::path::PathBuf> {
    crate::lab::cgroup::mount_point().context("no cgroup v2 mount in /proc/mounts")
}

/// The ids of kept Kubernetes labs that this working copy built.
pub fn kept() -> Result<Vec<String>> {
    let labs = lab_dir::labs_on_disk()?.into_iter();
    Ok(labs.filter(|(_, folder)| is_ours(folder)).map(|(id, _)| id).collect())
}

/// Ends a kept Kubernetes lab, or all of this working copy, and what is left of those whose owner was killed.
pub fn clean(id: Option<&str>) -> Result<Vec<String>> {
    lab_dir::clean_those(|folder| match id {
        Some(id) => folder.ends_with(id),
        None => is_ours(folder),
    })
}

fn is_ours(folder: &std::path::Path) -> bool {
    spec::read(folder).is_some_and(|written| written.workspace == spec::workspace())
}

/// On the first node, so that a story may cut the others.
fn start_coredns(cluster: &KubeCluster) -> Result<()> {
    let node = cluster.nodes().into_iter().next().context("a cluster without nodes")?;
    let address = cluster.address_plan().cluster_ip(node_files::DNS)[0].to_string();
    let words = [("IMAGE", image::COREDNS), ("NODE", &node), ("ADDRESS", &address)];
    let manifest =
        words.iter().fold(COREDNS.to_owned(), |text, (word, value)| text.replace(&format!("${word}"), value));
    let context = cluster.context();
    context.apply(&manifest)?;
    let wait = ["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s"];
    context.kubectl(&wait).map(drop)
}
