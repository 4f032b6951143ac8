//! One global service over all clusters, as clients of this cluster shall see it.
//!
//! The client's own cluster decides on addresses, ports and affinity; the others only add backends. A pure
//! function of its input: the order of peers, slices and endpoints never matters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::address::Address;
use crate::desired::{BackendState, DesiredBackend, DesiredService, Frontend, MAX_GROUPS};
use crate::name::{ClusterId, ServiceName};
pub use crate::ports::match_ports;
use crate::ports::targets;
use crate::select::{Candidate, Choice};
use crate::snapshot::{Service, ServicePort};
use crate::view::PeerService;

/// What a merge looks at.
pub struct Merge<'a> {
    pub own: ClusterId,
    /// Something else (kube-proxy) serves the frontends too.
    pub plain_ok_allowed: bool,
    pub name: &'a ServiceName,
    pub local: &'a Service,
    /// The service at the synced peers that have it, in any order, each peer once.
    pub peers: &'a [(ClusterId, Arc<PeerService>)],
    /// Groups that restored maps hold of clusters that are not synced yet. A synced peer, even if it does
    /// not have the service, must not be among them. The own cluster's is added to what it says: not all of that can
    /// be read.
    pub carried: &'a dyn Fn(&Frontend) -> Vec<CarriedGroup>,
}

/// A group that the maps hold of a cluster that is not synced yet, or not completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedGroup {
    pub cluster: ClusterId,
    pub weight: u32,
    pub backends: Vec<DesiredBackend>,
}

/// What a merge gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// One per ClusterIP and port, in that order.
    pub services: Vec<(Frontend, DesiredService)>,
    /// What is not in it, and why.
    pub left_out: Vec<LeftOut>,
}

/// Something that a merge had no use for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum LeftOut {
    #[error(
        "cluster {cluster} takes no part in port {port_name:?} ({port}/{protocol}): its Service exposes no port \
         of that name, nor one of that protocol and number",
        port_name = port.name.as_ref().map_or("", |name| name.as_str()), port = port.port, protocol = port.protocol
    )]
    Port { cluster: ClusterId, port: ServicePort },
    #[error(
        "{} clusters take no part in {address} port {port}/{protocol}: a frontend has room for {MAX_GROUPS}",
        clusters.len(), address = frontend.address, port = frontend.port, protocol = frontend.protocol
    )]
    Groups { frontend: Frontend, clusters: Vec<ClusterId> },
}

/// Merges one service. Nothing comes of a local Service without ClusterIPs, nor of one whose connections must not
/// leave the node.
pub fn merge(input: &Merge<'_>) -> Vec<(Frontend, DesiredService)> {
    merge_reported(input).services
}

/// The same, with what was left out.
pub fn merge_reported(input: &Merge<'_>) -> Merged {
    let mut merged = Merged::default();
    if frontends(input.local).next().is_none() {
        return merged;
    }
    let peers = input.peers.iter().filter(|(cluster, _)| *cluster != input.own);
    let mut offers = Vec::new();
    for (cluster, service) in peers {
        let ports = match_ports(&input.local.ports, service.ports());
        let unmatched = input.local.ports.iter().zip(&ports).filter(|(_, remote)| remote.is_none());
        let left_out = unmatched.map(|(port, _)| LeftOut::Port { cluster: *cluster, port: port.clone() });
        merged.left_out.extend(left_out);
        offers.push((*cluster, service, targets(&ports, service.slices().iter().map(|slice| slice.ports()))));
    }
    let own_ports: Vec<Option<&ServicePort>> = input.local.ports.iter().map(Some).collect();
    let own_targets = targets(&own_ports, input.local.slices.values().map(|slice| slice.ports.as_slice()));
    for (frontend, index) in frontends(input.local) {
        let mut candidates = BTreeMap::new();
        let listen = own_targets.iter().map(|targets| targets[index]);
        candidates.insert(input.own, local_candidate(input.local, listen, &frontend));
        for (cluster, service, targets) in &offers {
            let listen = targets.iter().map(|targets| targets[index]);
            offer(&mut candidates, *cluster, peer_backends(service, listen, &frontend));
        }
        merged.add(input, frontend, &input.local.ports[index], candidates);
    }
    merged.left_out.sort_unstable();
    merged
}

