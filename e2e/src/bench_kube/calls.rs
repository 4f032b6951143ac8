//! Pods that call a service all the time, and what they say of every call.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::kube::KubeCluster;
use crate::kube::image::LAB;
use crate::kube::pod_log::PodLog;

/// New connections a second of each pod.
const RATE: u32 = 25;
/// For one call. A cut call is refused or reset at once; a machine that is busy only takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// For a pod to have called.
const START: Duration = Duration::from_secs(90);

/// Starts a pod on each node of a cluster, and waits until each has called.
pub(crate) fn start_all(cluster: &KubeCluster, target: &str) -> Result<Vec<PodLog>> {
    let (context, nodes) = (cluster.context(), cluster.nodes());
    for node in &nodes {
        context.apply(&pod(node, target))?;
    }
    let follow = |node: &String| {
        let name = format!("caller-{node}");
        let ready = ["wait", "--for=condition=Ready", "--timeout=90s", &format!("pod/{name}")];
        context.kubectl(&ready)?;
        PodLog::follow(&context, &name, START)
    };
    nodes.iter().map(follow).collect()
}

fn pod(node: &str, target: &str) -> String {
    let args = [
        "load".to_owned(),
        format!("--target={target}"),
        format!("--rate={RATE}"),
        format!("--timeout={}s", PATIENCE.as_secs()),
        "--duration=600m".into(),
    ];
    let container = json!({"name": "load", "image": LAB, "imagePullPolicy": "Never", "args": args});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("caller-{node}")},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            // The name is a whole one: five lookups for each call would measure CoreDNS.
            "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
            "containers": [container],
        },
    })
    .to_string()
}
