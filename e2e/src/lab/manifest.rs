//! The Kubernetes objects that a lab writes, as ordinary YAML, and how they get into a folder.
//!
//! The lab is its clusters' Kubernetes: it plays the controllers that allocate ClusterIPs and keep EndpointSlices.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::address::Pair;
use crate::wait::unix_us;

/// The namespace of everything that the lab deploys.
pub(crate) const NAMESPACE: &str = "default";

/// A service, and the pods behind it.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    pub(crate) name: String,
    pub annotations: BTreeMap<String, String>,
    pub(crate) dual_stack: bool,
    /// The port that clients dial; pods listen at [`TARGET_PORT`].
    pub port: u16,
    pub(crate) replicas: usize,
    /// Whether it answers DNS too, over UDP at port 53.
    pub(crate) dns: bool,
}

/// Where clients ask a service that answers DNS.
pub const DNS_PORT: u16 = 53;

/// The port at which the lab's servers listen.
pub const TARGET_PORT: u16 = 8080;

impl ServiceSpec {
    /// A global IPv4 service at port 80.
    pub fn global(name: &str, replicas: usize) -> Self {
        let annotations = [("clustermesh.io/global".to_owned(), "true".to_owned())].into();
        Self { name: name.into(), annotations, dual_stack: false, port: 80, replicas, dns: false }
    }

    #[must_use]
    pub fn dual_stack(mut self) -> Self {
        self.dual_stack = true;
        self
    }

    #[must_use]
    pub fn with_dns(mut self) -> Self {
        self.dns = true;
        self
    }

    /// How the product names it.
    pub(crate) fn full_name(&self) -> String {
        format!("{NAMESPACE}/{}", self.name)
    }

    /// How many backends it has in each cluster once its pods are ready: each family and port has its own.
    pub(super) fn backends(&self) -> usize {
        self.replicas * (1 + usize::from(self.dual_stack)) * (1 + usize::from(self.dns))
    }

    /// The addresses of a pair that the service has.
    pub(crate) fn families(&self, pair: Pair) -> Vec<IpAddr> {
        let count = if self.dual_stack { 2 } else { 1 };
        pair.into_iter().take(count).collect()
    }
}

/// A pod as its EndpointSlice shows it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) pod: String,
    pub(crate) node: String,
    pub(crate) addresses: Pair,
    /// Ready, or still serving while it terminates.
    pub(crate) ready: bool,
}

pub(crate) fn service(spec: &ServiceSpec, cluster_ips: Pair) -> Value {
    let ips = spec.families(cluster_ips);
    let families: Vec<_> = ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": spec.name, "namespace": NAMESPACE, "annotations": spec.annotations},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ips.first(),
            "clusterIPs": ips,
            "ipFamilies": families,
            "ipFamilyPolicy": if spec.dual_stack { "RequireDualStack" } else { "SingleStack" },
            "selector": {"app": spec.name},
            "ports": service_ports(spec),
        },
    })
}

/// Pods answer HTTP over TCP and DNS over UDP, both at [`TARGET_PORT`].
fn service_ports(spec: &ServiceSpec) -> Vec<Value> {
    let http = json!({"name": "http", "port": spec.port, "protocol": "TCP", "targetPort": TARGET_PORT});
    let dns = json!({"name": "dns", "port": DNS_PORT, "protocol": "UDP", "targetPort": TARGET_PORT});
    [Some(http), spec.dns.then_some(dns)].into_iter().flatten().collect()
}

fn slice_ports(spec: &ServiceSpec) -> Vec<Value> {
    let http = json!({"name": "http", "port": TARGET_PORT, "protocol": "TCP"});
    let dns = json!({"name": "dns", "port": TARGET_PORT, "protocol": "UDP"});
    [Some(http), spec.dns.then_some(dns)].into_iter().flatten().collect()
}

/// One slice per family, as Kubernetes makes them.
pub(crate) fn slices(spec: &ServiceSpec, endpoints: &[Endpoint]) -> Vec<Value> {
    let families = if spec.dual_stack { 2 } else { 1 };
    (0..families).map(|family| slice(spec, endpoints, family)).collect()
}

fn slice(spec: &ServiceSpec, endpoints: &[Endpoint], family: usize) -> Value {
    let kind = ["IPv4", "IPv6"][family];
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| conditions(endpoint, family)).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{}", spec.name, kind.to_lowercase()),
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": spec.name},
        },
        "addressType": kind,
        "ports": slice_ports(spec),
        "endpoints": endpoints,
    })
}

fn conditions(endpoint: &Endpoint, family: usize) -> Value {
    json!({
        "addresses": [endpoint.addresses[family]],
        "nodeName": endpoint.node,
        "targetRef": {"kind": "Pod", "name": endpoint.pod, "namespace": NAMESPACE},
        "conditions": {"ready": endpoint.ready, "serving": true, "terminating": !endpoint.ready},
    })
}

pub(crate) fn node(name: &str, addresses: Pair, pods: &[String; 2]) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": pods[0], "podCIDRs": pods},
        "status": {"addresses": addresses},
    })
}

/// Writes a file as an editor that cares does: beside it, then renamed over it. Gives the time just before the
/// rename, in microseconds since 1970: nobody can have seen the new content earlier.
pub(crate) fn write(folder: &Path, file: &str, documents: &[Value]) -> Result<u64> {
    let mut text = String::new();
    for document in documents {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(document).context("rendering YAML")?);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    write_text(folder, file, &text)
}

/// Like [`write`], for any text.
pub fn write_text(folder: &Path, file: &str, text: &str) -> Result<u64> {
    let path = folder.join(file);
    let draft = folder.join(format!(".{file}.new"));
    fs::write(&draft, text).with_context(|| format!("writing {}", draft.display()))?;
    let renamed = unix_us();
    fs::rename(&draft, &path).with_context(|| format!("renaming to {}", path.display()))?;
    Ok(renamed)
}
