//! Services that are not global: with the mesh on the nodes they behave exactly as without it, in whichever mode kube-proxy is.
//!
//! The same calls are made before the mesh is installed, while it is there, and after it has been removed; what is compared
//! is who answered, and how calls failed.
//!
//! Run by `make test-kube`, which brings the lab up and takes it down; `PROXY=iptables` for the other mode.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use mesh_e2e::kube::KubeCluster;
use mesh_e2e::kube::chart::Chart;
use mesh_e2e::kube::testing::agents;
use mesh_e2e::kube::testing::callers::Seen;
use mesh_e2e::kube::testing::{Fixture, PATIENCE, objects};
use mesh_e2e::lab::process::program;
use mesh_e2e::load::record::{Failure, Outcome};
use mesh_e2e::wait;
use serde_json::{Value, json};

/// Where the test's Services and pods are.
const PLAYGROUND: &str = "plain";
const CLIENT: &str = "client";
/// Two pods, and one.
const SERVERS: &str = "pair";
const SINGLE: &str = "single";
/// The one global Service: proof that the mesh is at work beside the others.
const SHARED: &str = "shared";
/// Calls at once: most of them wait.
const HANDS: usize = 8;

fn services() -> Vec<Value> {
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "dns", "port": 80, "targetPort": 8080, "protocol": "UDP"},
    ]);
    let service = |name: &str, app: &str, more: Value| {
        let mut spec = json!({"selector": {"app": app}, "ports": ports});
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        objects::service(PLAYGROUND, name, &spec)
    };
    vec![
        service("cluster-ip", SERVERS, json!({})),
        service("affinity", SERVERS, json!({"sessionAffinity": "ClientIP"})),
        service("node-port", SERVERS, json!({"type": "NodePort"})),
        service("node-port-local", SINGLE, json!({"type": "NodePort", "externalTrafficPolicy": "Local"})),
        service("local", SINGLE, json!({"internalTrafficPolicy": "Local"})),
        service("headless", SERVERS, json!({"clusterIP": "None"})),
        service("nobody", "nobody", json!({})),
        service(SINGLE, SINGLE, json!({})),
    ]
}

/// Puts everything there, and waits until it runs.
fn set(clusters: [&KubeCluster; 2]) -> Result<()> {
    for cluster in clusters {
        let shared = objects::global(objects::service(PLAYGROUND, SHARED, &objects::in_front_of(SERVERS)));
        let servers = objects::servers(PLAYGROUND, SERVERS, cluster.name(), 2);
        objects::apply(&cluster.context(), &[objects::namespace(PLAYGROUND), shared, servers])?;
    }
    let hoth = clusters[0];
    let single = objects::servers(PLAYGROUND, SINGLE, hoth.name(), 1);
    let client = objects::on_every_node(PLAYGROUND, CLIENT, &[(CLIENT, vec!["pause".into()])]);
    objects::apply(&hoth.context(), &[&[single, client][..], &services()].concat())?;
    for workload in ["deployment/pair", "deployment/single", "daemonset/client"] {
        objects::rolled_out(&hoth.context(), PLAYGROUND, workload)?;
    }
    objects::rolled_out(&clusters[1].context(), PLAYGROUND, "deployment/pair")
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Client {
    /// A pod, by its name and the node that it is on.
    Pod { name: String, node: String },
    /// A process on the node's own network.
    Node(String),
}

#[derive(Clone, Debug)]
struct Probe {
    client: Client,
    transport: &'static str,
    /// What is dialled, in words.
    what: String,
    target: String,
    /// Which of the servers it is differs from client to client; that it is one does not.
    counted: bool,
    /// Refusals come by ICMP, of which kernels send a client one a second: so many calls, and no more.
    rationed: bool,
}

impl Client {
    fn describe(&self) -> String {
        match self {
            Self::Pod { node, .. } => format!("a pod on {node}"),
            Self::Node(node) => node.clone(),
        }
    }

    fn command(&self, hoth: &KubeCluster, args: &[&str]) -> Result<Command> {
        match self {
            Self::Pod { name, .. } => {
                let exec = ["-n", PLAYGROUND, "exec", name, "--", "/lab"];
                Ok(hoth.context().command(&[&exec[..], args].concat()))
            }
            Self::Node(node) => {
                let lab = program("lab")?.display().to_string();
                hoth.on_node(node, &[&[lab.as_str()][..], args].concat())
            }
        }
    }
}

impl Probe {
    /// Calls a few times.
    fn make(&self, hoth: &KubeCluster) -> Result<Seen> {
        let (target, transport) =
            (format!("--target={}", self.target), format!("--transport={}", self.transport));
        // Where somebody answers: enough that each of two servers is met, also on a busy machine.
        let [rate, duration] = if self.rationed {
            ["--rate=1", "--duration=4500ms"]
        } else {
            ["--rate=40", "--duration=1500ms"]
        };
        let args = ["load", &target, &transport, rate, duration, "--timeout=4s"];
        let output = self.client.command(hoth, &args)?.output().context("starting a client")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}", self.describe(), complaint.trim());
        let mut seen = Seen::default();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            seen.note(&serde_json::from_str(line).with_context(|| format!("a line {line:?}"))?);
        }
        let enough = if self.rationed { 3 } else { 20 };
        ensure!(seen.calls >= enough, "{}: only {} calls", self.describe(), seen.calls);
        Ok(seen)
    }

    fn describe(&self) -> String {
        format!("{} to {} by {}", self.client.describe(), self.what, self.transport)
    }

    /// What came of it, in one line.
    fn observe(&self, hoth: &KubeCluster) -> Result<String> {
        let seen = self.make(hoth)?;
        let answers = match self.counted {
            true => format!("{} of the servers", seen.answers.len()),
            false => format!("{:?}", seen.answers),
        };
        // How a port fails that isn't there is up to the neighbours' tables; what counts is that nobody answers.
        let failed = if self.what.starts_with("a port") { "" } else { failures(&seen) };
        Ok(format!("{}: {answers}{failed}", self.describe()))
    }
}

