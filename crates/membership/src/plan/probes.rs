//! Whether clusters reach each other: who dials whom, and what it means when nobody answers.

use mesh_admin::cluster::{Probe, ProbeRequest};
use mesh_model::name::ClusterName;

use super::{Finding, Member, pairs};

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The endpoints that stand in the peer file.
    MeshApi,
    /// From an apiserver's pod to one of the other cluster.
    Pods,
}

/// A question to one cluster: do you reach the other?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeOrder {
    /// Who dials.
    pub from: ClusterName,
    pub way: Way,
    pub request: ProbeRequest,
}

/// Every direction between members that say where they are.
pub fn probes(members: &[Member]) -> Vec<ProbeOrder> {
    pairs(members)
        .flat_map(|(from, to)| {
            let pods = to.cluster.pod_endpoint.iter().cloned().collect();
            [order(from, to, Way::MeshApi, to.cluster.endpoints.clone()), order(from, to, Way::Pods, pods)]
        })
        .flatten()
        .collect()
}

fn order(from: &Member, to: &Member, way: Way, endpoints: Vec<String>) -> Option<ProbeOrder> {
    let trust = to.cluster.trust.clone()?;
    let request = ProbeRequest { name: to.name().clone(), endpoints, trust };
    let asked = !request.endpoints.is_empty();
    asked.then(|| ProbeOrder { from: from.name().clone(), way, request })
}

/// What the answers mean.
pub fn judge(order: &ProbeOrder, probes: &[Probe]) -> Option<Finding> {
    let failed: Vec<String> = probes
        .iter()
        .filter_map(|probe| probe.error.as_ref().map(|error| format!("{}: {error}", probe.endpoint)))
        .collect();
    let (from, to) = (&order.from, &order.request.name);
    let told = failed.join("; ");
    match order.way {
        _ if failed.is_empty() => None,
        Way::Pods => Some(Finding::error(
            &[from, to],
            format!("a pod of {from} does not reach a pod of {to}: {told}"),
            "route the clusters' pod networks to each other and allow it in firewalls and network policies; \
             --no-probe joins nevertheless",
        )),
        Way::MeshApi if failed.len() == probes.len() => Some(Finding::error(
            &[from, to],
            format!("{from} does not reach the mesh API of {to}: {told}"),
            format!(
                "make an endpoint of {to} reachable from the nodes of {from}, or name one that is with \
                 --endpoint {to}=https://HOST:PORT; --no-probe joins nevertheless"
            ),
        )),
        Way::MeshApi => Some(Finding::warning(
            &[from, to],
            format!("{from} reaches the mesh API of {to} at some endpoints only: {told}"),
            "nothing has to be done where another endpoint is enough",
        )),
    }
}
