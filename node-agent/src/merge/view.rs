//! The view that the merge loop publishes after every pass, for answers of the admin API.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::desired::Frontend;

use super::left_out::LeftOutClusters;
use super::refusal::Refusal;
use super::terminating::TerminatingFrontends;
use crate::datapath::plan::Plan;
use crate::datapath::text;

/// Lines of the last plan that are kept for `/v1/plan`.
const PLAN_LINES: usize = 1000;

/// The loop's own knowledge, which neither sources nor maps have. Published after every plan, by counted references.
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

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = text::lines(&self.plan, PLAN_LINES);
        if self.left_out > 0 {
            lines.push(format!("… and {} more", self.left_out));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_plan_is_kept_and_shown_as_far_as_people_read() {
        let write = |id| (id, mesh_abi::SlotEntry::default());
        let mut plan = Plan::default();
        plan.slots.extend((0..1500).map(write));
        let lines = LastPlan::new(plan).lines();
        assert_eq!(lines.len(), PLAN_LINES + 1);
        assert_eq!(lines.last().map(String::as_str), Some("… and 500 more"));
        assert!(LastPlan::default().lines().is_empty());
    }
}
