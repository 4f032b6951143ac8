//! The Kubernetes lab itself, without the mesh: what its tests and stories stand on.
//!
//! Run by `make test-kube`, which brings the lab up and takes it down.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_e2e::kube::KubeCluster;
use mesh_e2e::kube::image::LAB;
use mesh_e2e::kube::kubectl::Context as Kubectl;
use mesh_e2e::kube::testing::{Fixture, objects};
use mesh_e2e::load::record::{Outcome, Record};
use mesh_e2e::wait;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);

/// Servers that answer with the cluster's name and their own, and their Service.
fn serve(cluster: &KubeCluster, name: &str, replicas: usize) -> Result<()> {
    let servers = objects::servers("default", name, cluster.name(), replicas);
    let service = objects::service("default", name, &objects::in_front_of(name));
    objects::apply(&cluster.context(), &[servers, service])?;
    objects::rolled_out(&cluster.context(), "default", &format!("deployment/{name}"))
}

/// Addresses and nodes of a Service's ready endpoints.
fn endpoints(context: &Kubectl, service: &str) -> Result<Vec<(String, String)>> {
    let selector = format!("kubernetes.io/service-name={service}");
    let slices = context.json(&["get", "endpointslices", "-l", &selector])?;
    let items = slices["items"].as_array().context("no list of slices")?;
    let endpoints = items.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(ready.map(|endpoint| (text(&endpoint["addresses"][0]), text(&endpoint["nodeName"]))).collect())
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn all_nodes_are_ready_and_nobody_has_a_default_route() -> Result<()> {
    let fixture = Fixture::enter()?;
    for cluster in fixture.lab().clusters() {
        cluster.wait_nodes(PATIENCE)?;
        for node in cluster.nodes() {
            for family in ["-4", "-6"] {
                let routes = cluster.run_on_node(&node, &["ip", family, "route"])?;
                ensure!(!routes.contains("default"), "{node} has a default route:\n{routes}");
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn pods_call_services_by_name() -> Result<()> {
    let fixture = Fixture::enter()?;
    for cluster in fixture.lab().clusters() {
        let context = cluster.context();
        serve(cluster, "echo", 2)?;
        let client = [
            "run",
            "client",
            "--image",
            LAB,
            "--restart=Never",
            "--",
            "load",
            "--target=echo.default.svc.cluster.local:80",
            "--rate=50",
            "--duration=5s",
            "--timeout=5s",
        ];
        context.kubectl(&client)?;
        let done = ["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/client", "--timeout=60s"];
        context.kubectl(&done)?;
        let said = context.kubectl(&["logs", "client"])?;
        // Until kube-proxy on the client's node knows the Service, nobody answers; from the first answer on all are answered.
        let mut records: Vec<Record> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        records.sort_unstable_by_key(|record| record.start_unix_us);
        let own = format!("{}/echo-", cluster.name());
        let answered =
            |record: &Record| matches!(&record.outcome, Outcome::Answer(from) if from.starts_with(&own));
        let settled: Vec<_> = records.iter().skip_while(|record| !answered(record)).collect();
        let answers = settled.iter().filter(|record| answered(record)).count();
        context.kubectl(&["delete", "pod/client", "deployment/echo", "service/echo", "--wait=false"])?;
        ensure!(answers >= 50, "{answers} answers:\n{said}");
        ensure!(answers == settled.len(), "failures after the first of {answers} answers:\n{said}");
    }
    Ok(())
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn pods_of_both_clusters_reach_each_other_until_the_way_is_cut() -> Result<()> {
    let fixture = Fixture::enter()?;
    let lab = fixture.lab();
    let [one, other, ..] = lab.clusters() else { anyhow::bail!("two clusters are needed") };
    let context = other.context();
    serve(other, "far", 1)?;
    // Slices follow their pods a moment later.
    let first = || endpoints(&context, "far")?.into_iter().next().context("no endpoint");
    let (address, _) = wait::until("an endpoint of far", PATIENCE, first)?;
    let node = one.nodes().into_iter().next().context("no node")?;
    let ping = || one.run_on_node(&node, &["bash", "-c", &format!("exec 3<>/dev/tcp/{address}/8080")]);
    let dial = || {
        one.run_on_node(&node, &["timeout", "2", "bash", "-c", &format!("exec 3<>/dev/tcp/{address}/8080")])
    };
    ping()?;
    lab.partition(one.name(), other.name())?;
    let cut = dial();
    lab.heal(one.name(), other.name())?;
    ensure!(cut.is_err(), "a connection crossed the cut");
    wait::until("a connection after the cut has healed", PATIENCE, dial)?;
    context.kubectl(&["delete", "deployment/far", "service/far", "--wait=false"]).map(drop)
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn a_node_comes_back_after_a_power_cut() -> Result<()> {
    let mut fixture = Fixture::enter()?;
    let cluster = fixture.lab_mut().cluster("yavin")?;
    let node = cluster.nodes().pop().context("no node")?;
    let context = cluster.context();
    cluster.power_off_node(&node)?;
    let name = format!("node/{node}");
    let condition = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}=Unknown"#;
    let lost = context.kubectl(&["wait", &format!("--for={condition}"), &name, "--timeout=90s"]);
    cluster.power_on_node(&node)?;
    lost?;
    context.kubectl(&["wait", "--for=condition=Ready", &name, "--timeout=90s"]).map(drop)
}
