//! Plans one service: from what is different about it where that can be told, else by merging the whole. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::change;
use mesh_model::desired::{DesiredService, Frontend};
use mesh_model::merge::{CarriedGroup, Merge, Merged, frontends, merge_reported};
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::snapshot::{Service, Unread};
use mesh_model::view::PeerService;

use super::claims::GivenUp;
use super::inputs::Observed;
use super::left_out;
use super::merger::Merger;
use crate::datapath::plan::Plan;

impl Merger {
    /// Plans the difference of a service since it was last planned, if that alone tells what to do.
    pub(super) fn plan_difference(&mut self, now: &Observed, name: &ServiceName, plan: &mut Plan) -> bool {
        let changes = self.differences(now, name);
        changes.is_some_and(|changes| changes.iter().all(|change| self.actual.plan_change(change, plan)))
    }

    fn differences(&self, now: &Observed, name: &ServiceName) -> Option<Vec<change::GroupChange>> {
        let before = self.planned.as_ref().filter(|planned| planned.has_the_clusters_of(now))?;
        let (old, local) = (before.local.services.get(name)?, now.local.services.get(name)?);
        let unread = &now.local.unread;
        // Backends carried for slices that could not be read are in the maps and in no difference.
        if before.local.unread.may_have_slices(name) != unread.may_have_slices(name) {
            return None;
        }
        let is_held = |frontend: &Frontend| {
            let owners = (self.claims.owner(frontend), self.actual.owner(frontend));
            owners == (Some(name), Some(name))
                && !self.refused.contains(frontend)
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

    /// The groups that the maps hold of clusters that are not synced, or not of all services, as far as their address policies
    /// allow it.
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

    /// Merges the whole service; adds what becomes of its frontends.
    pub(super) fn merge_one(
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
        self.refused.merged(name);
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
