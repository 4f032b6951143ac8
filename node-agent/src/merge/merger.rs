//! The state of merging between two passes: the sources as they were last planned, the mirror of the maps, and what is left
//! to plan. `marks` finds the services that changed, `next_plan` plans them, `one_service` each of them.
//!
//! Pure: reads no clock, writes no map. A full pass is the incremental one with every service dirty.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::snapshot::ClusterSnapshot;

use super::claims::Claims;
use super::inherited::Inherited;
use super::inputs::Observed;
pub use super::inputs::PeerInputs;
use super::left_out::LeftOutClusters;
pub use super::next_plan::Planned;
pub use super::refusal::Refusal;
use super::refused::Refused;
use super::terminating::TerminatingFrontends;
use crate::datapath::actual::Actual;
use crate::quota::QuotaArgs;

/// The state between two passes.
#[derive(Debug)]
pub struct Merger {
    pub(super) own: ClusterId,
    pub(super) plain_ok_allowed: bool,
    pub(super) actual: Actual,
    pub(super) local: Option<Arc<ClusterSnapshot>>,
    pub(super) peers: PeerInputs,
    pub(super) dirty: BTreeSet<ServiceName>,
    /// The inputs from which everything was last planned.
    pub(super) planned: Option<Observed>,
    /// Services that were planned since, from something newer.
    pub(super) replanned: BTreeSet<ServiceName>,
    pub(super) claims: Claims,
    /// The maps may hold frontends of services that no longer exist.
    pub(super) sweep: bool,
    /// Frontends that keep what they have, and why.
    pub(super) refused: Refused,
    pub(super) inherited: Inherited,
    pub(super) left_out: LeftOutClusters,
    pub(super) terminating: TerminatingFrontends,
    pub(super) quotas: QuotaArgs,
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
            refused: Refused::default(),
            left_out: LeftOutClusters::default(),
            terminating: TerminatingFrontends::default(),
            quotas: QuotaArgs::default(),
        }
    }

    /// Bounds what each peer may have in the maps.
    pub(crate) fn with_quotas(self, quotas: QuotaArgs) -> Self {
        Self { quotas, ..self }
    }

    pub fn actual(&self) -> &Actual {
        &self.actual
    }

    pub fn peers(&self) -> &PeerInputs {
        &self.peers
    }

    /// For the canary and for releases, which are no services.
    pub(crate) fn actual_mut(&mut self) -> &mut Actual {
        &mut self.actual
    }

    pub(super) fn refused(&self) -> &Refused {
        &self.refused
    }

    /// The clusters that take no part for want of room. Shared with the answers.
    pub(crate) fn left_out(&self) -> &LeftOutClusters {
        &self.left_out
    }

    /// The frontends whose backends all terminate. Shared with the answers.
    pub(super) fn terminating(&self) -> &TerminatingFrontends {
        &self.terminating
    }

    /// How many frontends are not as desired.
    pub(crate) fn refused_count(&self) -> usize {
        self.refused.all().len() + self.claims.contested()
    }

    /// Whether the own source is synced; before that nothing is planned.
    pub(crate) fn has_local(&self) -> bool {
        self.local.is_some()
    }

    /// Whether everything observed is planned.
    pub(crate) fn is_settled(&self) -> bool {
        self.has_local() && self.dirty.is_empty() && !self.sweep
    }

    /// A grace period has passed and room was made: what found none is tried again.
    pub(crate) fn released(&mut self) {
        self.dirty.extend(self.refused.without_room().cloned());
    }

    /// A write of the frontend failed: it is not planned before [`Self::retry`].
    pub(crate) fn failed(&mut self, frontend: Frontend, reason: String) {
        let service = self.claims.owner(&frontend).cloned();
        self.refused.failed(frontend, service, reason);
    }

    /// All of the frontend's writes have succeeded.
    pub(crate) fn succeeded(&mut self, frontend: &Frontend) {
        self.refused.succeeded(frontend);
    }

    /// The frontend is to be planned again.
    pub(crate) fn retry(&mut self, frontend: &Frontend) {
        self.refused.retry(frontend);
        match self.claims.owner(frontend) {
            Some(owner) => drop(self.dirty.insert(owner.clone())),
            None => self.sweep = true,
        }
    }
}
