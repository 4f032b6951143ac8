//! The next plan: some of the services that are left, or, when none is, the frontends that no service has any more. Pure.

use std::collections::BTreeMap;

use mesh_model::desired::{DesiredService, Frontend};
use mesh_model::name::ServiceName;

use super::inputs::Observed;
use super::merger::Merger;
use super::terminating;
use crate::datapath::plan::Plan;

/// Services per plan: bounds the memory of a plan and the time until its first write.
const SERVICES_PER_PLAN: usize = 1024;

/// A plan and its services.
#[derive(Debug)]
pub struct Planned {
    pub plan: Plan,
    pub services: Vec<ServiceName>,
}

/// What becomes of frontends; none deletes one.
type Changes = BTreeMap<Frontend, Option<DesiredService>>;

impl Merger {
    /// The next plan; none when everything observed is planned. The mirror is as if it were carried out.
    pub(crate) fn next_plan(&mut self) -> Option<Planned> {
        let now = Observed { local: self.local.clone()?, peers: self.peers.clone() };
        let (mut plan, mut changes) = (Plan::default(), Changes::new());
        let services = self.plan_services(&now, &mut plan, &mut changes);
        if services.is_empty() {
            if !std::mem::take(&mut self.sweep) {
                self.planned = Some(now);
                self.replanned.clear();
                return None;
            }
            changes.extend(self.unowned(&now).map(|frontend| (frontend, None)));
        }
        self.plan_changes(changes, &mut plan);
        Some(Planned { plan, services })
    }

    /// Plans services from their differences as far as that can be done; adds the frontends of the others.
    fn plan_services(&mut self, now: &Observed, plan: &mut Plan, changes: &mut Changes) -> Vec<ServiceName> {
        let mut services = Vec::new();
        while services.len() < SERVICES_PER_PLAN {
            let Some(name) = self.dirty.pop_first() else { break };
            if !self.plan_difference(now, &name, plan) {
                self.merge_one(now, &name, changes);
            }
            self.replanned.insert(name.clone());
            services.push(name);
        }
        services
    }

    /// The frontends in the maps that no service has, but for those that an unreadable one may have.
    fn unowned<'a>(&'a self, now: &'a Observed) -> impl Iterator<Item = Frontend> + 'a {
        let stays = |frontend: &Frontend| {
            self.inherited.may_be_served(frontend, self.actual.owner(frontend), &now.local.unread)
        };
        let unowned = self.actual.frontends().map(|(frontend, _)| *frontend);
        let unowned = unowned.filter(|frontend| self.claims.owner(frontend).is_none());
        unowned.filter(move |frontend| !stays(frontend))
    }

    fn plan_changes(&mut self, mut changes: Changes, plan: &mut Plan) {
        changes.retain(|frontend, _| !self.refused.is_held_back(frontend));
        self.refused.planned(&changes);
        let changes: Vec<_> = changes.into_iter().collect();
        self.actual.plan_into(&changes, plan);
        let merged = changes.iter().map(|(frontend, _)| frontend);
        terminating::update(&mut self.terminating, merged, &self.actual);
        for (frontend, shortage) in &plan.refused {
            if let Some(service) = self.claims.owner(frontend).cloned() {
                self.refused.lacks_room(*frontend, service, *shortage);
            }
        }
    }
}
