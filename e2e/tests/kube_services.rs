//! What real API servers, controllers and kubelets make of Services, and what the mesh makes of that: the weightier of
//! the golden scenarios of docs/services.md, from `kubectl` to the answers of the other cluster's pods.
//!
//! Run by `make test-kube`, which brings the lab up and takes it down.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_e2e::agent_api::AgentApi;
use mesh_e2e::kube::KubeCluster;
use mesh_e2e::kube::chart::NAMESPACE;
use mesh_e2e::kube::image::LAB;
use mesh_e2e::kube::testing::agents;
use mesh_e2e::kube::testing::callers::Callers;
use mesh_e2e::kube::testing::{Fixture, PATIENCE, objects};
use mesh_e2e::wait::{self, unix_us};
use serde_json::{Value, json};

/// Where the test's Services and pods are.
const PLAYGROUND: &str = "services";
/// With pods in both clusters; becomes global, is recreated, and stops being it.
const FATE: &str = "fate";
/// With named ports that differ between the clusters.
const PORTS: &str = "ports";
/// With a pod in hoth that goes.
const LAST: &str = "last";
/// With a pod in hoth that never becomes ready.
const SHY: &str = "shy";
/// With slices that are written by hand.
const MOVED: &str = "moved";
const TARGETS: [&str; 5] = [FATE, PORTS, LAST, SHY, MOVED];
/// More than the callers need to settle.
const LINGER_SECONDS: u32 = 20;

struct Scene<'s> {
    hoth: &'s KubeCluster,
    yavin: &'s KubeCluster,
    /// In hoth and yavin, in that order.
    callers: [Callers; 2],
}

fn service(name: &str, spec: &Value) -> Value {
    objects::service(PLAYGROUND, name, spec)
}

/// A Deployment of one pod with a server per entry: what it answers, the name of its port, and its number.
fn many_servers(name: &str, servers: &[(String, &str, u16)]) -> Value {
    let container = |(answer, port, number): &(String, &str, u16)| {
        json!({
            "name": port,
            "image": LAB,
            "imagePullPolicy": "Never",
            "args": ["serve", format!("--answer={answer}"), format!("--port={number}"), format!("--linger={LINGER_SECONDS}s")],
            "ports": [{"name": port, "containerPort": number}],
            "readinessProbe": {"tcpSocket": {"port": number}, "periodSeconds": 1, "timeoutSeconds": 10},
        })
    };
    let mut deployment = objects::servers(PLAYGROUND, name, "", 1);
    let pod = &mut deployment["spec"]["template"]["spec"];
    pod["terminationGracePeriodSeconds"] = json!(2 * LINGER_SECONDS);
    pod["containers"] = servers.iter().map(container).collect();
    deployment
}

