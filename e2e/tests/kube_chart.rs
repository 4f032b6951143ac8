//! The Helm chart on the Kubernetes lab: accepted, installed, upgraded, uninstalled without a trace. What an upgrade costs under
//! load is a matter of `kube_outages.rs`.
//!
//! Run by `make test-kube`, which brings the lab up and takes it down.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use mesh_e2e::kube::KubeCluster;
use mesh_e2e::kube::audit::Request;
use mesh_e2e::kube::chart::{Chart, NAMESPACE};
use mesh_e2e::kube::image::LAB;
use mesh_e2e::kube::kubectl::Context as Kubectl;
use mesh_e2e::kube::testing::callers::Seen;
use mesh_e2e::kube::testing::{Fixture, PATIENCE, objects};
use mesh_e2e::wait;
use serde_json::{Value, json};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart/golden");
/// NET_ADMIN, PERFMON and BPF.
const CAPABILITIES: u64 = 1 << 12 | 1 << 38 | 1 << 39;
/// Where the tests' Services and pods are.
const PLAYGROUND: &str = "chart";
/// A Service that the clusters disagree on.
const ODD: &str = "odd";

/// What the API server makes of an object, without keeping it.
fn dry_run(context: &Kubectl, object: &str) -> Result<()> {
    use std::io::Write;
    let args = ["apply", "--dry-run=server", "--validate=strict", "-n", NAMESPACE, "-f", "-"];
    let mut command = context.command(&args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("kubectl has no stdin")?.write_all(object.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}\n{object}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn the_api_server_accepts_every_object_of_every_rendering() -> Result<()> {
    let fixture = Fixture::enter()?;
    let context = fixture.lab().clusters()[0].context();
    context.apply(
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}).to_string(),
    )?;
    let mut accepted = 0;
    for entry in std::fs::read_dir(GOLDEN)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        // The definition of ServiceMonitors is not installed here. IPv6 needs a lab with both families.
        let skip = |object: &str| {
            object.contains("kind: ServiceMonitor")
                || (object.contains("\"IPv6\"")
                    && std::env::var_os("DUAL").is_none_or(|dual| dual.is_empty()))
        };
        let objects: Vec<_> = text.split("\n---\n").filter(|object| !skip(object)).collect();
        dry_run(&context, &objects.join("\n---\n")).with_context(|| path.display().to_string())?;
        accepted += objects.len();
    }
    ensure!(accepted > 80, "only {accepted} objects in {GOLDEN}");
    Ok(())
}

/// Lets a pod call the Service for a while.
fn call(context: &Kubectl, name: &'static str) -> Result<Seen> {
    let target = format!("--target={}", objects::dialled(PLAYGROUND, "rebel-base", 80));
    let run =
        ["-n", PLAYGROUND, "run", name, "--image", LAB, "--image-pull-policy=Never", "--restart=Never", "--"];
    // A machine that is busy only takes its time.
    let load = ["load", &target, "--rate=20", "--timeout=20s", "--duration=3s"];
    context.kubectl(&[&run[..], &load[..]].concat())?;
    let pod = format!("pod/{name}");
    let done = ["-n", PLAYGROUND, "wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s", &pod];
    context.kubectl(&done)?;
    let said = context.kubectl(&["-n", PLAYGROUND, "logs", name])?;
    context.kubectl(&["-n", PLAYGROUND, "delete", &pod, "--wait=true"])?;
    let mut seen = Seen::default();
    for line in said.lines() {
        seen.note(&serde_json::from_str(line).with_context(|| format!("a line {line:?}"))?);
    }
    Ok(seen)
}

/// Calls until the clusters answer, and no others.
fn wait_for_answers(context: &Kubectl, name: &'static str, clusters: &[&str]) -> Result<()> {
    wait::until("answers of the right clusters", PATIENCE, || call(context, name)?.expect(clusters, 50))
}

/// What an agent's process may do, as the kernel says it.
fn agent_status(cluster: &KubeCluster, node: &str) -> Result<String> {
    let script = "for p in /proc/[0-9]*; do [ \"$(readlink $p/exe)\" != /node-agent ] || cat $p/status; done";
    cluster.run_on_node(node, &["bash", "-c", script])
}

fn field<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim).with_context(|| format!("no {name} in {status:?}"))
}

fn agents_have_three_capabilities(cluster: &KubeCluster) -> Result<()> {
    for node in cluster.nodes() {
        let status = agent_status(cluster, &node)?;
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let found = u64::from_str_radix(field(&status, set)?, 16)?;
            ensure!(found == CAPABILITIES, "{set} on {node} is {found:x}");
        }
        ensure!(field(&status, "NoNewPrivs")? == "1", "{node}: {status}");
        ensure!(field(&status, "Seccomp")? == "2", "{node}: {status}");
    }
    Ok(())
}

/// Every pinned file of a node with its inode: an object that was replaced has another one.
fn pins(cluster: &KubeCluster, node: &str) -> Result<String> {
    let list = "cd /sys/fs/bpf && [ ! -e clustermesh ] || find clustermesh -type f -printf '%p %i\n' | sort";
    cluster.run_on_node(node, &["bash", "-c", list])
}

