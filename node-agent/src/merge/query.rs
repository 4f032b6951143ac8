//! Answers to questions about the maps, in the words of the admin API.

use std::collections::{BTreeMap, HashMap};

use mesh_abi::{CLUSTER_USABLE, ClusterStates, Counter, STATE_ACTIVE, STATE_QUARANTINED, STATE_TERMINATING};
use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, ClusterName, ServiceName};
use tokio::sync::oneshot;

use super::merger::Merger;
use crate::admin::api::{
    Backend, BackendState, Group, NamedCluster, NamedFrontend, Names, Service, ServiceFrontend,
};
use crate::datapath::actual::{Actual, Held, HeldGroup, unmapped};

/// A question to the merge loop, which owns the answer.
#[derive(Debug)]
pub enum Query {
    Services(oneshot::Sender<Vec<Service>>),
    /// Those of one service, or of all.
    Backends(Option<ServiceName>, oneshot::Sender<Vec<Backend>>),
    /// The last plan, one line per write.
    Plan(oneshot::Sender<Vec<String>>),
}

/// Names by cluster id, the own cluster's among them.
pub type ClusterNames = BTreeMap<ClusterId, ClusterName>;

/// What the maps count and say beside the mirror.
pub(super) struct Kernel {
    pub counters: HashMap<u32, Counter>,
    pub clusters: Option<Box<ClusterStates>>,
}

pub(super) fn services(merger: &Merger, names: &ClusterNames, kernel: &Kernel) -> Vec<Service> {
    let mut by_name: BTreeMap<Option<&ServiceName>, Vec<ServiceFrontend>> = BTreeMap::new();
    for (frontend, held) in merger.actual().frontends() {
        let groups = held.groups.iter().map(|held| group(merger.actual(), held, names, kernel));
        by_name.entry(held.service.as_ref()).or_default().push(ServiceFrontend {
            address: frontend.address,
            port: frontend.port,
            protocol: frontend.protocol,
            port_name: held.port_name.clone(),
            plain_ok: held.plain_ok(),
            groups: groups.collect(),
            refused: merger.refused().get(frontend).map(ToString::to_string),
        });
    }
    let services = by_name.into_iter().map(|(name, mut frontends)| {
        frontends.sort_by_key(|frontend| (frontend.address, frontend.port, frontend.protocol));
        Service { service: name.cloned(), frontends }
    });
    services.collect()
}

fn group(actual: &Actual, held: &HeldGroup, names: &ClusterNames, kernel: &Kernel) -> Group {
    let count = |wanted| actual.members(held).filter(|(_, state)| *state == wanted).count();
    let counter = kernel.counters.get(&held.counter).copied().unwrap_or_default();
    let state = kernel.clusters.as_ref().map(|states| states.state[usize::from(held.cluster.value())]);
    Group {
        cluster: names.get(&held.cluster).cloned(),
        cluster_id: held.cluster,
        tier: held.tier,
        weight: held.weight,
        demoted: state.is_some_and(|state| state != CLUSTER_USABLE),
        active: count(STATE_ACTIVE),
        terminating: count(STATE_TERMINATING),
        quarantined: count(STATE_QUARANTINED),
        connections: counter.connections,
        last_resort: counter.last_resort,
    }
}

pub(super) fn backends(actual: &Actual, names: &ClusterNames, only: Option<&ServiceName>) -> Vec<Backend> {
    let wanted = actual.frontends().filter(|(_, held)| only.is_none() || held.service.as_ref() == only);
    let mut backends: Vec<_> =
        wanted.flat_map(|(frontend, held)| backends_of(actual, names, frontend, held)).collect();
    backends.sort_unstable();
    backends
}

fn backends_of<'a>(
    actual: &'a Actual,
    names: &'a ClusterNames,
    frontend: &'a Frontend,
    held: &'a Held,
) -> impl Iterator<Item = Backend> + 'a {
    held.groups.iter().flat_map(move |group| {
        actual.members(group).map(move |(key, state)| Backend {
            service: held.service.clone(),
            frontend: *frontend,
            cluster: names.get(&group.cluster).cloned(),
            cluster_id: group.cluster,
            address: unmapped(key.address),
            port: key.port,
            state: state_of(state),
        })
    })
}

/// The word for a `STATE_…` constant.
pub fn state_of(state: u32) -> BackendState {
    match state {
        STATE_ACTIVE => BackendState::Active,
        STATE_TERMINATING => BackendState::Terminating,
        STATE_QUARANTINED => BackendState::Quarantined,
        _ => BackendState::Free,
    }
}

/// The content of the names file.
pub(super) fn names(actual: &Actual, clusters: &ClusterNames) -> Names {
    let clusters = clusters.iter().map(|(id, name)| NamedCluster { id: *id, name: name.clone() });
    let frontends = actual.frontends().filter_map(|(frontend, held)| {
        let service = held.service.clone()?;
        Some(NamedFrontend { frontend: *frontend, service, port_name: held.port_name.clone() })
    });
    let mut frontends: Vec<_> = frontends.collect();
    frontends.sort_by(|a, b| (&a.service, a.frontend).cmp(&(&b.service, b.frontend)));
    Names { clusters: clusters.collect(), frontends }
}
