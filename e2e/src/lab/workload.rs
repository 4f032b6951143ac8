//! The workload of a cluster: services and the pods behind them, and the part of Kubernetes' controllers that keeps
//! their objects true.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::address::{Pair, Plan};
use super::cluster::Cluster;
use super::manifest::{self, Endpoint, ServiceSpec};
use super::pod::{Condition, LINGER, Pod};

/// A change of a service's objects that the mesh should follow.
#[derive(Clone, Debug)]
pub struct Change {
    pub(crate) cluster: String,
    /// "namespace/name".
    pub(crate) service: String,
    /// When the manifest that tells of it was renamed into place.
    pub renamed_unix_us: u64,
}

/// The services and pods of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Workloads {
    services: BTreeMap<String, Deployed>,
    next_cluster_ip: u16,
}

#[derive(Debug)]
struct Deployed {
    spec: ServiceSpec,
    cluster_ips: Pair,
    pods: Vec<Pod>,
    /// Killed and no longer named by any object; their namespaces still refuse late callers.
    dead: Vec<Pod>,
    /// Of the next pod's name; a name is never used twice.
    next: usize,
}

impl Workloads {
    fn deployed(&self, service: &str) -> Result<&Deployed> {
        self.services.get(service).with_context(|| format!("service {service} was never applied here"))
    }

    fn deployed_mut(&mut self, service: &str) -> Result<&mut Deployed> {
        self.services.get_mut(service).with_context(|| format!("service {service} was never applied here"))
    }

    fn declare(&mut self, plan: Plan, spec: &ServiceSpec) -> Pair {
        if let Some(deployed) = self.services.get_mut(&spec.name) {
            deployed.spec = spec.clone();
            return deployed.cluster_ips;
        }
        self.next_cluster_ip += 1;
        // The first addresses of the range are left to Kubernetes' own services, as everywhere.
        let cluster_ips = plan.cluster_ip(self.next_cluster_ip + 9);
        let deployed =
            Deployed { spec: spec.clone(), cluster_ips, pods: Vec::new(), dead: Vec::new(), next: 1 };
        self.services.insert(spec.name.clone(), deployed);
        cluster_ips
    }

    /// Takes note that the processes on a node are gone.
    pub(super) fn forget_processes(&mut self, node: &str) -> Result<()> {
        let pods = self.services.values_mut().flat_map(|deployed| &mut deployed.pods);
        pods.filter(|pod| pod.node() == node).try_for_each(Pod::kill)
    }

    pub(super) fn check(&mut self) -> Result<()> {
        self.services.values_mut().flat_map(|deployed| &mut deployed.pods).try_for_each(Pod::check)
    }
}

impl Deployed {
    fn endpoints(&self) -> Vec<Endpoint> {
        let endpoint = |pod: &Pod| Endpoint {
            pod: pod.name().into(),
            node: pod.node().into(),
            addresses: pod.addresses(),
            ready: pod.condition == Condition::Ready,
        };
        self.pods.iter().map(endpoint).collect()
    }
}

impl Cluster {
    /// Declares a service and starts or ends pods until it has as many as the spec says.
    pub fn apply(&mut self, spec: &ServiceSpec) -> Result<Change> {
        let plan = self.plan();
        let cluster_ips = self.workloads.declare(plan, spec);
        let object = manifest::service(spec, cluster_ips);
        manifest::write(self.manifests(), &format!("{}.service.yaml", spec.name), &[object])?;
        self.scale(&spec.name, spec.replicas)
    }

    /// The address that clients in this cluster dial.
    pub fn cluster_ip(&self, service: &str) -> Result<Pair> {
        Ok(self.workloads.deployed(service)?.cluster_ips)
    }

    /// Where clients in this cluster dial a service: its first ClusterIP and its port.
    pub fn dial_address(&self, service: &str) -> Result<SocketAddr> {
        let deployed = self.workloads.deployed(service)?;
        Ok(SocketAddr::new(deployed.cluster_ips[0], deployed.spec.port))
    }

    pub fn pods(&self, service: &str) -> Result<&[Pod]> {
        Ok(&self.workloads.deployed(service)?.pods)
    }

