//! Finds what has to be planned: compares what the sources say now with what they said before, merges the
//! services that differ, and plans them against the mirror of the maps.
//!
//! Pure: reads no clock, writes no map. A full pass is the incremental one with every service dirty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use mesh_model::change;
use mesh_model::desired::{DesiredService, Frontend};
use mesh_model::merge::{CarriedGroup, Merge, frontends, merge};
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::snapshot::{ClusterSnapshot, Service};
use mesh_model::view::PeerService;

use super::claims::{Claims, GivenUp};
use crate::datapath::actual::Actual;
use crate::datapath::plan::{Plan, Shortage};

/// Services per plan: bounds the memory of a plan and the time until its first write.
const SERVICES_PER_PLAN: usize = 1024;

type PeerServices = OrdMap<ServiceName, Arc<PeerService>>;

/// What the peers say.
#[derive(Clone, Debug, Default)]
pub struct PeerInputs {
    /// Ids that a peer file claims, whatever became of the peer; none while the folder has not been read
    /// completely, and then any cluster may be a peer.
    pub claimed: Option<BTreeSet<ClusterId>>,
    /// The peers of which everything is known.
    pub synced: BTreeMap<ClusterId, PeerServices>,
}

impl PeerInputs {
    /// Whether everything is known of every peer that there is.
    pub fn have_all_spoken(&self) -> bool {
        let spoke = |id: &ClusterId| self.synced.contains_key(id);
        self.claimed.as_ref().is_some_and(|claimed| claimed.iter().all(spoke))
    }

    /// Whether what the maps hold of a cluster stays until the cluster has spoken.
    fn carries(&self, own: ClusterId, cluster: ClusterId) -> bool {
        let may_be_a_peer = self.claimed.as_ref().is_none_or(|claimed| claimed.contains(&cluster));
        cluster != own && may_be_a_peer && !self.synced.contains_key(&cluster)
    }
}

/// What a plan is about.
#[derive(Debug)]
pub struct Planned {
    pub plan: Plan,
    pub services: Vec<ServiceName>,
}

/// What the sources said at one time.
#[derive(Clone, Debug)]
struct Observed {
    local: Arc<ClusterSnapshot>,
    peers: PeerInputs,
}

impl Observed {
    /// The service at the peers that have it.
    fn offers(&self, name: &ServiceName) -> Vec<(ClusterId, Arc<PeerService>)> {
        let peers = self.peers.synced.iter();
        peers.filter_map(|(id, services)| Some((*id, services.get(name)?.clone()))).collect()
    }

    /// Whether the same clusters have a say.
    fn hears_whom(&self, other: &Self) -> bool {
        self.peers.claimed == other.peers.claimed && self.peers.synced.keys().eq(other.peers.synced.keys())
    }
}

/// The state between two passes.
#[derive(Debug)]
pub struct Merger {
    own: ClusterId,
    plain_ok_allowed: bool,
    actual: Actual,
    local: Option<Arc<ClusterSnapshot>>,
    peers: PeerInputs,
    dirty: BTreeSet<ServiceName>,
    /// What all was last planned from.
    planned: Option<Observed>,
    /// Services that were planned since, from something newer.
    replanned: BTreeSet<ServiceName>,
    claims: Claims,
    /// The maps may hold frontends of services that no longer exist.
    sweep: bool,
    /// Frontends that keep what they have, and why.
    refused: BTreeMap<Frontend, Refusal>,
}

/// Why a frontend is not as desired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{shortage}")]
    Shortage { service: ServiceName, shortage: Shortage },
    #[error(
        "the frontend belongs to service {owner}, which comes first by name: give one of the two another ClusterIP"
    )]
    Contested { service: ServiceName, owner: ServiceName },
}

impl Refusal {
    fn service(&self) -> &ServiceName {
        match self {
            Self::Shortage { service, .. } | Self::Contested { service, .. } => service,
        }
    }
}

impl Merger {
    /// Begins with what the maps hold. `plain_ok_allowed`: something else serves the frontends when nobody
    /// translates them.
    pub fn new(own: ClusterId, plain_ok_allowed: bool, actual: Actual) -> Self {
        Self {
            own,
            plain_ok_allowed,
            actual,
            local: None,
            peers: PeerInputs::default(),
            dirty: BTreeSet::new(),
            planned: None,
            replanned: BTreeSet::new(),
            claims: Claims::default(),
            sweep: true,
            refused: BTreeMap::new(),
        }
    }

