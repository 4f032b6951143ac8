//! The events of the story, in order.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::agents;
use super::shell::{PATIENCE, Shell};
use super::watch::{Seen, Watch};
use super::x_wings::Squadron;
use crate::kube::provider::{Provider, Site};
use crate::lab::workload::Change;
use crate::story::SERVICE;
use crate::story::board::Board;
use crate::story::expect::Expectation;
use crate::story::step::{Direction, Move, Step, Under};
use crate::wait;

const MANIFEST: &str = "e2e/story/rebel-base.yaml";
/// "namespace/name" of the service.
const FULL_NAME: &str = "default/rebel-base";
/// As the manifest says.
const REPLICAS: usize = 2;
/// How many steps there are.
pub const STEPS: usize = 9;
const POWER_CUT: &str = "power cut";
/// How long Kubernetes may take to notice that a node is gone: its grace period of 50 s at most (the lab's is 20 s), and
/// what its controllers take.
const NOTICE: Duration = Duration::from_secs(75);
/// How long calls may go on failing after that: one that began before may have that long to fail.
const GRACE: Duration = Duration::from_secs(1);

/// Tells the story in the first two clusters; the mesh is installed there, and they need not know each other. Leaves
/// nothing of its own in them but that.
pub fn tell(provider: &mut dyn Provider, board: &Board) -> Result<Vec<Step>> {
    let sites: [Site; 2] = match <[Site; 2]>::try_from(provider.sites()) {
        Ok(sites) => sites,
        Err(sites) => bail!("the story is about two clusters, not {}", sites.len()),
    };
    let shell = Shell { board };
    let told = set_up(provider, shell, &sites).and_then(|mut teller| teller.tell());
    let removed = sites.iter().try_for_each(|site| clean_up(shell, site));
    let steps = told?;
    removed?;
    Ok(steps)
}

fn clean_up(shell: Shell<'_>, site: &Site) -> Result<()> {
    shell.kubectl(site, "delete deployment/x-wing configmap/galaxy --ignore-not-found --wait=false")?;
    shell.kubectl(site, &format!("delete -f {MANIFEST} --ignore-not-found --wait=false")).map(drop)
}

/// The service everywhere, still each cluster's own, and the x-wings.
fn set_up<'t>(provider: &'t mut dyn Provider, shell: Shell<'t>, sites: &[Site; 2]) -> Result<Teller<'t>> {
    for site in sites {
        shell.kubectl(site, &format!("create configmap galaxy --from-literal=cluster={}", site.name))?;
        shell.kubectl(site, &format!("apply -f {MANIFEST}"))?;
    }
    let mut squadron = Squadron::default();
    for site in sites {
        shell.rolled_out(site, "deployment/rebel-base")?;
        squadron.start(shell, site)?;
    }
    let [one, other] = sites.clone();
    let watches = [Watch::start(&one)?, Watch::start(&other)?];
    Ok(Teller { provider, shell, one, other, watches, _squadron: squadron })
}

struct Teller<'t> {
    provider: &'t mut dyn Provider,
    shell: Shell<'t>,
    one: Site,
    other: Site,
    /// Of the two, in that order.
    watches: [Watch; 2],
    _squadron: Squadron,
}

/// A note on a step for the table's reader: the cause of a power cut's errors.
pub fn remark(step: &Step) -> Option<String> {
    let change = &step.moved.as_ref()?.change;
    let took = Duration::from_micros(change.renamed_unix_us.saturating_sub(step.begun_us));
    step.name.ends_with(POWER_CUT).then(|| {
        format!(
            "{}: calls to its pod failed until Kubernetes itself said that it is gone, after {:.1} s\n",
            step.name,
            took.as_secs_f64()
        )
    })
}