    /// Starts pods, spread over the nodes, or ends the youngest ones gracefully.
    pub fn scale(&mut self, service: &str, replicas: usize) -> Result<Change> {
        let dead = std::mem::take(&mut self.workloads.deployed_mut(service)?.dead);
        dead.into_iter().try_for_each(|pod| self.remove_pod(pod))?;
        let present = self.workloads.deployed(service)?.pods.len();
        if replicas < present {
            return self.end_gracefully(service, replicas);
        }
        for _ in present..replicas {
            let pod = self.start_pod(service)?;
            self.workloads.deployed_mut(service)?.pods.push(pod);
        }
        self.write_slices(service)
    }

    fn start_pod(&mut self, service: &str) -> Result<Pod> {
        let deployed = self.workloads.deployed_mut(service)?;
        let number = deployed.next;
        deployed.next += 1;
        let index = (number - 1) % self.nodes.len().max(1);
        let mut pod = self.bare_pod(&format!("{service}-{number}"), index)?;
        pod.serve()?;
        Ok(pod)
    }

    /// A pod without a process, for clients.
    pub(super) fn bare_pod(&mut self, name: &str, node: usize) -> Result<Pod> {
        let plans = self.plans().to_vec();
        let node = self.nodes.get_mut(node).context("the cluster has no node")?;
        Pod::create(node, name, &plans)
    }

    /// The first half of a graceful end: the endpoints of the youngest pods are terminating. Their processes learn
    /// of it when the service is scaled.
    pub fn retire(&mut self, service: &str, remaining: usize) -> Result<Change> {
        let pods = &mut self.workloads.deployed_mut(service)?.pods;
        ensure!(remaining < pods.len(), "no pod of {service} to retire");
        pods[remaining..].iter_mut().for_each(|pod| pod.condition = Condition::Terminating);
        self.write_slices(service)
    }

    /// As Kubernetes does it: the endpoints are terminating and the processes are told at the same time;
    /// these go on accepting for a while; when they have ended, their endpoints go.
    fn end_gracefully(&mut self, service: &str, remaining: usize) -> Result<Change> {
        let change = self.retire(service, remaining)?;
        let mut ending = self.workloads.deployed_mut(service)?.pods.split_off(remaining);
        let ended = end(&mut ending);
        // Until now they were in the slices; whether or not all went well, they leave them.
        self.write_slices(service)?;
        ended?;
        ending.into_iter().try_for_each(|pod| self.remove_pod(pod))?;
        Ok(change)
    }

    /// Kills all pods of a service; its objects still name them.
    pub fn kill_pods(&mut self, service: &str) -> Result<()> {
        self.workloads.deployed_mut(service)?.pods.iter_mut().try_for_each(Pod::kill)
    }

    /// Kubernetes' reaction some time later: the endpoints of killed pods go. The pods' sandboxes follow when the
    /// service is scaled again.
    pub(crate) fn notice_killed_pods(&mut self, service: &str) -> Result<Change> {
        let deployed = self.workloads.deployed_mut(service)?;
        deployed.dead.append(&mut deployed.pods);
        self.write_slices(service)
    }

    fn remove_pod(&self, pod: Pod) -> Result<()> {
        let node = self.nodes.iter().find(|node| node.name() == pod.node());
        pod.remove(node.context("a pod without a node")?)
    }

    fn write_slices(&self, service: &str) -> Result<Change> {
        let deployed = self.workloads.deployed(service)?;
        let slices = manifest::slices(&deployed.spec, &deployed.endpoints());
        let renamed_unix_us =
            manifest::write(self.manifests(), &format!("{service}.endpoints.yaml"), &slices)?;
        Ok(Change { cluster: self.name().into(), service: deployed.spec.full_name(), renamed_unix_us })
    }
}

fn end(pods: &mut [Pod]) -> Result<()> {
    ensure!(!pods.is_empty(), "no pod to end");
    pods.iter().try_for_each(Pod::terminate)?;
    pods.iter_mut().try_for_each(|pod| pod.wait_end(LINGER + Duration::from_secs(10)))
}
