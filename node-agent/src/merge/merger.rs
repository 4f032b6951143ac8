//! Finds what has to be planned: compares what the sources say now with what they said before, merges the
//! services that differ, and plans them against the mirror of the maps.
//!
//! Pure: reads no clock, writes no map. A full pass is the incremental one with every service dirty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_model::change;
use mesh_model::desired::{DesiredService, Frontend};
use mesh_model::merge::{CarriedGroup, Merge, Merged, frontends, merge_reported};
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::snapshot::{ClusterSnapshot, Service, Unread};
use mesh_model::view::PeerService;

use super::claims::{Claims, GivenUp};
use super::inherited::Inherited;
pub use super::inputs::PeerInputs;
use super::inputs::{Observed, PeerServices};
use super::left_out::{self, LeftOutClusters};
pub use super::refusal::Refusal;
use super::refusal::Refusals;
use super::terminating::{self, TerminatingFrontends};
use crate::datapath::actual::Actual;
use crate::datapath::plan::Plan;
use crate::quota::QuotaArgs;

/// Services per plan: bounds the memory of a plan and the time until its first write.
const SERVICES_PER_PLAN: usize = 1024;

/// What a plan is about.
#[derive(Debug)]
pub struct Planned {
    pub plan: Plan,
    pub services: Vec<ServiceName>,
}

/// The state between two passes.
#[derive(Debug)]
pub struct Merger {
    pub(super) own: ClusterId,
    plain_ok_allowed: bool,
    pub(super) actual: Actual,
    pub(super) local: Option<Arc<ClusterSnapshot>>,
    pub(super) peers: PeerInputs,
    pub(super) dirty: BTreeSet<ServiceName>,
    /// What all was last planned from.
    planned: Option<Observed>,
    /// Services that were planned since, from something newer.
    pub(super) replanned: BTreeSet<ServiceName>,
    pub(super) claims: Claims,
    /// The maps may hold frontends of services that no longer exist.
    sweep: bool,
    /// Frontends that keep what they have, and why.
    refused: Refusals,
    /// Frontends that are not planned for the time being, because a write failed.
    held_back: BTreeSet<Frontend>,
    inherited: Inherited,
    left_out: LeftOutClusters,
    terminating: TerminatingFrontends,
    quotas: QuotaArgs,
}

impl Merger {
    /// Begins with what the maps hold. `plain_ok_allowed`: something else serves the frontends when nobody
    /// translates them.
    pub fn new(own: ClusterId, plain_ok_allowed: bool, actual: Actual) -> Self {
        Self {
            own,
            plain_ok_allowed,
            inherited: Inherited::of(&actual),
            actual,
            local: None,
            peers: PeerInputs::default(),
            dirty: BTreeSet::new(),
            planned: None,
            replanned: BTreeSet::new(),
            claims: Claims::default(),
            sweep: true,
            refused: Arc::default(),
            held_back: BTreeSet::new(),
            left_out: LeftOutClusters::default(),
            terminating: TerminatingFrontends::default(),
            quotas: QuotaArgs::default(),
        }
    }

