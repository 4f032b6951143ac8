//! What fails around the mesh, or is replaced, under load from pods of both clusters: no connection fails for it, and no
//! agent writes a map that need not be written.
//!
//! Run by `make test-kube`, which brings the lab up and takes it down.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_e2e::agent_api::AgentApi;
use mesh_e2e::kube::chart::{Chart, NAMESPACE};
use mesh_e2e::kube::kubectl::Context as Kubectl;
use mesh_e2e::kube::testing::agents::{self, Counts};
use mesh_e2e::kube::testing::callers::{self, Callers};
use mesh_e2e::kube::testing::{Fixture, PATIENCE, objects};
use mesh_e2e::kube::{KubeCluster, Part};
use mesh_e2e::wait::{self, unix_us};
use serde_json::Value;

/// Where the tests' Services and pods are.
const PLAYGROUND: &str = "outages";
const SERVICE: &str = "rebel-base";
/// Of each caller, in a second.
const CALLS_PER_SECOND: usize = 10;
/// How long an API server is down; `OUTAGE_SECONDS` sets another time.
const OUTAGE_SECONDS: usize = 60;

/// What every event is held to.
struct Scene {
    fixture: Fixture,
    chart: Chart,
    callers: [Callers; 2],
}

impl Scene {
    fn set() -> Result<Self> {
        let (fixture, chart) = Fixture::enter_mesh()?;
        let pair = fixture.pair()?;
        let callers = callers::of_a_global_service(pair, PLAYGROUND, SERVICE)?;
        Ok(Self { fixture, chart, callers })
    }

    fn contexts(&self) -> Result<[Kubectl; 2]> {
        Ok(self.fixture.pair()?.map(KubeCluster::context))
    }

    /// Every agent knows everything, and every caller gets answers of both clusters.
    fn settle(&mut self) -> Result<()> {
        agents::wait_synced(&self.fixture.pair()?)?;
        for callers in &mut self.callers {
            callers.wait_answers(SERVICE, &["hoth", "yavin"])?;
        }
        Ok(())
    }

    /// Lets something happen, and fails if a call did, or if any agent wrote a map.
    ///
    /// What the Service's slices say is the same before and after, so that every write would be needless: also an agent
    /// that has adopted its predecessor's maps finds them as they should be.
    fn endure(&mut self, what: &str, event: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.settle().with_context(|| format!("before {what}"))?;
        let (slices, writes) = (self.slices()?, agents::map_writes(&self.fixture.pair()?)?);
        let pods = self.agents_pods()?;
        let begin = unix_us();
        event(self).with_context(|| what.to_owned())?;
        self.settle().with_context(|| format!("after {what}"))?;
        for callers in &mut self.callers {
            callers
                .since(begin, SERVICE)?
                .expect(&["hoth", "yavin"], 100)
                .with_context(|| what.to_owned())?;
        }
        let now = self.slices()?;
        ensure!(now == slices, "{what}: Kubernetes itself changed the slices:\n{slices:?}\n{now:?}");
        self.expect_no_writes(&writes, &pods).with_context(|| what.to_owned())
    }

    /// The pods of all agents: one that is new has counted from 0 on.
    fn agents_pods(&self) -> Result<BTreeSet<String>> {
        let selector = "app.kubernetes.io/component=node-agent";
        let paths = "jsonpath={range .items[*]}{.spec.nodeName}/{.metadata.uid}{\"\\n\"}{end}";
        let mut pods = BTreeSet::new();
        for context in self.contexts()? {
            let said = context.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", selector, "-o", paths])?;
            pods.extend(said.lines().map(str::to_owned));
        }
        Ok(pods)
    }

    fn expect_no_writes(&self, before: &Counts, pods: &BTreeSet<String>) -> Result<()> {
        let now = self.agents_pods()?;
        for (node, writes) in agents::map_writes(&self.fixture.pair()?)? {
            let is_new = now.iter().any(|pod| pod.starts_with(&format!("{node}/")) && !pods.contains(pod));
            let at_first = if is_new { 0 } else { before.get(&node).copied().unwrap_or_default() };
            let needless = writes.saturating_sub(at_first);
            ensure!(
                needless == 0,
                "{needless} map writes on {node}; the last plan: {}",
                self.last_plan(&node)?
            );
        }
        Ok(())
    }