/// What clients dial for a Service, each with the index of its port. Nothing where connections must not leave the node.
pub fn frontends(local: &Service) -> impl Iterator<Item = (Frontend, usize)> + '_ {
    let addresses = local.cluster_ips.iter().filter(|_| !local.node_local);
    addresses.flat_map(|address| {
        local.ports.iter().enumerate().map(|(index, port)| {
            (Frontend { address: *address, port: port.port, protocol: port.protocol }, index)
        })
    })
}

impl Merged {
    fn add(
        &mut self,
        input: &Merge<'_>,
        frontend: Frontend,
        port: &ServicePort,
        mut candidates: BTreeMap<ClusterId, Candidate>,
    ) {
        for group in (input.carried)(&frontend) {
            let synced = input.peers.iter().any(|(cluster, _)| *cluster == group.cluster);
            if group.cluster == input.own {
                offer(&mut candidates, input.own, group.backends.into_iter());
            } else if !synced {
                candidates.insert(group.cluster, Candidate::new(group.backends, Some(group.weight)));
            }
        }
        let own_ready = candidates.get(&input.own).is_some_and(Candidate::has_active);
        let choice = Choice { affinity: input.local.scope.affinity, own: input.own, service: input.name };
        let selected = choice.select(candidates);
        if !selected.left_out.is_empty() {
            self.left_out.push(LeftOut::Groups { frontend, clusters: selected.left_out });
        }
        let desired = DesiredService {
            service: input.name.clone(),
            port_name: port.name.clone(),
            plain_ok: input.plain_ok_allowed && own_ready,
            groups: selected.groups,
        };
        self.services.push((frontend, desired));
    }
}

/// Adds what a cluster offers. A cluster given twice counts as one with both's backends.
fn offer(
    candidates: &mut BTreeMap<ClusterId, Candidate>,
    cluster: ClusterId,
    backends: impl Iterator<Item = DesiredBackend>,
) {
    candidates.entry(cluster).or_default().extend(backends);
}

fn same_family(address: Address, frontend: &Frontend) -> bool {
    address.is_ipv4() == frontend.address.is_ipv4()
}

/// The own cluster's backends, by where each slice listens, without those that topology hints keep from this node's clients. The cluster's share
/// of connections is that of all of them.
fn local_candidate(
    local: &Service,
    listen: impl Iterator<Item = Option<u16>>,
    frontend: &Frontend,
) -> Candidate {
    let (mut near, mut active, mut all_near) = (Vec::new(), BTreeSet::new(), true);
    for (slice, target) in local.slices.values().zip(listen) {
        let Some(target) = target else { continue };
        for endpoint in slice.endpoints.iter().filter(|it| same_family(it.address, frontend)) {
            let Some(backend) = endpoint.serving().map(|endpoint| endpoint.at(target)) else { continue };
            if backend.state == BackendState::Active {
                active.insert((backend.address, backend.port));
            }
            if endpoint.hinted_away {
                all_near = false;
            } else {
                near.push(backend);
            }
        }
    }
    let weight = (!all_near).then(|| u32::try_from(active.len().max(1)).unwrap_or(u32::MAX));
    Candidate::new(near, weight)
}

fn peer_backends<'a>(
    service: &'a PeerService,
    listen: impl Iterator<Item = Option<u16>> + 'a,
    frontend: &'a Frontend,
) -> impl Iterator<Item = DesiredBackend> + 'a {
    let slices = service.slices().iter().zip(listen);
    let targets = slices.filter_map(|(slice, target)| Some((slice, target?)));
    targets.flat_map(move |(slice, target)| {
        let here = slice.endpoints().filter(|endpoint| same_family(endpoint.address, frontend));
        here.map(move |endpoint| endpoint.at(target))
    })
}