/// How calls failed. Some of many that are refused may get no word of it, and of a packet to nowhere it depends on the
/// neighbours' tables whether there is one.
fn failures(seen: &Seen) -> &'static str {
    let some = |failure| seen.failures.iter().any(|record| record.outcome == Outcome::Error(failure));
    match seen.failures.is_empty() {
        true => "",
        false if some(Failure::Refused) => " refused",
        false if some(Failure::Forbidden) => " forbidden",
        false if some(Failure::Timeout) || some(Failure::Unreachable) => " lost",
        false => " failed otherwise",
    }
}

/// A pod's name and node, for all that have a label.
fn pods(hoth: &KubeCluster, app: &str) -> Result<Vec<(String, String)>> {
    let found = hoth.context().json(&["-n", PLAYGROUND, "get", "pods", "-l", &format!("app={app}")])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = found["items"].as_array().context("no list of pods")?.iter();
    Ok(pods.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]))).collect())
}

fn probes(hoth: &KubeCluster) -> Result<Vec<Probe>> {
    let mut clients: Vec<_> =
        pods(hoth, CLIENT)?.into_iter().map(|(name, node)| Client::Pod { name, node }).collect();
    ensure!(clients.len() == hoth.nodes().len(), "clients {clients:?}");
    clients.push(Client::Node(hoth.nodes()[0].clone()));
    let found = hoth.context().json(&["-n", PLAYGROUND, "get", "services"])?;
    let services = found["items"].as_array().context("no list of Services")?.clone();
    let mut probes = Vec::new();
    for client in &clients {
        for service in &services {
            probes.extend(probes_of(hoth, client, service)?);
        }
    }
    // A pod that calls itself by its Service.
    let (name, node) = pods(hoth, SINGLE)?.pop().context("no single pod")?;
    let single =
        services.iter().find(|service| service["metadata"]["name"] == SINGLE).context("no single")?;
    probes.extend(probes_of(hoth, &Client::Pod { name, node }, single)?);
    Ok(probes)
}

/// How a client can call a Service.
fn probes_of(hoth: &KubeCluster, client: &Client, service: &Value) -> Result<Vec<Probe>> {
    let name = service["metadata"]["name"].as_str().context("a Service without a name")?;
    let mut probes = Vec::new();
    let mut probe = |transport, what: String, target: String| {
        // The resolver puts the nearest of a headless Service's pods first.
        let counted = matches!(name, "affinity" | "headless");
        let rationed = name == "nobody" || what.starts_with("a port");
        probes.push(Probe { client: client.clone(), transport, what, target, counted, rationed });
    };
    if name == SHARED {
        return Ok(probes);
    }
    let address = service["spec"]["clusterIP"].as_str().context("a Service without an address")?;
    if address == "None" {
        // Nodes don't ask the cluster's DNS.
        if matches!(client, Client::Pod { .. }) {
            probe("tcp", name.into(), objects::dialled(PLAYGROUND, name, 8080));
        }
        return Ok(probes);
    }
    // A datagram that is refused is not sent again: whether its sender hears of it is up to the ration.
    let transports = if name == "nobody" { &["tcp"][..] } else { &["tcp", "udp", "connected-udp"] };
    for transport in transports {
        probe(transport, name.into(), format!("{address}:80"));
    }
    if name == "cluster-ip" {
        probe("tcp", format!("a port that {name} does not have"), format!("{address}:81"));
    }
    if let Some(port) = service["spec"]["ports"][0]["nodePort"].as_u64() {
        for number in 1..=2 {
            let node = hoth.address_plan().node(number)[0];
            probe("tcp", format!("node port of {name} at node {number}"), format!("{node}:{port}"));
        }
    }
    Ok(probes)
}

