//! The content of the maps in the words of the admin API. Pure.

use std::collections::{BTreeMap, HashMap};

use mesh_abi::{CLUSTER_USABLE, ClusterStates, Counter, STATE_ACTIVE, STATE_QUARANTINED, STATE_TERMINATING};
use mesh_admin::api::{Backend, Group, LeftOutCluster, Service, ServiceFrontend};
use mesh_model::desired::Frontend;
use mesh_model::name::{PortName, ServiceName};

use super::names::{ClusterNames, FrontendNames};
use super::reasons::RefusedFrontend;
use super::view::View;
use crate::datapath::actual::{Actual, MirrorEntry, MirrorGroup};
use crate::datapath::text;

/// Counters and cluster states, which stand in the maps and not in the mirror.
pub(super) struct Kernel {
    pub(super) counters: HashMap<u32, Counter>,
    pub(super) clusters: Option<Box<ClusterStates>>,
}

/// Everything beyond the mirror that an answer needs.
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
    // Frontends for which the maps have no room, and those that are another service's.
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

/// The backend's state for the frontend's service. The maps hold the best state that any service gives it.
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
            address: key.address.into(),
            port: key.port,
            state: text::state_of(state_for(frontend, view, state)),
        })
    })
}

#[cfg(test)]
mod tests {
    use mesh_model::reason::Reason;

    use super::*;
    use crate::datapath::apply::apply;
    use crate::merge::history_tests::kernel::Kernel as Maps;
    use crate::merge::merger::Merger;
    use crate::merge::{merger_tests, testing};

    /// The mirror of two services, of which the second shares a backend with the first.
    fn merger() -> Merger {
        let (mut maps, mut merger) = (Maps::new(), testing::merger());
        merger.observe(Some(&testing::local(&[(1, &[1, 2]), (2, &[2])])), &testing::no_peers());
        while let Some(mut planned) = merger.next_plan() {
            apply(&mut maps, &planned.plan).unwrap();
            merger.actual_mut().written(&mut planned.plan);
        }
        merger
    }

    fn known(named: &[u8]) -> Known {
        let name = |number: &u8| (testing::frontend(*number), (merger_tests::name(*number), None));
        Known {
            frontends: named.iter().map(name).collect(),
            clusters: [(merger_tests::id(1), "hoth".parse().unwrap())].into(),
            kernel: Kernel { counters: HashMap::new(), clusters: None },
        }
    }

    #[test]
    fn services_are_shown_by_name_with_their_groups() {
        let all = services(merger().actual(), &View::default(), &[], &known(&[1, 2]));
        let names: Vec<_> = all.iter().map(|service| service.service.clone().unwrap()).collect();
        assert_eq!(names, [merger_tests::name(1), merger_tests::name(2)]);
        let [frontend] = &all[0].frontends[..] else { panic!("{all:?}") };
        let [group] = &frontend.groups[..] else { panic!("{frontend:?}") };
        assert_eq!((group.active, group.terminating, group.weight), (2, 0, 2));
        assert_eq!(group.cluster.as_ref().map(ToString::to_string).as_deref(), Some("hoth"));
        assert!(frontend.plain_ok && frontend.refused.is_none() && !group.demoted);
    }

    #[test]
    fn a_frontend_without_a_name_is_shown_and_one_without_room_too() {
        let refused = RefusedFrontend {
            frontend: testing::frontend(3),
            service: Some(merger_tests::name(3)),
            cluster: None,
            reason: Reason::NoRoom,
            text: "no room".into(),
        };
        let all = services(merger().actual(), &View::default(), &[refused], &known(&[1]));
        let names: Vec<_> = all.iter().map(|service| service.service.clone()).collect();
        assert_eq!(names, [None, Some(merger_tests::name(1)), Some(merger_tests::name(3))]);
        let [frontend] = &all[2].frontends[..] else { panic!("{all:?}") };
        assert_eq!((frontend.refused.as_deref(), frontend.groups.len()), (Some("no room"), 0));
    }

    #[test]
    fn demoted_clusters_and_counts_come_from_the_maps() {
        let merger = merger();
        let mut known = known(&[1, 2]);
        let counter = merger.actual().held(&testing::frontend(1)).unwrap().groups[0].counter;
        known.kernel.counters.insert(counter, Counter { connections: 7, last_resort: 3 });
        let mut states = ClusterStates { state: [CLUSTER_USABLE; mesh_abi::MAX_CLUSTERS] };
        states.state[1] = mesh_abi::CLUSTER_DEMOTED;
        known.kernel.clusters = Some(Box::new(states));
        let all = services(merger.actual(), &View::default(), &[], &known);
        let group = &all[0].frontends[0].groups[0];
        assert_eq!((group.connections, group.last_resort, group.demoted), (7, 3, true));
    }

    #[test]
    fn a_backend_has_the_state_that_its_own_service_gives_it() {
        let merger = merger();
        let names = known(&[1, 2]);
        let view =
            View { terminating: std::sync::Arc::new([testing::frontend(2)].into()), ..View::default() };
        let rows = |only: Option<&ServiceName>| {
            let all = backends(merger.actual(), &view, (&names.frontends, &names.clusters), only);
            all.iter().map(|row| (row.address.to_string(), row.state)).collect::<Vec<_>>()
        };
        use mesh_admin::api::BackendState::{Active, Terminating};
        let first = [("10.1.0.1".to_owned(), Active), ("10.1.0.2".to_owned(), Active)];
        assert_eq!(rows(Some(&merger_tests::name(1))), first);
        assert_eq!(rows(Some(&merger_tests::name(2))), [("10.1.0.2".to_owned(), Terminating)]);
        assert_eq!(rows(None).len(), 3);
    }
}
