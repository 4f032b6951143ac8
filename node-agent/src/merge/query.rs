//! Answers to questions about the maps, in the words of the admin API.
//!
//! They are read from the kernel's maps and from what the loop has published, on the asker's thread: no number of
//! readers, however slow, delays a plan.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mesh_abi::{CLUSTER_USABLE, ClusterStates, Counter, STATE_ACTIVE, STATE_QUARANTINED, STATE_TERMINATING};
use mesh_admin::api::{Backend, Group, LeftOutCluster, Omission, Service, ServiceFrontend};
use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, PortName, ServiceName};
use mesh_source::Status;
use tokio::sync::watch;

use super::left_out::LeftOutClusters;
use super::merger::Refusal;
use super::names::{ClusterNames, FrontendNames, Names};
use super::reasons::{Evidence, RefusedFrontend};
use super::terminating::TerminatingFrontends;
use crate::admin::answers::{Answers, Unanswered};
use crate::datapath::actual::{Actual, Held, HeldGroup, unmapped};
use crate::datapath::maps::{MapError, Maps};
use crate::datapath::plan::Plan;
use crate::datapath::restore::restore;
use crate::datapath::text;

/// Lines of the last plan that are kept for `/v1/plan`.
const PLAN_LINES: usize = 1000;

/// What the loop knows and neither sources nor maps say. Published after every plan, by counted references.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Frontends that keep what they have, and why.
    pub refused: Arc<BTreeMap<Frontend, Refusal>>,
    /// Clusters that take no part in a frontend for want of room.
    pub left_out: LeftOutClusters,
    /// Frontends whose backends all terminate, whatever other services say of these backends.
    pub terminating: TerminatingFrontends,
    pub last_plan: Arc<LastPlan>,
}

/// The beginning of the plan that was written last. It is made text only where somebody asks.
#[derive(Debug, Default)]
pub struct LastPlan {
    plan: Plan,
    left_out: usize,
}

impl LastPlan {
    pub(super) fn new(mut plan: Plan) -> Self {
        let left_out = plan.truncate(PLAN_LINES);
        Self { plan, left_out }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = text::lines(&self.plan, PLAN_LINES);
        if self.left_out > 0 {
            lines.push(format!("… and {} more", self.left_out));
        }
        lines
    }
}

/// Reads the answers.
#[derive(Debug)]
pub struct Reader {
    /// Not the loop's, but the same in the kernel.
    pub maps: Maps,
    pub names: Names,
    pub view: watch::Receiver<Arc<View>>,
    /// What is wrong with the own source's objects.
    pub source: watch::Receiver<Arc<Status>>,
}

impl Reader {
    fn view(&self) -> Result<Arc<View>, Unanswered> {
        // The loop ends only when the agent does.
        if self.view.has_changed().is_err() {
            Err(Unanswered::Stopping)
        } else {
            Ok(self.view.borrow().clone())
        }
    }

    /// What a mirror would say that is restored now.
    fn actual(&self) -> Result<Actual, MapError> {
        Ok(restore(&self.maps.services.contents_in_use()?, self.maps.services.capacity()).actual)
    }

    fn left_out(
        &self,
        name: &ServiceName,
        refused: &[RefusedFrontend],
        clusters: &ClusterNames,
    ) -> Vec<Omission> {
        let local = self.names.local.borrow().clone();
        let evidence = Evidence {
            own: self.names.own.0,
            local: local.as_deref(),
            source: &self.source.borrow().clone(),
            peers: &self.names.peers.borrow().clone(),
            refused,
        };
        let all = evidence.omissions(name).into_iter();
        let named = |cluster: ClusterId| clusters.get(&cluster).cloned();
        all.map(|omission| Omission::new(omission, named)).collect()
    }

    fn kernel(&self, actual: &Actual) -> Kernel {
        let groups = actual.frontends().flat_map(|(_, held)| &held.groups);
        let ids: Vec<u32> = groups.map(|group| group.counter).filter(|counter| *counter != 0).collect();
        let counters = self.maps.services.read_counters(&ids).unwrap_or_default();
        let counters: HashMap<_, _> = ids.into_iter().zip(counters).collect();
        Kernel { counters, clusters: self.maps.clusters.read().ok() }
    }
}

impl Answers for Reader {
    fn services(&self, only: Option<&ServiceName>) -> Result<Vec<Service>, Unanswered> {
        let view = self.view()?;
        let actual = self.actual()?;
        let refused = refused(&view, &self.names);
        let known = Known {
            frontends: self.names.frontends(),
            clusters: self.names.clusters(),
            kernel: self.kernel(&actual),
        };
        let mut services = services(&actual, &view, &refused, &known);
        let Some(name) = only else { return Ok(services) };
        services.retain(|service| service.service.as_ref() == Some(name));
        let frontends = services.pop().map(|service| service.frontends).unwrap_or_default();
        let left_out = Some(self.left_out(name, &refused, &known.clusters));
        Ok(vec![Service { service: Some(name.clone()), frontends, left_out }])
    }

    fn backends(&self, only: Option<&ServiceName>) -> Result<Vec<Backend>, Unanswered> {
        let view = self.view()?;
        let names = (&self.names.frontends(), &self.names.clusters());
        Ok(backends(&self.actual()?, &view, names, only))
    }

    fn plan(&self) -> Result<Vec<String>, Unanswered> {
        Ok(self.view()?.last_plan.lines())
    }
}

/// What the maps count and say beside the mirror.
struct Kernel {
    counters: HashMap<u32, Counter>,
    clusters: Option<Box<ClusterStates>>,
}

/// What is told of what stands in the maps.
struct Known {
    frontends: FrontendNames,
    clusters: ClusterNames,
    kernel: Kernel,
}

impl Known {
    fn service(&self, frontend: &Frontend) -> (Option<&ServiceName>, Option<PortName>) {
        let (service, port_name) =
            self.frontends.get(frontend).map(|(name, port)| (name, port.clone())).unzip();
        (service, port_name.flatten())
    }
}

/// The frontends that are not as desired, whoever finds it out.
fn refused(view: &View, names: &Names) -> Vec<RefusedFrontend> {
    let refused = view.refused.iter().map(|(frontend, refusal)| RefusedFrontend {
        frontend: *frontend,
        service: refusal.service().cloned(),
        cluster: refusal.cluster(),
        reason: refusal.reason(),
        text: refusal.to_string(),
    });
    refused.chain(names.contested()).collect()
}

fn services(actual: &Actual, view: &View, refused: &[RefusedFrontend], known: &Known) -> Vec<Service> {
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

fn group(actual: &Actual, (view, frontend): (&View, &Frontend), held: &HeldGroup, known: &Known) -> Group {
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

fn backends(
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
    held: &'a Held,
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