/// Makes all calls, and gives a line for each, in their order.
fn observe(hoth: &KubeCluster) -> Result<Vec<String>> {
    let probes = probes(hoth)?;
    let (next, lines) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        while let Some(probe) = probes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let line = probe.observe(hoth)?;
            lines.lock().map_err(|_| anyhow::anyhow!("another thread panicked"))?.push(line);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let hands: Vec<_> = (0..HANDS).map(|_| scope.spawn(work)).collect();
        hands
            .into_iter()
            .try_for_each(|hand| hand.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    let mut lines = lines.into_inner().context("a thread panicked")?;
    lines.sort();
    Ok(lines)
}

/// Fails with the lines that are not in both.
fn expect_same(before: &[String], now: &[String]) -> Result<()> {
    let only = |these: &[String], those: &[String], sign| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    let different = [only(before, now, '-'), only(now, before, '+')].concat();
    ensure!(different.is_empty(), "(- before, + now)\n{}", different.join("\n"));
    Ok(())
}

/// The comparison would be worth nothing if everything failed, or if kube-proxy had not heard of everything yet.
fn expect_ordinary(hoth: &KubeCluster, lines: &[String]) -> Result<()> {
    let [pair, single] = [SERVERS, SINGLE].map(|app| pods(hoth, app));
    let named = |pods: Vec<(String, String)>| -> BTreeSet<String> {
        pods.into_iter().map(|(name, _)| format!("{}/{name}", hoth.name())).collect()
    };
    let (pair, single) = (format!("{:?}", named(pair?)), format!("{:?}", named(single?)));
    let expect = |what: &str, transport: &str, result: &str, times: usize| {
        let end = format!(" to {what} by {transport}: {result}");
        let found = lines.iter().filter(|line| line.ends_with(&end)).count();
        ensure!(found == times, "{found} lines end with {end:?}, not {times}:\n{}", lines.join("\n"));
        Ok(())
    };
    for transport in ["tcp", "udp", "connected-udp"] {
        expect("cluster-ip", transport, &pair, 3)?;
        expect("affinity", transport, "1 of the servers", 3)?;
        // The two clients of one node are at home; the pod on the other node finds nobody.
        expect(SINGLE, transport, &single, 4)?;
    }
    expect("headless", "tcp", "1 of the servers", 2)?;
    expect("nobody", "tcp", "{} refused", 3)?;
    expect("node port of node-port at node 1", "tcp", &pair, 3)
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn plain_services_are_as_they_were_without_the_mesh() -> Result<()> {
    let fixture = Fixture::enter()?;
    let chart = Chart::of_lab(fixture.lab())?;
    let [hoth, yavin] = fixture.pair()?;
    for cluster in [hoth, yavin] {
        chart.uninstall(cluster.name())?;
    }
    set([hoth, yavin])?;
    let before = wait::until("kube-proxy to know everything", PATIENCE, || {
        let lines = observe(hoth)?;
        expect_ordinary(hoth, &lines)?;
        Ok(lines)
    })?;
    chart.install()?;
    the_mesh_is_at_work(hoth)?;
    expect_same(&before, &observe(hoth)?).context("with the mesh")?;
    the_programs_saw_it(hoth)?;
    for cluster in [hoth, yavin] {
        chart.uninstall(cluster.name())?;
    }
    expect_same(&before, &observe(hoth)?).context("after the mesh")?;
    for cluster in [hoth, yavin] {
        cluster.context().kubectl(&["delete", "namespace", PLAYGROUND, "--wait=false"])?;
    }
    Ok(())
}

/// The clients' calls to the global Service are answered by both clusters.
fn the_mesh_is_at_work(hoth: &KubeCluster) -> Result<()> {
    for (name, node) in pods(hoth, CLIENT)? {
        let target = objects::dialled(PLAYGROUND, SHARED, 80);
        let client = Client::Pod { name, node };
        let probe =
            Probe { client, transport: "tcp", what: SHARED.into(), target, counted: false, rationed: false };
        wait::until("both clusters to answer", PATIENCE, || {
            probe.make(hoth)?.expect(&["hoth", "yavin"], 20)
        })?;
    }
    Ok(())
}

/// The calls went through the programs, which left them alone.
fn the_programs_saw_it(hoth: &KubeCluster) -> Result<()> {
    agents::wait_all("connects that were left alone", &[hoth], |agent| {
        let seen = agent.metric("clustermesh_connects_total{outcome=\"not_a_service\"}")?;
        ensure!(seen >= 200, "only {seen}");
        Ok(())
    })
}
