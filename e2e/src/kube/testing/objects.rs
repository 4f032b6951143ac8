//! The objects that tests put into the lab's clusters.

use anyhow::Result;
use serde_json::{Value, json};

use crate::kube::image::LAB;
use crate::kube::kubectl::Context;

/// The annotation of a global Service.
pub const GLOBAL: &str = "clustermesh.io/global";

pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A Service, not global.
pub fn service(namespace: &str, name: &str, spec: &Value) -> Value {
    let metadata = json!({"namespace": namespace, "name": name});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

/// The same, global.
pub fn global(mut service: Value) -> Value {
    service["metadata"]["annotations"] = json!({GLOBAL: "true"});
    service
}

/// The spec of a Service in front of [`servers`]: port 80 leads to their 8080.
pub fn in_front_of(servers: &str) -> Value {
    json!({"selector": {"app": servers}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]})
}

/// A Deployment of servers that answer with the cluster's name and their own, spread over the nodes. They go on for 10 s
/// after SIGTERM, so that everybody has heard of it before they stop.
pub fn servers(namespace: &str, name: &str, cluster: &str, replicas: usize) -> Value {
    let labels = json!({"app": name});
    let container = json!({
        "name": "serve",
        "image": LAB,
        "imagePullPolicy": "Never",
        "args": ["serve", format!("--answer={cluster}/$(POD)"), "--port=8080", "--linger=10s"],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        // A busy machine must not make a pod look unwell.
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10},
    });
    let spread = json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }]);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"topologySpreadConstraints": spread, "containers": [container]},
            },
        },
    })
}

/// A pod per node that runs the lab's program with these arguments in a container per entry.
pub fn on_every_node(namespace: &str, name: &str, containers: &[(&str, Vec<String>)]) -> Value {
    let labels = json!({"app": name});
    let container = |(name, args): &(&str, Vec<String>)| json!({"name": name, "image": LAB, "imagePullPolicy": "Never", "args": args});
    let containers: Vec<_> = containers.iter().map(container).collect();
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": containers},
            },
        },
    })
}

/// Applies them, the first one first.
pub fn apply(context: &Context, items: &[Value]) -> Result<()> {
    context.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
}

/// Waits until a Deployment or DaemonSet is as it should be.
pub fn rolled_out(context: &Context, namespace: &str, workload: &str) -> Result<()> {
    context.kubectl(&["-n", namespace, "rollout", "status", workload, "--timeout=120s"]).map(drop)
}

/// The name that pods dial: a Service's whole name, which is looked up once and not in every search domain.
pub fn dialled(namespace: &str, service: &str, port: u16) -> String {
    format!("{service}.{namespace}.svc.cluster.local.:{port}")
}