    /// Bounds what each peer may have in the maps.
    pub fn with_quotas(self, quotas: QuotaArgs) -> Self {
        Self { quotas, ..self }
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

    /// Shared with those who show it.
    pub(super) fn refused(&self) -> &Refusals {
        &self.refused
    }

    /// Who takes no part for want of room. Shared with those who show it.
    pub fn left_out(&self) -> &LeftOutClusters {
        &self.left_out
    }

    /// Whose backends all terminate. Shared with those who show it.
    pub(super) fn terminating(&self) -> &TerminatingFrontends {
        &self.terminating
    }

    /// How many frontends are not as desired.
    pub fn refused_count(&self) -> usize {
        self.refused.len() + self.claims.contested()
    }

    /// Whether the own source is synced; before that nothing is planned.
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
            Some(before) => {
                self.mark_changed(&before.services, &local.services);
                if before.unread != local.unread {
                    self.dirty.extend(local.services.keys().cloned());
                    self.sweep = true;
                }
            }
            None => self.dirty.extend(local.services.keys().cloned()),
        }
        self.local = Some(local.clone());
        self.mark_forgotten(peers);
        self.mark_disallowed(peers);
        self.bound(peers);
        self.mark_read(peers);
        let before = std::mem::replace(&mut self.peers, peers.clone());
        let ids: BTreeSet<_> = before.synced.keys().chain(peers.synced.keys()).collect();
        let nothing = PeerServices::new();
        for id in ids {
            let side = |inputs: &PeerInputs| inputs.synced.get(id).unwrap_or(&nothing).clone();
            self.mark_changed(&side(&before), &side(peers));
        }
    }

    /// The number of peers is that of their files, the same on every node. While the folder can't be read it stays.
    fn bound(&mut self, peers: &PeerInputs) {
        if let Some(claimed) = &peers.claimed {
            let share = self.quotas.while_rewriting(self.actual.capacity(), claimed.len());
            self.actual.bound_peers(self.own, share);
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
            let stays = |frontend: &Frontend| {
                self.inherited.may_be_served(frontend, self.actual.owner(frontend), &now.local.unread)
            };
            let unowned = self.actual.frontends().map(|(frontend, _)| *frontend);
            let unowned = unowned.filter(|frontend| self.claims.owner(frontend).is_none());
            changes.extend(unowned.filter(|frontend| !stays(frontend)).map(|frontend| (frontend, None)));
        }
        changes.retain(|frontend, _| !self.held_back.contains(frontend));
        self.forgive(|frontend, refusal| refusal.is_failure() && changes.contains_key(frontend));
        let changes: Vec<_> = changes.into_iter().collect();
        self.actual.plan_into(&changes, &mut plan);
        let merged = changes.iter().map(|(frontend, _)| frontend);
        terminating::update(&mut self.terminating, merged, &self.actual);
        for (frontend, shortage) in &plan.refused {
            if let Some(service) = self.claims.owner(frontend).cloned() {
                Arc::make_mut(&mut self.refused)
                    .insert(*frontend, Refusal::Shortage { service, shortage: *shortage });
            }
        }
        Some(Planned { plan, services })
    }

    /// A grace period has passed and room was made: what found none is tried again.
    pub fn released(&mut self) {
        let waiting = self.refused.values().filter(|refusal| refusal.is_shortage());
        self.dirty.extend(waiting.filter_map(|refusal| refusal.service().cloned()));
    }

    /// A write of the frontend failed: it is not planned before [`Self::retry`].
    pub fn failed(&mut self, frontend: Frontend, reason: String) {
        let service = self.claims.owner(&frontend).cloned();
        Arc::make_mut(&mut self.refused).insert(frontend, Refusal::Failed { service, reason });
        self.held_back.insert(frontend);
    }

    /// Whoever shows the refusals keeps those of before; nothing is copied where all stand.
    fn forgive(&mut self, over: impl Fn(&Frontend, &Refusal) -> bool) {
        if self.refused.iter().any(|(frontend, refusal)| over(frontend, refusal)) {
            Arc::make_mut(&mut self.refused).retain(|frontend, refusal| !over(frontend, refusal));
        }
    }

    /// How many frontends wait for room in a map that is full, whoever has filled it.
    pub fn shortages(&self) -> usize {
        let is_full = |refusal: &&Refusal| refusal.is_shortage() && refusal.cluster().is_none();
        self.refused.values().filter(is_full).count()
    }

    /// Whether a frontend waits for room in a map, or in a cluster's share of it.
    pub fn has_shortage(&self) -> bool {
        self.refused.values().any(Refusal::is_shortage)
    }

    /// Whether a write of the frontend failed, and nothing has been written since.
    pub fn has_failed(&self, frontend: &Frontend) -> bool {
        self.refused.get(frontend).is_some_and(Refusal::is_failure)
    }

    /// All of the frontend's writes have succeeded.
    pub fn succeeded(&mut self, frontend: &Frontend) {
        self.held_back.remove(frontend);
        if self.has_failed(frontend) {
            Arc::make_mut(&mut self.refused).remove(frontend);
        }
    }

    /// The frontend is to be planned again.
    pub fn retry(&mut self, frontend: &Frontend) {
        self.held_back.remove(frontend);
        match self.claims.owner(frontend) {
            Some(owner) => drop(self.dirty.insert(owner.clone())),
            None => self.sweep = true,
        }
    }

    /// Plans what is different about a service since it was last planned, if that can be told from the difference.
    fn plan_difference(&mut self, now: &Observed, name: &ServiceName, plan: &mut Plan) -> bool {
        let changes = self.differences(now, name);
        changes.is_some_and(|changes| changes.iter().all(|change| self.actual.plan_change(change, plan)))
    }

    fn differences(&self, now: &Observed, name: &ServiceName) -> Option<Vec<change::GroupChange>> {
        let before = self.planned.as_ref().filter(|planned| planned.hears_whom(now))?;
        let (old, local) = (before.local.services.get(name)?, now.local.services.get(name)?);
        let unread = &now.local.unread;
        // What was carried for what could not be read is in the maps and in no difference.
        if before.local.unread.may_have_slices(name) != unread.may_have_slices(name) {
            return None;
        }
        let is_held = |frontend: &Frontend| {
            let owners = (self.claims.owner(frontend), self.actual.owner(frontend));
            owners == (Some(name), Some(name))
                && !self.refused.contains_key(frontend)
                && !self.inherited.may_have_backends(frontend, name, unread)
        };
        let as_planned = Arc::ptr_eq(old, local)
            && !self.replanned.contains(name)
            && frontends(local).all(|(frontend, _)| is_held(&frontend));
        if !as_planned {
            return None;
        }
        let carried = |frontend: &Frontend| self.carried(frontend, name, unread);
        let (old, new) = (before.offers(name), now.offers(name));
        let input = |peers| self.input((name, local.as_ref()), peers, &carried);
        change::changes(&input(&old), &input(&new))
    }

    /// What the maps hold of clusters that are not synced, or not of all services, as far as their address policies allow it.
    fn carried(&self, frontend: &Frontend, name: &ServiceName, unread: &Unread) -> Vec<CarriedGroup> {
        let own = self.inherited.may_have_backends(frontend, name, unread).then_some(self.own);
        let carries = |cluster| {
            let waits = self.peers.carries(self.own, cluster) || self.peers.is_unread(cluster, name);
            waits || own == Some(cluster)
        };
        let mut groups = self.actual.carried(frontend, carries);
        for group in &mut groups {
            group.backends.retain(|backend| self.peers.allows(group.cluster, backend.address));
        }
        groups.retain(|group| !group.backends.is_empty());
        groups
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
        let unread = &now.local.unread;
        let merged = now.local.services.get(name).map(|service| {
            let carried = |frontend: &Frontend| self.carried(frontend, name, unread);
            merge_reported(&self.input((name, service), &now.offers(name), &carried))
        });
        let Merged { services: merged, left_out } = merged.unwrap_or_default();
        self.inherited.forget_read(merged.iter().map(|(frontend, _)| frontend), name, unread);
        self.forgive(|_, refusal| !refusal.is_failure() && refusal.service() == Some(name));
        let wanted = merged.iter().map(|(frontend, _)| *frontend).collect();
        for given_up in self.claims.update(name, wanted) {
            match given_up {
                GivenUp::Nobody(frontend) => {
                    left_out::forget(&mut self.left_out, &frontend);
                    changes.insert(frontend, None);
                }
                GivenUp::To(heir) => {
                    self.dirty.insert(heir);
                }
            }
        }
        let owned =
            merged.iter().map(|(frontend, _)| frontend).filter(|it| self.claims.owner(it) == Some(name));
        left_out::update(&mut self.left_out, owned, left_out);
        for (frontend, desired) in merged {
            match self.claims.owner(&frontend) {
                // Shown as `names` finds it.
                Some(owner) if owner != name => {}
                _ => {
                    changes.insert(frontend, Some(desired));
                }
            }
        }
    }
}