    /// The mirror was restored from the maps: everything is planned again.
    pub fn restart(&mut self, actual: Actual) {
        let Self { own, plain_ok_allowed, .. } = *self;
        let (local, peers) = (self.local.take(), std::mem::take(&mut self.peers));
        *self = Self::new(own, plain_ok_allowed, actual);
        if let Some(local) = local {
            self.observe(Some(&local), &peers);
        }
    }

    pub fn actual(&self) -> &Actual {
        &self.actual
    }

    pub fn peers(&self) -> &PeerInputs {
        &self.peers
    }

    /// For the canary and for releases, which are no services.
    pub fn actual_mut(&mut self) -> &mut Actual {
        &mut self.actual
    }

    pub fn refused(&self) -> &BTreeMap<Frontend, Refusal> {
        &self.refused
    }

    /// Whether the own source has spoken; before that nothing is planned.
    pub fn has_local(&self) -> bool {
        self.local.is_some()
    }

    /// Whether everything observed is planned.
    pub fn is_settled(&self) -> bool {
        self.has_local() && self.dirty.is_empty() && !self.sweep
    }

    /// Takes note of what the sources say now.
    pub fn observe(&mut self, local: Option<&Arc<ClusterSnapshot>>, peers: &PeerInputs) {
        let Some(local) = local else { return };
        match self.local.take() {
            Some(before) if Arc::ptr_eq(&before, local) => {}
            Some(before) => self.mark_changed(&before.services, &local.services),
            None => self.dirty.extend(local.services.keys().cloned()),
        }
        self.local = Some(local.clone());
        self.mark_forgotten(peers);
        let before = std::mem::replace(&mut self.peers, peers.clone());
        let ids: BTreeSet<_> = before.synced.keys().chain(peers.synced.keys()).collect();
        let nothing = PeerServices::new();
        for id in ids {
            let side = |inputs: &PeerInputs| inputs.synced.get(id).unwrap_or(&nothing).clone();
            self.mark_changed(&side(&before), &side(peers));
        }
    }

    /// The next plan; none when everything observed is planned. The mirror is as if it were carried out.
    pub fn next_plan(&mut self) -> Option<Planned> {
        let now = Observed { local: self.local.clone()?, peers: self.peers.clone() };
        let mut services = Vec::new();
        let (mut plan, mut changes) = (Plan::default(), BTreeMap::new());
        while services.len() < SERVICES_PER_PLAN {
            let Some(name) = self.dirty.pop_first() else { break };
            if !self.plan_difference(&now, &name, &mut plan) {
                self.merge_one(&now, &name, &mut changes);
            }
            self.replanned.insert(name.clone());
            services.push(name);
        }
        if services.is_empty() {
            if !std::mem::take(&mut self.sweep) {
                self.planned = Some(now);
                self.replanned.clear();
                return None;
            }
            let unowned = self.actual.frontends().map(|(frontend, _)| *frontend);
            changes.extend(unowned.filter(|f| self.claims.owner(f).is_none()).map(|f| (f, None)));
        }
        self.actual.plan_into(&changes.into_iter().collect::<Vec<_>>(), &mut plan);
        for (frontend, shortage) in &plan.refused {
            if let Some(service) = self.claims.owner(frontend).cloned() {
                self.refused.insert(*frontend, Refusal::Shortage { service, shortage: *shortage });
            }
        }
        Some(Planned { plan, services })
    }

    /// A grace period has passed and room was made: what found none is tried again.
    pub fn released(&mut self) {
        let waiting = self.refused.values().filter(|refusal| matches!(refusal, Refusal::Shortage { .. }));
        self.dirty.extend(waiting.map(|refusal| refusal.service().clone()));
    }

    /// Plans what is different about a service since it was last planned, if that can be told from the difference.
    fn plan_difference(&mut self, now: &Observed, name: &ServiceName, plan: &mut Plan) -> bool {
        let changes = self.differences(now, name);
        changes.is_some_and(|changes| changes.iter().all(|change| self.actual.plan_change(change, plan)))
    }