    fn last_plan(&self, node: &str) -> Result<String> {
        let mut agents = Vec::new();
        for cluster in self.fixture.pair()? {
            agents.extend(cluster.agents()?);
        }
        let agent = agents.iter().find(|agent| agent.node == node).context("no such node")?;
        Ok(format!("{:?}", agent.items("/v1/plan")?))
    }

    /// Version and endpoints of the Service's slices in both clusters.
    fn slices(&self) -> Result<Vec<String>> {
        let selector = format!("kubernetes.io/service-name={SERVICE}");
        let get = ["-n", PLAYGROUND, "get", "endpointslices", "-l", &selector];
        let mut slices = Vec::new();
        for context in self.contexts()? {
            let found = context.json(&get)?;
            let items = found["items"].as_array().context("no list of slices")?;
            slices.extend(items.iter().map(|slice| slice["endpoints"].to_string()));
        }
        ensure!(slices.len() == 2, "slices {slices:?}");
        Ok(slices)
    }

    fn clean_up(&self) -> Result<()> {
        for context in self.contexts()? {
            context.kubectl(&["delete", "namespace", PLAYGROUND, "--wait=false"])?;
        }
        Ok(())
    }
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn no_outage_costs_a_connection_or_a_map_write() -> Result<()> {
    let mut scene = Scene::set()?;
    scene.endure("an API server is down", api_server_is_down)?;
    scene.endure("Kubernetes' etcd is compacted", kubernetes_forgets)?;
    scene.endure("the pod of the mesh's etcd is deleted", mesh_etcd_is_lost)?;
    scene.endure("the agents are deleted and installed again", agents_are_reinstalled)?;
    scene.endure("the chart is upgraded", chart_is_upgraded)?;
    scene.clean_up()
}

fn outage_seconds() -> Result<usize> {
    match std::env::var("OUTAGE_SECONDS") {
        Ok(text) if !text.is_empty() => text.parse().context("OUTAGE_SECONDS is no number"),
        _ => Ok(OUTAGE_SECONDS),
    }
}

/// Stops hoth's API server, lets something happen, and starts it again.
///
/// The controller manager, which would sit on the same machine, goes with it: one that sees the nodes' leases stand still
/// calls all nodes lost the moment that it can, before the kubelets have come back. Those would be changes of Kubernetes'
/// own, that the mesh has to follow.
fn without_api_server(scene: &mut Scene, outage: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
    let hoth = scene.fixture.lab_mut().cluster("hoth")?;
    hoth.kill_part(Part::ControllerManager)?;
    hoth.kill_part(Part::ApiServer)?;
    let ended = outage(scene);
    let hoth = scene.fixture.lab_mut().cluster("hoth")?;
    hoth.start_part(Part::ApiServer)?;
    hoth.wait_api(PATIENCE)?;
    hoth.start_part(Part::ControllerManager)?;
    ended?;
    hoth.wait_nodes(PATIENCE)
}

/// Waits until the agents of hoth follow their API server again.
fn wait_source(hoth: &KubeCluster) -> Result<()> {
    agents::wait_all("a source that is followed", &[hoth], |agent| {
        ensure!(agent.metric("clustermesh_source_notified")? == 1, "it is not");
        Ok(())
    })
}

fn api_server_is_down(scene: &mut Scene) -> Result<()> {
    let calls = outage_seconds()? * CALLS_PER_SECOND;
    let begin = unix_us();
    without_api_server(scene, |scene| {
        let hoth = scene.fixture.pair()?[0];
        agents::wait_all("notice of the outage", &[hoth], |agent| {
            ensure!(agent.metric("clustermesh_source_notified")? == 0, "none yet");
            Ok(())
        })?;
        scene.callers.iter_mut().try_for_each(|callers| callers.wait_calls(begin, calls))
    })?;
    wait_source(scene.fixture.pair()?[0])
}

/// The API server forgets where its watchers are: it begins anew with what a compacted etcd still has, whose history has
/// gone on meanwhile. Whoever resumes gets 410.
fn kubernetes_forgets(scene: &mut Scene) -> Result<()> {
    const LISTS: &str = "clustermesh_source_lists_total";
    let before = agents::counts(&[scene.fixture.pair()?[0]], LISTS)?;
    without_api_server(scene, |scene| {
        let hoth = scene.fixture.pair()?[0];
        for number in 0..10 {
            hoth.etcdctl(&["put", "/lab/outages", &number.to_string()])?;
        }
        let status: Value = serde_json::from_str(&hoth.etcdctl(&["endpoint", "status", "-w", "json"])?)?;
        let revision = status[0]["Status"]["header"]["revision"].as_u64().context("etcd said no revision")?;
        hoth.etcdctl(&["compact", "--physical", &revision.to_string()]).map(drop)
    })?;
    let hoth = scene.fixture.pair()?[0];
    wait_source(hoth)?;
    agents::wait_all("a new list", &[hoth], |agent| {
        let (now, at_first) = (agent.metric(LISTS)?, before[&agent.node]);
        // Services, EndpointSlices and Nodes at least.
        ensure!(now >= at_first + 3, "{now} lists, {at_first} before");
        Ok(())
    })
}

/// Its data goes with the pod, so that peers meet another incarnation, and hoth's exporter writes everything anew.
fn mesh_etcd_is_lost(scene: &mut Scene) -> Result<()> {
    let [hoth, yavin] = scene.fixture.pair()?;
    let incarnations = |cluster: &KubeCluster| -> Result<Vec<String>> {
        let agents = cluster.agents()?;
        let of = |agent: &AgentApi| Ok(agent.peers()?.remove("hoth").context("hoth is no peer")?.1);
        agents.iter().map(of).collect()
    };
    let before = incarnations(yavin)?;
    hoth.context().kubectl(&["-n", NAMESPACE, "delete", "pod/clustermesh-etcd-0"])?;
    objects::rolled_out(&hoth.context(), NAMESPACE, "statefulset/clustermesh-etcd")?;
    wait::until("readers of the new etcd", PATIENCE, || {
        let now = incarnations(yavin)?;
        ensure!(now.iter().all(|incarnation| !before.contains(incarnation)), "still {now:?}");
        Ok(())
    })
}

/// Deleting the DaemonSet is not uninstalling.
fn agents_are_reinstalled(scene: &mut Scene) -> Result<()> {
    let pods = scene.agents_pods()?;
    let hoth = scene.fixture.pair()?[0];
    let delete = ["-n", NAMESPACE, "delete", "daemonset/clustermesh-node-agent", "--cascade=foreground"];
    hoth.context().kubectl(&delete)?;
    let begin = unix_us();
    scene.callers.iter_mut().try_for_each(|callers| callers.wait_calls(begin, 10 * CALLS_PER_SECOND))?;
    scene.chart.upgrade("hoth", &[])?;
    expect_new_agents(scene, &pods)
}

fn chart_is_upgraded(scene: &mut Scene) -> Result<()> {
    let pods = scene.agents_pods()?;
    scene.chart.upgrade("hoth", &["agent.yieldAfter=90s"])?;
    expect_new_agents(scene, &pods)
}

/// The agents of hoth are others than before.
///
/// helm's own wait may end before the DaemonSet's controller has looked at the change; then the status is the one before.
fn expect_new_agents(scene: &Scene, before: &BTreeSet<String>) -> Result<()> {
    let hoth = scene.fixture.pair()?[0].context();
    objects::rolled_out(&hoth, NAMESPACE, "daemonset/clustermesh-node-agent")?;
    let now = scene.agents_pods()?;
    let old: Vec<_> = now.iter().filter(|pod| pod.starts_with("hoth") && before.contains(*pod)).collect();
    ensure!(old.is_empty(), "the agents are the old ones: {old:?}");
    Ok(())
}
