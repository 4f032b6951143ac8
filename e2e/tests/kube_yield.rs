//! Agents that are away for longer than `--yield-after` while local pods roll: kube-proxy serves what it can, the rest
//! stays, and everything is the mesh's again once they are back.
//!
//! What is promised, and why no call fails here:
//! - Without its agent a node's maps stand still. Until `--yield-after` is over they go on being used: pods that go in that
//!   time are called in vain (the residual hazard). The pods here therefore roll after it.
//! - From then on a Service that had ready pods of its own cluster is kube-proxy's, which knows them by itself: new pods
//!   answer, those of other clusters don't.
//! - A Service that had none has no other way than the maps: it keeps its remote backends. That those are still there is
//!   up to the other cluster, whose pods don't roll here.
//! - An agent that comes back finds maps from before. It must not give signs of life before they are right again.
//!
//! Run by `make test-kube`, which brings the lab up and takes it down.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_e2e::kube::KubeCluster;
use mesh_e2e::kube::chart::NAMESPACE;
use mesh_e2e::kube::testing::agents;
use mesh_e2e::kube::testing::callers::Callers;
use mesh_e2e::kube::testing::{Fixture, PATIENCE, objects};
use mesh_e2e::wait::{self, unix_us};
use serde_json::json;

/// Where the test's Services and pods are.
const PLAYGROUND: &str = "yield";
/// With pods in both clusters.
const BOTH: &str = "both";
/// With pods in yavin only.
const FAR: &str = "far";

/// The Services, the pods that answer for them, and callers in hoth, to whose answers all of this is about.
fn set(hoth: &KubeCluster, yavin: &KubeCluster) -> Result<Callers> {
    let service = |name| objects::global(objects::service(PLAYGROUND, name, &objects::in_front_of(name)));
    for (cluster, far) in [(hoth, 0), (yavin, 2)] {
        let servers = |name, replicas| objects::servers(PLAYGROUND, name, cluster.name(), replicas);
        let items = [
            objects::namespace(PLAYGROUND),
            service(BOTH),
            service(FAR),
            servers(BOTH, 2),
            servers(FAR, far),
        ];
        objects::apply(&cluster.context(), &items)?;
    }
    for cluster in [hoth, yavin] {
        for name in [BOTH, FAR] {
            objects::rolled_out(&cluster.context(), PLAYGROUND, &format!("deployment/{name}"))?;
        }
    }
    agents::wait_synced(&[hoth, yavin])?;
    let (both, far) = (objects::dialled(PLAYGROUND, BOTH, 80), objects::dialled(PLAYGROUND, FAR, 80));
    Callers::start(hoth, PLAYGROUND, &[(BOTH, &both), (FAR, &far)])
}

/// Lets the agents run on all nodes, or on none. The nodes' maps and programs stay.
fn scale_agents(cluster: &KubeCluster, there: bool) -> Result<()> {
    let nowhere = if there { json!(null) } else { json!("true") };
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": {"lab/nowhere": nowhere}}}}});
    let name = "daemonset/clustermesh-node-agent";
    let context = cluster.context();
    context.kubectl(&["-n", NAMESPACE, "patch", name, "--patch", &patch.to_string()])?;
    if there {
        return objects::rolled_out(&context, NAMESPACE, name);
    }
    let selector = "app.kubernetes.io/component=node-agent";
    let gone = ["-n", NAMESPACE, "wait", "--for=delete", "pod", "-l", selector, "--timeout=60s"];
    context.kubectl(&gone).map(drop)
}

/// The names of the pods that are there for a Deployment and not on their way out.
fn pods(cluster: &KubeCluster, name: &str) -> Result<BTreeSet<String>> {
    let pods = cluster.context().json(&["-n", PLAYGROUND, "get", "pods", "-l", &format!("app={name}")])?;
    let staying = pods["items"].as_array().into_iter().flatten();
    let staying = staying.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let named =
        staying.filter_map(|pod| Some(format!("{}/{}", cluster.name(), pod["metadata"]["name"].as_str()?)));
    Ok(named.collect())
}

/// All pods of the Service in this cluster are replaced, and the old ones are gone.
fn roll(cluster: &KubeCluster) -> Result<BTreeSet<String>> {
    let context = cluster.context();
    let old = pods(cluster, BOTH)?;
    let name = format!("deployment/{BOTH}");
    context.kubectl(&["-n", PLAYGROUND, "rollout", "restart", &name])?;
    objects::rolled_out(&context, PLAYGROUND, &name)?;
    wait::until("the old pods to be gone", PATIENCE, || {
        let all = ["-n", PLAYGROUND, "get", "pods", "-l", "app=both", "-o", "name"];
        let count = context.kubectl(&all)?.lines().count();
        ensure!(count == 2, "{count} pods");
        Ok(())
    })?;
    let new = pods(cluster, BOTH)?;
    ensure!(new.is_disjoint(&old) && new.len() == 2, "{old:?} became {new:?}");
    Ok(new)
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn kube_proxy_serves_while_the_agents_are_away() -> Result<()> {
    let (fixture, chart) = Fixture::enter_mesh()?;
    let [hoth, yavin] = fixture.pair()?;
    chart.upgrade(hoth.name(), &["agent.yieldAfter=5s"])?;
    let mut callers = set(hoth, yavin)?;
    callers.wait_answers(BOTH, &["hoth", "yavin"])?;
    let begin = callers.wait_answers(FAR, &["yavin"])?;

    scale_agents(hoth, false)?;
    callers.wait_answers(BOTH, &["hoth"]).context("once the agents are away")?;
    let new = roll(hoth)?;
    let rolled = callers.wait_answers(BOTH, &["hoth"]).context("after the pods rolled")?;
    let seen = callers.since(rolled.max(unix_us() - 1_000_000), BOTH)?;
    ensure!(seen.answers.is_subset(&new), "answers of {:?}, not of {new:?}", seen.answers);
    callers.wait_answers(FAR, &["yavin"]).context("with remote pods only")?;

    scale_agents(hoth, true)?;
    callers.wait_answers(BOTH, &["hoth", "yavin"]).context("after the agents' return")?;
    callers.wait_answers(FAR, &["yavin"])?;
    for target in [BOTH, FAR] {
        callers
            .since(begin, target)?
            .expect_answers(200)
            .with_context(|| format!("all calls to {target}"))?;
    }
    for cluster in [hoth, yavin] {
        cluster.context().kubectl(&["delete", "namespace", PLAYGROUND, "--wait=false"])?;
    }
    Ok(())
}