fn of_hoth() -> Vec<Value> {
    let ports = json!({"selector": {"app": PORTS}, "ports": [
        {"name": "web", "port": 80, "targetPort": "web"},
        {"name": "admin", "port": 81, "targetPort": "admin"},
    ]});
    let mut shy = many_servers(SHY, &[("hoth/shy".into(), "http", 8080)]);
    // Nobody listens there.
    shy["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["tcpSocket"]["port"] = json!(1);
    let mut in_front_of_shy = objects::in_front_of(SHY);
    in_front_of_shy["publishNotReadyAddresses"] = json!(true);
    vec![
        objects::global(service(PORTS, &ports)),
        many_servers(PORTS, &[("hoth/web".into(), "web", 8080), ("hoth/admin".into(), "admin", 9090)]),
        objects::global(service(LAST, &objects::in_front_of(LAST))),
        many_servers(LAST, &[("hoth/last".into(), "http", 8080)]),
        objects::global(service(SHY, &in_front_of_shy)),
        shy,
    ]
}

fn of_yavin() -> Vec<Value> {
    // Port 80 is another one here. Names count.
    let ports = json!({"selector": {"app": PORTS}, "ports": [
        {"name": "web", "port": 8000, "targetPort": "web"},
        {"name": "admin", "port": 80, "targetPort": "admin"},
    ]});
    vec![
        objects::global(service(PORTS, &ports)),
        many_servers(PORTS, &[("yavin/web".into(), "web", 8181), ("yavin/admin".into(), "admin", 9191)]),
        objects::global(service(LAST, &objects::in_front_of(LAST))),
        objects::global(service(SHY, &objects::in_front_of(SHY))),
    ]
}

fn set<'s>(hoth: &'s KubeCluster, yavin: &'s KubeCluster) -> Result<Scene<'s>> {
    let by_hand = json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    for (cluster, own) in [(hoth, of_hoth()), (yavin, of_yavin())] {
        let shared = [
            objects::namespace(PLAYGROUND),
            service(FATE, &objects::in_front_of(FATE)),
            objects::servers(PLAYGROUND, FATE, cluster.name(), 2),
            objects::global(service(MOVED, &by_hand)),
        ];
        objects::apply(&cluster.context(), &[&shared[..], &own].concat())?;
    }
    for (cluster, name) in [(hoth, FATE), (yavin, FATE), (hoth, PORTS), (yavin, PORTS), (hoth, LAST)] {
        objects::rolled_out(&cluster.context(), PLAYGROUND, &format!("deployment/{name}"))?;
    }
    agents::wait_synced(&[hoth, yavin])?;
    let dialled: Vec<_> = TARGETS.map(|name| (name, objects::dialled(PLAYGROUND, name, 80))).into();
    let targets: Vec<_> = dialled.iter().map(|(name, target)| (*name, target.as_str())).collect();
    let start = |cluster| Callers::start(cluster, PLAYGROUND, &targets);
    Ok(Scene { hoth, yavin, callers: [start(hoth)?, start(yavin)?] })
}

impl Scene<'_> {
    fn full_name(service: &str) -> String {
        format!("{PLAYGROUND}/{service}")
    }

    /// Waits for the answers that the callers of each cluster get; gives the moment from which on all did.
    fn wait_answers(&mut self, service: &str, of_hoth: &[&str], of_yavin: &[&str]) -> Result<u64> {
        let first = self.callers[0].wait_answers(service, of_hoth).context("callers in hoth")?;
        Ok(first.max(self.callers[1].wait_answers(service, of_yavin).context("callers in yavin")?))
    }

    /// Fails if a call failed that began since then.
    fn expect_answers(&mut self, service: &str, since: u64) -> Result<()> {
        self.callers.iter_mut().try_for_each(|callers| callers.since(since, service)?.expect_answers(1))
    }

    /// Waits until all agents hold as many backends of a service with this state, and no others.
    fn wait_backends(&self, service: &str, count: usize, state: &str) -> Result<()> {
        agents::wait_all(
            &format!("{count} {state} backends of {service}"),
            &[self.hoth, self.yavin],
            |agent| {
                let found = agent.backends(&Self::full_name(service))?;
                let well = found.len() == count && found.iter().all(|backend| backend.ends_with(state));
                ensure!(well, "there are {found:?}");
                Ok(())
            },
        )
    }

    fn annotate(&self, cluster: &KubeCluster, service: &str, global: &str) -> Result<()> {
        let annotation = format!("{}{global}", objects::GLOBAL);
        cluster.context().kubectl(&["-n", PLAYGROUND, "annotate", "service", service, &annotation]).map(drop)
    }
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn services_of_real_clusters_become_what_the_golden_scenarios_say() -> Result<()> {
    let (fixture, _chart) = Fixture::enter_mesh()?;
    let [hoth, yavin] = fixture.pair()?;
    let mut scene = set(hoth, yavin)?;
    ports_match_by_name(&mut scene).context("named ports")?;
    becomes_global_is_recreated_and_stops(&mut scene).context("a Service's fate")?;
    a_terminating_pod_serves_when_nothing_better_is_left(&mut scene).context("terminating endpoints")?;
    not_ready_addresses_are_published(&mut scene).context("publishNotReadyAddresses")?;
    endpoints_move_between_slices_that_all_go(&mut scene).context("slices")?;
    owners_hear_what_is_wrong(hoth).context("Events")?;
    for cluster in [hoth, yavin] {
        cluster.context().kubectl(&["delete", "namespace", PLAYGROUND, "--wait=false"])?;
    }
    Ok(())
}

/// Numbers of ports and targets differ between the clusters, and one's number is another's other port.
fn ports_match_by_name(scene: &mut Scene<'_>) -> Result<()> {
    let since = scene.wait_answers(PORTS, &["hoth", "yavin"], &["hoth", "yavin"])?;
    for (callers, port) in scene.callers.iter_mut().zip(["web", "admin"]) {
        let wanted: BTreeSet<_> = ["hoth", "yavin"].map(|cluster| format!("{cluster}/{port}")).into();
        let seen = callers.since(since, PORTS)?;
        ensure!(seen.answers == wanted, "answers of {:?}, not of {wanted:?}", seen.answers);
    }
    Ok(())
}

fn becomes_global_is_recreated_and_stops(scene: &mut Scene<'_>) -> Result<()> {
    let both = ["hoth", "yavin"];
    let begin = scene.wait_answers(FATE, &["hoth"], &["yavin"]).context("plain Services")?;
    scene.annotate(scene.hoth, FATE, "=true")?;
    scene.annotate(scene.yavin, FATE, "=true")?;
    scene.wait_answers(FATE, &both, &both).context("global Services")?;
    scene.expect_answers(FATE, begin)?;

    // Without a Service calls fail, also without a mesh; the other cluster's must not.
    let context = scene.hoth.context();
    let before = cluster_ip(scene.hoth, FATE)?;
    context.kubectl(&["-n", PLAYGROUND, "delete", "service", FATE])?;
    let plan = scene.hoth.address_plan();
    let mut spec = objects::in_front_of(FATE);
    spec["clusterIP"] = json!(plan.cluster_ip(9999)[0].to_string());
    objects::apply(&context, &[objects::global(service(FATE, &spec))])?;
    let now = cluster_ip(scene.hoth, FATE)?;
    ensure!(now != before, "the Service has got its address {before} again");
    agents::wait_all("the new address alone", &[scene.hoth], |agent| {
        let frontends = frontends(agent, FATE)?;
        ensure!(frontends == [now.as_str()], "{frontends:?}");
        Ok(())
    })?;
    scene.wait_answers(FATE, &both, &both).context("a recreated Service")?;

    let begin = scene.wait_answers(FATE, &both, &both)?;
    scene.annotate(scene.hoth, FATE, "-")?;
    scene.wait_answers(FATE, &["hoth"], &["yavin"]).context("a Service that is global no longer")?;
    scene.expect_answers(FATE, begin)
}

fn cluster_ip(cluster: &KubeCluster, service: &str) -> Result<String> {
    let path = "jsonpath={.spec.clusterIP}";
    cluster.context().kubectl(&["-n", PLAYGROUND, "get", "service", service, "-o", path])
}

/// The addresses under which an agent balances a service.
fn frontends(agent: &AgentApi, service: &str) -> Result<Vec<String>> {
    let wanted = Scene::full_name(service);
    let items = agent.items("/v1/services")?;
    let own = items.iter().filter(|item| item["service"] == wanted);
    let frontends = own.filter_map(|item| item["frontends"].as_array()).flatten();
    Ok(frontends.filter_map(|frontend| Some(frontend["address"].as_str()?.to_owned())).collect())
}

fn a_terminating_pod_serves_when_nothing_better_is_left(scene: &mut Scene<'_>) -> Result<()> {
    let begin = scene.wait_answers(LAST, &["hoth"], &["hoth"])?;
    let context = scene.hoth.context();
    context.kubectl(&["-n", PLAYGROUND, "scale", "deployment", LAST, "--replicas=0"])?;
    scene.wait_backends(LAST, 1, "terminating")?;
    let mark = unix_us();
    scene.callers.iter_mut().try_for_each(|callers| callers.wait_calls(mark, 10))?;
    // The calls so far; those of the pod's end are another matter.
    scene.wait_backends(LAST, 1, "terminating").context("the pod was gone too early to prove anything")?;
    for callers in &mut scene.callers {
        callers.since(begin, LAST)?.expect(&["hoth"], 20)?;
    }
    scene.wait_backends(LAST, 0, "")
}

fn not_ready_addresses_are_published(scene: &mut Scene<'_>) -> Result<()> {
    scene.wait_answers(SHY, &["hoth"], &["hoth"])?;
    let ready = "jsonpath={.items[*].status.containerStatuses[*].ready}";
    let selector = format!("app={SHY}");
    let said =
        scene.hoth.context().kubectl(&["-n", PLAYGROUND, "get", "pods", "-l", &selector, "-o", ready])?;
    ensure!(said == "false", "ready: {said}");
    Ok(())
}

/// A slice of hoth's Service without a selector.
fn slice(name: &str, addresses: &[String]) -> Value {
    let labels =
        json!({"kubernetes.io/service-name": MOVED, "endpointslice.kubernetes.io/managed-by": "lab"});
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": PLAYGROUND, "name": name, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    })
}

/// Endpoints that are in two slices for a while count once, so that nothing is written for a move.
fn endpoints_move_between_slices_that_all_go(scene: &mut Scene<'_>) -> Result<()> {
    let (context, clusters) = (scene.hoth.context(), [scene.hoth, scene.yavin]);
    let paths = "jsonpath={.items[*].status.podIP}";
    let addresses = context.kubectl(&["-n", PLAYGROUND, "get", "pods", "-l", "app=fate", "-o", paths])?;
    let addresses: Vec<_> = addresses.split_whitespace().map(str::to_owned).collect();
    ensure!(addresses.len() == 2, "pods at {addresses:?}");
    objects::apply(&context, &[slice("moved-a", &addresses)])?;
    let begin = scene.wait_answers(MOVED, &["hoth"], &["hoth"])?;
    scene.wait_backends(MOVED, 2, "active")?;

    wait_read(scene, 1)?;
    let (writes, changes) = (agents::map_writes(&clusters)?, slice_changes(scene.hoth)?);
    objects::apply(&context, &[slice("moved-b", &addresses)])?;
    wait_read(scene, 2)?;
    context.kubectl(&["-n", PLAYGROUND, "delete", "endpointslice", "moved-a"])?;
    wait_read(scene, 1)?;
    wait::until("hoth's agents to have heard of both", PATIENCE, || {
        let now = slice_changes(scene.hoth)?;
        ensure!(now.iter().zip(&changes).all(|(now, before)| *now >= before + 2), "{changes:?}, {now:?}");
        Ok(())
    })?;
    scene.wait_backends(MOVED, 2, "active")?;
    let now = agents::map_writes(&clusters)?;
    ensure!(now == writes, "a move was written into maps: {writes:?} became {now:?}");
    scene.expect_answers(MOVED, begin)?;

    context.kubectl(&["-n", PLAYGROUND, "delete", "endpointslice", "moved-b"])?;
    scene.wait_backends(MOVED, 0, "active")?;
    wait_read(scene, 0)?;
    agents::wait_all("the frontend that is left", &clusters, |agent| {
        let frontends = frontends(agent, MOVED)?;
        ensure!(frontends.len() == 1, "{frontends:?}");
        Ok(())
    })
}

/// How many changes of slices each agent of a cluster has heard of.
fn slice_changes(cluster: &KubeCluster) -> Result<Vec<u64>> {
    const CHANGES: &str = "clustermesh_source_changes_total{resource=\"endpointslices\"}";
    Ok(agents::counts(&[cluster], CHANGES)?.into_values().collect())
}

/// Waits until so many slices of the Service are in hoth's etcd, and the agents of the other cluster have read so far.
fn wait_read(scene: &Scene<'_>, slices: usize) -> Result<()> {
    let revision =
        wait::until(&format!("{slices} slices in etcd"), PATIENCE, || published(scene.hoth, slices))?;
    agents::wait_all("what is in hoth's etcd", &[scene.yavin], |agent| {
        let peers = agent.items("/v1/peers")?;
        let read =
            peers.iter().find(|peer| peer["name"] == "hoth").and_then(|peer| peer["revision"].as_u64());
        ensure!(read.is_some_and(|read| read >= revision), "read {read:?}, not {revision}");
        Ok(())
    })
}

/// The revision at which so many slices of the Service are in a cluster's etcd.
fn published(cluster: &KubeCluster, slices: usize) -> Result<u64> {
    let prefix = format!("clustermesh/v1/endpoints/{}/{}/", cluster.name(), Scene::full_name(MOVED));
    // As the only client that etcd admits.
    let etcdctl = ["-n", NAMESPACE, "exec", "deployment/clustermesh-apiserver", "--", "/etcdctl"];
    let access = [
        "--endpoints=https://clustermesh-etcd-0.clustermesh-etcd.clustermesh.svc:2379",
        "--cacert=/var/lib/clustermesh/certificates/apiserver/ca.crt",
        "--cert=/var/lib/clustermesh/certificates/apiserver/tls.crt",
        "--key=/var/lib/clustermesh/certificates/apiserver/tls.key",
    ];
    let get = ["get", "--prefix", "--keys-only", "-w", "json", &prefix];
    let said = cluster.context().kubectl(&[&etcdctl[..], &access, &get].concat())?;
    let said: Value = serde_json::from_str(&said).context("etcdctl said no JSON")?;
    let found = said["kvs"].as_array().map_or(0, Vec::len);
    ensure!(found == slices, "{found} slices");
    said["header"]["revision"].as_u64().context("etcd said no revision")
}

/// Whoever owns a Service that can't be balanced as it says is told by an Event.
fn owners_hear_what_is_wrong(cluster: &KubeCluster) -> Result<()> {
    let mut odd = service("odd", &objects::in_front_of(FATE));
    odd["metadata"]["annotations"] = json!({objects::GLOBAL: "perhaps"});
    let elsewhere = json!({"type": "ExternalName", "externalName": "rebel-base.example"});
    let headless = json!({"clusterIP": "None", "selector": {"app": FATE}, "ports": [{"port": 80}]});
    let objects = [
        odd,
        objects::global(service("elsewhere", &elsewhere)),
        objects::global(service("headless", &headless)),
    ];
    objects::apply(&cluster.context(), &objects)?;
    let path = "jsonpath={range .items[*]}{.regarding.name}/{.reason}{\"\\n\"}{end}";
    let get = ["-n", PLAYGROUND, "get", "events.events.k8s.io", "-o", path];
    wait::until("an Event for each of them", PATIENCE, || {
        let said = cluster.context().kubectl(&get)?;
        for wanted in ["odd/Annotation", "elsewhere/ExternalName", "headless/Headless"] {
            ensure!(said.lines().any(|line| line == wanted), "no {wanted} among\n{said}");
        }
        Ok(())
    })
}