/// How many requests an API server has answered, of installations before this one too.
fn answered(cluster: &KubeCluster) -> usize {
    // There is no log before the first.
    cluster.requests_of_the_mesh().map_or(0, |requests| requests.len())
}

/// No rule that was not used, and no request that was denied, behind the first ones.
fn rules_are_exact(cluster: &KubeCluster, before: usize) -> Result<()> {
    let requests = cluster.requests_of_the_mesh()?.split_off(before);
    let denied: Vec<_> = requests.iter().filter(|request| matches!(request.code, 401 | 403)).collect();
    ensure!(denied.is_empty(), "denied in {}: {denied:?}", cluster.name());
    for account in ["clustermesh-apiserver", "clustermesh-node-agent"] {
        let role = cluster.context().json(&["get", "clusterrole", account])?;
        let granted = granted(&role);
        let used = used(&requests, account);
        ensure!(!used.is_empty(), "{account} asked for nothing");
        let unused: Vec<_> = granted.difference(&used).collect();
        ensure!(unused.is_empty(), "{account} never asked for {unused:?}, only for {used:?}");
    }
    Ok(())
}

/// What the hooks of `helm uninstall` may do, they did.
fn hooks_need_their_rights(cluster: &KubeCluster) -> Result<()> {
    let requests = cluster.requests_of_the_mesh()?;
    let own: Vec<_> = requests.iter().filter(|request| request.account == "clustermesh-uninstall").collect();
    let denied: Vec<_> = own.iter().filter(|request| matches!(request.code, 401 | 403)).collect();
    ensure!(denied.is_empty(), "denied in {}: {denied:?}", cluster.name());
    let verbs: BTreeSet<_> = own.iter().filter(|request| request.is_resource).map(|own| &*own.verb).collect();
    ensure!(verbs.iter().eq(&["delete", "get", "list", "watch"]), "the hooks used {verbs:?}");
    Ok(())
}

/// Group and resource, and whether it is written.
type Right = (String, String, bool);

/// Lists are streamed by watches where the server can do it, so that the two count as one.
fn right(group: &str, resource: &str, verb: &str) -> Right {
    (group.into(), resource.into(), !matches!(verb, "list" | "watch"))
}

fn granted(role: &Value) -> BTreeSet<Right> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                rights.extend(texts(&rule["verbs"]).iter().map(|verb| right(&group, &resource, verb)));
            }
        }
    }
    rights
}

fn used(requests: &[Request], account: &str) -> BTreeSet<Right> {
    let own = requests.iter().filter(|request| request.account == account && request.is_resource);
    own.map(|request| right(&request.group, &request.resource, &request.verb)).collect()
}

/// Objects that are left of the release: none but what was there before it.
fn leftovers(cluster: &KubeCluster) -> Result<Vec<String>> {
    let context = cluster.context();
    let kinds =
        "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets";
    let inside = context.kubectl(&["-n", NAMESPACE, "get", kinds, "-o", "name"])?;
    let outside = context.kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"])?;
    // Kubernetes' own, and the certificates: a new installation is the same cluster for its peers.
    let stays = [
        "configmap/kube-root-ca.crt",
        "serviceaccount/default",
        "secret/clustermesh-ca",
        "secret/clustermesh-etcd-tls",
        "secret/clustermesh-apiserver-tls",
        "secret/clustermesh-agent-tls",
    ];
    let inside = inside.lines().filter(|name| !stays.contains(name));
    let outside = outside.lines().filter(|name| name.contains("/clustermesh"));
    Ok(inside.chain(outside).map(str::to_owned).collect())
}

fn pod_ids(context: &Kubectl, component: &str) -> Result<BTreeSet<String>> {
    let selector = format!("app.kubernetes.io/name=clustermesh,app.kubernetes.io/component={component}");
    let found = context.kubectl(&[
        "-n",
        NAMESPACE,
        "get",
        "pods",
        "-l",
        &selector,
        "-o",
        "jsonpath={.items[*].metadata.uid}",
    ])?;
    Ok(found.split_whitespace().map(str::to_owned).collect())
}

