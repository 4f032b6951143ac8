//! What the maps hold, in the words of the admin API. Pure.

use std::collections::{BTreeMap, HashMap};

use mesh_abi::{CLUSTER_USABLE, ClusterStates, Counter, STATE_ACTIVE, STATE_QUARANTINED, STATE_TERMINATING};
use mesh_admin::api::{Backend, Group, LeftOutCluster, Service, ServiceFrontend};
use mesh_model::desired::Frontend;
use mesh_model::name::{PortName, ServiceName};

use super::names::{ClusterNames, FrontendNames};
use super::reasons::RefusedFrontend;
use super::view::View;
use crate::datapath::actual::{Actual, MirrorEntry, MirrorGroup, unmapped};
use crate::datapath::text;

/// What the maps count and say beside the mirror.
pub(super) struct Kernel {
    pub(super) counters: HashMap<u32, Counter>,
    pub(super) clusters: Option<Box<ClusterStates>>,
}

/// What is told of what stands in the maps.
pub(super) struct Known {
    pub(super) frontends: FrontendNames,
    pub(super) clusters: ClusterNames,
    pub(super) kernel: Kernel,
}

impl Known {
    fn service(&self, frontend: &Frontend) -> (Option<&ServiceName>, Option<PortName>) {
        let (service, port_name) =
            self.frontends.get(frontend).map(|(name, port)| (name, port.clone())).unzip();
        (service, port_name.flatten())
    }
}

pub(super) fn services(
    actual: &Actual,
    view: &View,
    refused: &[RefusedFrontend],
    known: &Known,
) -> Vec<Service> {
    let mut by_name: BTreeMap<Option<&ServiceName>, Vec<ServiceFrontend>> = BTreeMap::new();
    let mut unseen: BTreeMap<(Frontend, Option<&ServiceName>), &str> =
        refused.iter().map(|it| ((it.frontend, it.service.as_ref()), it.text.as_str())).collect();
    for (frontend, held) in actual.frontends() {
        let (service, port_name) = known.service(frontend);
        // The name of what was to be deleted is not known any more.
        let text = unseen.remove(&(*frontend, service)).or_else(|| unseen.remove(&(*frontend, None)));
        let groups = held.groups.iter().map(|held| group(actual, (view, frontend), held, known)).collect();
        let shown = shown(frontend, port_name, text);
        by_name.entry(service).or_default().push(ServiceFrontend {
            plain_ok: held.plain_ok(),
            groups,
            left_out: left_out(view, frontend, &known.clusters),
            ..shown
        });
    }
    // What the maps have no room for, or only for another.
    for ((frontend, service), text) in unseen {
        let port_name = known.service(&frontend).1;
        by_name.entry(service).or_default().push(shown(&frontend, port_name, Some(text)));
    }
    let services = by_name.into_iter().map(|(name, mut frontends)| {
        frontends.sort_by_key(|frontend| (frontend.address, frontend.port, frontend.protocol));
        Service { service: name.cloned(), frontends, left_out: None }
    });
    services.collect()
}

fn left_out(view: &View, frontend: &Frontend, names: &ClusterNames) -> Vec<LeftOutCluster> {
    let clusters = view.left_out.get(frontend).into_iter().flatten();
    clusters.map(|id| LeftOutCluster { cluster: names.get(id).cloned(), cluster_id: *id }).collect()
}

/// A frontend without groups.
fn shown(frontend: &Frontend, port_name: Option<PortName>, refused: Option<&str>) -> ServiceFrontend {
    ServiceFrontend {
        address: frontend.address,
        port: frontend.port,
        protocol: frontend.protocol,
        port_name,
        plain_ok: false,
        groups: Vec::new(),
        refused: refused.map(ToOwned::to_owned),
        left_out: Vec::new(),
    }
}

/// What the frontend's service calls a backend to which the maps give the best state that any service does.
fn state_for(frontend: &Frontend, view: &View, state: u32) -> u32 {
    match state {
        STATE_ACTIVE if view.terminating.contains(frontend) => STATE_TERMINATING,
        other => other,
    }
}

fn group(actual: &Actual, (view, frontend): (&View, &Frontend), held: &MirrorGroup, known: &Known) -> Group {
    let states = || actual.members(held).map(|(_, state)| state_for(frontend, view, state));
    let count = |wanted| states().filter(|state| *state == wanted).count();
    let kernel = &known.kernel;
    let counter = kernel.counters.get(&held.counter).copied().unwrap_or_default();
    let state = kernel.clusters.as_ref().map(|states| states.state[usize::from(held.cluster.value())]);
    Group {
        cluster: known.clusters.get(&held.cluster).cloned(),
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

pub(super) fn backends(
    actual: &Actual,
    view: &View,
    (frontends, clusters): (&FrontendNames, &ClusterNames),
    only: Option<&ServiceName>,
) -> Vec<Backend> {
    let named = actual
        .frontends()
        .map(|(frontend, held)| (frontend, frontends.get(frontend).map(|(name, _)| name), held));
    let wanted = named.filter(|(_, name, _)| only.is_none() || *name == only);
    let backends = wanted
        .flat_map(|(frontend, name, held)| backends_of((actual, view), clusters, (frontend, name), held));
    let mut backends: Vec<_> = backends.collect();
    backends.sort_unstable();
    backends
}

fn backends_of<'a>(
    (actual, view): (&'a Actual, &'a View),
    clusters: &'a ClusterNames,
    (frontend, service): (&'a Frontend, Option<&'a ServiceName>),
    held: &'a MirrorEntry,
) -> impl Iterator<Item = Backend> + 'a {
    held.groups.iter().flat_map(move |group| {
        actual.members(group).map(move |(key, state)| Backend {
            service: service.cloned(),
            frontend: *frontend,
            cluster: clusters.get(&group.cluster).cloned(),
            cluster_id: group.cluster,
            address: unmapped(key.address),
            port: key.port,
            state: text::state_of(state_for(frontend, view, state)),
        })
    })
}
