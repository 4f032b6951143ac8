//! The configuration of a node's containerd, CNI, kubelet and kube-proxy, as files in the node's folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::image::PAUSE;
use super::node::Identity;
use crate::lab::address::Plan;

/// Writes all of them. The JSON ones are read as YAML.
pub(super) fn write(node: &Identity, plans: &[Plan]) -> Result<()> {
    let folder = &node.folder;
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    let cni = folder.join("cni");
    fs::create_dir_all(&cni).with_context(|| format!("creating {}", cni.display()))?;
    write("cni/10-lab.conflist", network(node, plans).to_string())?;
    write("containerd.toml", containerd(&cni))?;
    write("kubelet.json", kubelet(node).to_string())?;
    write("proxy.json", proxy(node).to_string())
}

/// Pods behind their node, with routes to pods, nodes and the own cluster's services, and to nothing else.
fn network(node: &Identity, plans: &[Plan]) -> Value {
    let families = node.spec.families();
    let ranges = node.plan.node_pods(node.number);
    let ranges = ranges.iter().take(families).map(|range| json!([{"subnet": range}]));
    let reachable = plans.iter().flat_map(|plan| [plan.pods(), plan.nodes()]).chain([node.plan.services()]);
    let routes =
        reachable.flat_map(|pair| pair.into_iter().take(families)).map(|range| json!({"dst": range}));
    let ipam = json!({
        "type": "host-local",
        "ranges": ranges.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
    });
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {"type": "ptp", "ipMasq": false, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd(cni: &Path) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  stream_server_address = "127.0.0.1"
  # Where CAP_SYS_RESOURCE is missing, nobody may lower oom_score_adj.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
        cni = cni.display()
    )
}

fn kubelet(node: &Identity) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.plan.node(node.number)[0],
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        // From 1.35 on a kubelet refuses cgroup v1, which hybrid machines have, unless told.
        "failCgroupV1": false,
        "failSwapOn": false,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [node.plan.cluster_ip(DNS)[0]],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "evictionHard": {
            "memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
            "imagefs.available": "0%", "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "30s",
        "syncFrequency": "10s",
        // The node finds them set as it wants them, and must not touch the machine's.
        "protectKernelDefaults": true,
        "enforceNodeAllocatable": ["pods"],
        "serializeImagePulls": false,
    })
}

/// The number of the ClusterIP of CoreDNS, as everywhere.
pub(super) const DNS: u16 = 10;

fn proxy(node: &Identity) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": super::access::kubeconfig(&node.access, "proxy")},
        "mode": node.spec.proxy.as_str(),
        "clusterCIDR": node.spec.join(&node.plan.pods()),
        "hostnameOverride": node.name,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        // Sizes of the connection table are the machine's to set.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}