    fn differences(&self, now: &Observed, name: &ServiceName) -> Option<Vec<change::GroupChange>> {
        let before = self.planned.as_ref().filter(|planned| planned.hears_whom(now))?;
        let (old, local) = (before.local.services.get(name)?, now.local.services.get(name)?);
        let is_held = |frontend: &Frontend| {
            self.claims.owner(frontend) == Some(name) && self.actual.owner(frontend) == Some(name)
        };
        let as_planned = Arc::ptr_eq(old, local)
            && !self.replanned.contains(name)
            && frontends(local).all(|(frontend, _)| is_held(&frontend))
            && !self.refused.values().any(|refusal| refusal.service() == name);
        if !as_planned {
            return None;
        }
        let carried = |frontend: &Frontend| self.carried(frontend);
        let (old, new) = (before.offers(name), now.offers(name));
        let input = |peers| self.input((name, local.as_ref()), peers, &carried);
        change::changes(&input(&old), &input(&new))
    }

    /// What the maps hold of clusters that have not spoken.
    fn carried(&self, frontend: &Frontend) -> Vec<CarriedGroup> {
        self.actual.carried(frontend, |cluster| self.peers.carries(self.own, cluster))
    }

    fn input<'a>(
        &self,
        (name, local): (&'a ServiceName, &'a Service),
        peers: &'a [(ClusterId, Arc<PeerService>)],
        carried: &'a dyn Fn(&Frontend) -> Vec<CarriedGroup>,
    ) -> Merge<'a> {
        Merge { own: self.own, plain_ok_allowed: self.plain_ok_allowed, name, local, peers, carried }
    }

    fn merge_one(
        &mut self,
        now: &Observed,
        name: &ServiceName,
        changes: &mut BTreeMap<Frontend, Option<DesiredService>>,
    ) {
        let merged = now.local.services.get(name).map(|service| {
            let carried = |frontend: &Frontend| self.carried(frontend);
            merge(&self.input((name, service), &now.offers(name), &carried))
        });
        let merged = merged.unwrap_or_default();
        self.refused.retain(|_, refusal| refusal.service() != name);
        let wanted = merged.iter().map(|(frontend, _)| *frontend).collect();
        for given_up in self.claims.update(name, wanted) {
            match given_up {
                GivenUp::Nobody(frontend) => {
                    changes.insert(frontend, None);
                }
                GivenUp::To(heir) => {
                    self.dirty.insert(heir);
                }
            }
        }
        for (frontend, desired) in merged {
            match self.claims.owner(&frontend) {
                Some(owner) if owner != name => {
                    let refusal = Refusal::Contested { service: name.clone(), owner: owner.clone() };
                    self.refused.entry(frontend).or_insert(refusal);
                }
                _ => {
                    changes.insert(frontend, Some(desired));
                }
            }
        }
    }

    fn mark_changed<V: PartialEq>(
        &mut self,
        before: &OrdMap<ServiceName, V>,
        after: &OrdMap<ServiceName, V>,
    ) {
        for item in before.diff(after) {
            let (DiffItem::Add(name, _)
            | DiffItem::Remove(name, _)
            | DiffItem::Update { new: (name, _), .. }) = item;
            let here = self.local.as_ref().is_none_or(|local| local.services.contains_key(name));
            if here || self.claims.knows(name) {
                self.dirty.insert(name.clone());
            }
        }
    }

    /// Marks the services that carry groups of clusters that are carried no longer: they have spoken, or no
    /// peer file claims them.
    fn mark_forgotten(&mut self, peers: &PeerInputs) {
        let before = &self.peers;
        if before.claimed == peers.claimed && before.synced.keys().eq(peers.synced.keys()) {
            return;
        }
        let forgotten =
            |cluster: ClusterId| self.peers.carries(self.own, cluster) && !peers.carries(self.own, cluster);
        let frontends = self.actual.frontends();
        let stale = frontends.filter(|(_, held)| held.groups.iter().any(|group| forgotten(group.cluster)));
        let owners = stale.filter_map(|(frontend, _)| self.claims.owner(frontend).cloned());
        let owners: Vec<_> = owners.collect();
        self.dirty.extend(owners);
    }
}
