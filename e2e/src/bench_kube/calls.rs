//! Pods that call a service all the time, and what they say of every call.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::kube::KubeCluster;
use crate::kube::image::LAB;
use crate::kube::kubectl::Context;
use crate::lab::client::Records;
use crate::wait;

/// New connections a second of each pod.
const RATE: u32 = 25;
/// For one call. What is cut is refused or reset at once; a machine that is busy only takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// For a pod to have called.
const START: Duration = Duration::from_secs(90);

/// A pod that calls; its log's reader ends with it.
#[derive(Debug)]
pub(crate) struct Caller {
    reader: Child,
    pub(crate) records: Records,
}

impl Caller {
    /// Starts one on each node of a cluster, and waits until each has called.
    pub(crate) fn start_all(cluster: &KubeCluster, target: &str) -> Result<Vec<Self>> {
        let (context, nodes) = (cluster.context(), cluster.nodes());
        for node in &nodes {
            context.apply(&pod(node, target))?;
        }
        nodes.iter().map(|node| Self::follow(&context, &format!("caller-{node}"))).collect()
    }

    fn follow(context: &Context, pod: &str) -> Result<Self> {
        let ready = ["wait", "--for=condition=Ready", "--timeout=90s", &format!("pod/{pod}")];
        context.kubectl(&ready)?;
        let mut command = context.command(&["logs", "--follow", pod]);
        let mut reader = command.stdout(Stdio::piped()).spawn().context("starting kubectl")?;
        let said = BufReader::new(reader.stdout.take().context("kubectl has no stdout")?);
        let caller = Self { reader, records: Records::default() };
        let sink = caller.records.clone();
        let read = move || {
            for line in said.lines().map_while(Result::ok) {
                // Anything else that a pod says is no record.
                if let Ok(record) = serde_json::from_str(&line) {
                    sink.push(record);
                }
            }
        };
        thread::Builder::new().name("caller".into()).spawn(read).context("starting a thread")?;
        wait::until(&format!("{pod} to call"), START, || {
            ensure!(caller.records.count() > 0, "it has said nothing");
            Ok(())
        })?;
        Ok(caller)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.reader.kill();
        let _ = self.reader.wait();
    }
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