#[test]
#[ignore = "needs the Kubernetes lab: make test-kube"]
fn the_chart_is_installed_upgraded_and_uninstalled() -> Result<()> {
    let fixture = Fixture::enter()?;
    let chart = Chart::of_lab(fixture.lab())?;
    let [hoth, yavin] = fixture.pair()?;
    let before = [hoth, yavin].map(answered);
    chart.install()?;
    for cluster in [hoth, yavin] {
        let service = objects::service(PLAYGROUND, "rebel-base", &objects::in_front_of("rebel-base"));
        let servers = objects::servers(PLAYGROUND, "rebel-base", cluster.name(), 2);
        let items = [objects::namespace(PLAYGROUND), objects::global(service), servers, odd(cluster)];
        objects::apply(&cluster.context(), &items)?;
    }
    for cluster in [hoth, yavin] {
        objects::rolled_out(&cluster.context(), PLAYGROUND, "deployment/rebel-base")?;
        wait_for_answers(&cluster.context(), "first", &["hoth", "yavin"])?;
        agents_have_three_capabilities(cluster)?;
    }
    upgraded(&chart, hoth)?;
    for (cluster, before) in [hoth, yavin].into_iter().zip(before) {
        make_events(cluster)?;
        agents_told_once(cluster)?;
        rules_are_exact(cluster, before)?;
    }
    uninstalled(&chart, [hoth, yavin])?;
    for cluster in [hoth, yavin] {
        // Whoever installs next needs one that is not on its way out.
        cluster.context().kubectl(&["delete", "namespace", PLAYGROUND, NAMESPACE])?;
    }
    Ok(())
}

/// What did not change is not restarted, and the nodes keep what is pinned there.
fn upgraded(chart: &Chart, cluster: &KubeCluster) -> Result<()> {
    let context = cluster.context();
    let before = [pod_ids(&context, "etcd")?, pod_ids(&context, "apiserver")?];
    let pinned = cluster.nodes().iter().map(|node| pins(cluster, node)).collect::<Result<Vec<_>>>()?;
    chart.upgrade(cluster.name(), &["agent.yieldAfter=90s"])?;
    ensure!([pod_ids(&context, "etcd")?, pod_ids(&context, "apiserver")?] == before, "others were restarted");
    for (node, before) in cluster.nodes().iter().zip(pinned) {
        let after = pins(cluster, node)?;
        ensure!(!before.is_empty() && after == before, "pins of {node} changed:\n{before}\n{after}");
    }
    Ok(())
}

/// A Service that can't be global makes the exporter write an Event.
fn make_events(cluster: &KubeCluster) -> Result<()> {
    let context = cluster.context();
    let metadata = json!({"name": "headless", "namespace": PLAYGROUND, "annotations": {"clustermesh.io/global": "true"}});
    let spec = json!({"clusterIP": "None", "selector": {"app": "rebel-base"}, "ports": [{"port": 80}]});
    context.apply(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}).to_string(),
    )?;
    wait::until("an Event on the headless Service", PATIENCE, || {
        let args =
            ["-n", PLAYGROUND, "get", "events.events.k8s.io", "-o", "jsonpath={.items[*].regarding.name}"];
        let named = context.kubectl(&args)?;
        ensure!(named.split_whitespace().any(|name| name == "headless"), "Events regard {named:?}");
        Ok(())
    })
}

/// A Service whose port matches the other cluster's neither by name nor by number.
fn odd(cluster: &KubeCluster) -> Value {
    let (name, port) = if cluster.name() == "hoth" { ("http", 80) } else { ("web", 8080) };
    objects::global(objects::service(PLAYGROUND, ODD, &json!({"ports": [{"name": name, "port": port}]})))
}

/// The agents of all nodes have told of it, and its owner sees it once.
fn agents_told_once(cluster: &KubeCluster) -> Result<()> {
    let codes = wait::until("the agent of each node to tell of the odd Service", PATIENCE, || {
        let requests = cluster.requests_of_the_mesh()?.into_iter();
        let events = requests.filter(|it| it.account == "clustermesh-node-agent" && it.resource == "events");
        let codes: Vec<u64> = events.map(|request| request.code).collect();
        ensure!(codes.len() >= cluster.nodes().len(), "answers so far: {codes:?}");
        Ok(codes)
    })?;
    ensure!(codes.contains(&409) && codes.iter().all(|code| matches!(code, 201 | 409)), "answers: {codes:?}");
    let said = cluster.context().kubectl(&["-n", PLAYGROUND, "describe", "service", ODD])?;
    ensure!(said.matches("PortMismatch").count() == 1, "{said}");
    let other = if cluster.name() == "hoth" { "cluster yavin, port http" } else { "cluster hoth, port web" };
    ensure!(said.contains(other), "{said}");
    Ok(())
}

/// Nothing stays on the nodes and in the cluster, and the Service is what kube-proxy makes of it.
fn uninstalled(chart: &Chart, clusters: [&KubeCluster; 2]) -> Result<()> {
    for cluster in clusters {
        chart.uninstall(cluster.name())?;
        let left = wait::until("the last pods to go", PATIENCE, || {
            let left = leftovers(cluster)?;
            ensure!(left.is_empty(), "left in {}: {left:?}", cluster.name());
            Ok(())
        });
        left?;
        for node in cluster.nodes() {
            ensure!(pins(cluster, &node)?.is_empty(), "{node} still has pins");
            let left = cluster.run_on_node(&node, &["ls", "-A", "/run/clustermesh"])?;
            ensure!(left.is_empty(), "left in /run/clustermesh on {node}: {left}");
        }
        hooks_need_their_rights(cluster)?;
        wait_for_answers(&cluster.context(), "last", &[cluster.name()])?;
    }
    Ok(())
}