impl Teller<'_> {
    fn tell(&mut self) -> Result<Vec<Step>> {
        let (one, other) = (self.one.clone(), self.other.clone());
        let mut steps = vec![self.join()?, self.become_global()?];
        steps.push(self.leave(
            &one,
            &format!("delete deployment {SERVICE} --wait=false"),
            "deployment deleted",
        )?);
        steps.push(self.come_back(&one, &format!("apply -f {MANIFEST}"), "applied again")?);
        steps.push(self.leave(&other, &format!("scale deployment {SERVICE} --replicas=0"), "scaled to 0")?);
        let back = format!("scale deployment {SERVICE} --replicas={REPLICAS}");
        steps.push(self.come_back(&other, &back, "scaled back")?);
        let node = self.expendable_node(&other)?;
        steps.push(self.power_cut(&other, &node)?);
        steps.push(self.power_back(&other, &node)?);
        steps.push(self.restart_the_mesh()?);
        Ok(steps)
    }

    fn begin(&self, name: String, tale: &str) -> Under {
        Under::begin(self.shell.board, name, tale)
    }

    fn sites(&self) -> [&Site; 2] {
        [&self.one, &self.other]
    }

    fn watch(&self, site: &Site) -> &Watch {
        &self.watches[usize::from(site.name != self.one.name)]
    }

    fn peer<'s>(&'s self, site: &Site) -> &'s Site {
        if site.name == self.one.name { &self.other } else { &self.one }
    }

    fn both(&self) -> Expectation {
        Expectation::AllAnswer(vec![self.one.name.clone(), self.other.name.clone()])
    }

    /// Waits until the agents of all nodes know all pods of both clusters.
    fn wait_backends(&self) -> Result<()> {
        for site in self.sites() {
            let wanted = [(self.one.name.as_str(), REPLICAS), (self.other.name.as_str(), REPLICAS)];
            agents::wait_backends(&agents::of(self.provider, site)?, FULL_NAME, &wanted)?;
        }
        Ok(())
    }

    /// The move: from the first change that the watch saw since the step began; all of it was there at `seen`.
    fn moved(&self, site: &Site, begun_us: u64, seen: Seen, direction: Direction) -> Result<Move> {
        let change = |at_unix_us| Change {
            cluster: site.name.clone(),
            service: FULL_NAME.into(),
            renamed_unix_us: at_unix_us,
        };
        let first = change(self.watch(site).first_change(begun_us)?);
        let agents = agents::of(self.provider, self.peer(site))?;
        let control = agents::control_time(&agents, &first).map_err(|error| format!("{error:#}"));
        // A cluster has left when its last endpoint has; it is back with the first one.
        let change = if direction == Direction::Away { change(seen.at_unix_us) } else { first };
        Ok(Move { change, control, direction })
    }

    /// Each cluster goes on answering its own x-wings: nothing is global yet.
    fn join(&mut self) -> Result<Step> {
        let name = format!("{} and {} join", self.one.name, self.other.name);
        let step = self.begin(name, "One command makes them one mesh.");
        self.shell.join(&self.sites())?;
        Ok(step.hold(None, vec![Expectation::NoErrors]))
    }

    fn become_global(&mut self) -> Result<Step> {
        let step =
            self.begin("annotated: both answer".into(), "The same manifests in both clusters become one.");
        for site in self.sites() {
            self.shell.kubectl(site, &format!("annotate service {SERVICE} clustermesh.io/global=true"))?;
        }
        self.wait_backends()?;
        Ok(step.hold(None, vec![Expectation::NoErrors, self.both()]))
    }

    /// Makes a cluster's pods go.
    fn leave(&mut self, site: &Site, command: &str, what: &str) -> Result<Step> {
        let tale = "Terminating first; the processes go on serving for 5 s.";
        let step = self.begin(format!("{}: {what}", site.name), tale);
        self.shell.kubectl(site, command)?;
        let seen = self.watch(site).wait(0)?;
        let moved = self.moved(site, step.begun_us, seen, Direction::Away)?;
        self.shell.kubectl(site, &format!("wait --for=delete pod -l app={SERVICE} --timeout=60s"))?;
        let rest = Expectation::OnlyAnswers(self.peer(site).name.clone());
        Ok(step.hold(Some(moved), vec![Expectation::NoErrors, Expectation::Followed, rest]))
    }

    /// Makes them come back.
    fn come_back(&mut self, site: &Site, command: &str, what: &str) -> Result<Step> {
        let tale = "New pods, new addresses: both clusters answer again.";
        let step = self.begin(format!("{}: {what}", site.name), tale);
        self.shell.kubectl(site, command)?;
        self.shell.rolled_out(site, &format!("deployment/{SERVICE}"))?;
        let seen = self.watch(site).wait(REPLICAS)?;
        let moved = self.moved(site, step.begun_us, seen, Direction::Back)?;
        self.wait_backends()?;
        Ok(step.hold(Some(moved), vec![Expectation::NoErrors, Expectation::Followed, self.both()]))
    }

    /// A node that runs a pod of the service, and nothing that the cluster or the mesh has only once.
    fn expendable_node(&self, site: &Site) -> Result<String> {
        let pods = site.context.json(&["get", "pods", "--all-namespaces"])?;
        let pods = pods["items"].as_array().context("no list of pods")?;
        let node = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        let precious = |pod: &&Value| {
            let labels = &pod["metadata"]["labels"];
            labels["k8s-app"] == "kube-dns"
                || labels["app.kubernetes.io/component"] == "etcd"
                || labels["component"] == "kube-apiserver"
                || labels["app"] == "x-wing"
        };
        let kept: Vec<_> = pods.iter().filter(precious).map(node).collect();
        let service = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == SERVICE).map(node);
        let found = { service }.find(|node| !kept.contains(node));
        found.with_context(|| format!("{} has no node that may be cut", site.name))
    }

    fn power_cut(&mut self, site: &Site, node: &str) -> Result<Step> {
        let tale =
            "Nobody is told. Calls to its pod fail until Kubernetes itself says that the node is not ready.";
        let step = self.begin(format!("{node}: {POWER_CUT}"), tale);
        self.shell.say(&format!("# the plug of {node} is pulled"));
        self.provider.power_off(&site.name, node)?;
        let seen = self.watch(site).wait(REPLICAS - 1)?;
        let moved = self.moved(site, step.begun_us, seen, Direction::Away)?;
        // Calls that began before the notice may still fail; only then is it settled.
        thread::sleep(GRACE);
        let failures = Expectation::FailuresEndWithNotice { bound: NOTICE, grace: GRACE };
        // One pod is left: whoever answers, it is both clusters still.
        let moved = Move { direction: Direction::Back, ..moved };
        Ok(step.hold(Some(moved), vec![failures, Expectation::Followed, self.both()]))
    }

    fn power_back(&mut self, site: &Site, node: &str) -> Result<Step> {
        let step = self.begin(format!("{node}: power back"), "Its pods start anew, our agent among them.");
        self.shell.say(&format!("# {node} is switched on again"));
        self.provider.power_on(&site.name, node)?;
        self.shell.kubectl(site, &format!("wait --for=condition=Ready node/{node} --timeout=120s"))?;
        let seen = self.watch(site).wait(REPLICAS)?;
        let moved = self.moved(site, step.begun_us, seen, Direction::Back)?;
        wait::until("the agents to know all backends", PATIENCE, || self.wait_backends())?;
        Ok(step.hold(Some(moved), vec![Expectation::NoErrors, Expectation::Followed, self.both()]))
    }

    /// Everything that was installed, everywhere, at once.
    fn restart_the_mesh(&mut self) -> Result<Step> {
        let tale = "Agents, clustermesh-apiserver and its etcd, in both clusters, in the middle of the load.";
        let step = self.begin("everything of ours restarted".into(), tale);
        for site in self.sites() {
            self.shell.kubectl(site, "-n clustermesh rollout restart daemonset,deployment,statefulset")?;
        }
        for site in self.sites() {
            for workload in ["daemonset/clustermesh-node-agent", "deployment/clustermesh-apiserver"] {
                self.shell.rolled_out(site, &format!("-n clustermesh {workload}"))?;
            }
            self.shell.rolled_out(site, "-n clustermesh statefulset/clustermesh-etcd")?;
        }
        self.wait_backends()?;
        Ok(step.hold(None, vec![Expectation::NoErrors, self.both()]))
    }
}
