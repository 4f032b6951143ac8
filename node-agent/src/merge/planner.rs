//! Brings the sources' state into the maps: observes, plans, has plans written, and tries again after a failure.
//!
//! A write that fails is its frontend's alone: that one waits for a pause of its own, and everything else goes on. Waits for
//! nothing itself: the task around it passes the time in and waits for grace periods.

use std::sync::Arc;
use std::time::Instant;

use mesh_model::snapshot::ClusterSnapshot;

use super::logged::Logged;
use super::merger::{Merger, PeerInputs, Planned};
use super::metrics::Metrics;
use super::sweep::{Found, Sweep};
use super::view::View;
use super::writer::Writer;
use crate::datapath::actual::CANARY;
use crate::datapath::inspect::Inspect;
use crate::datapath::maps::Datapath;
use crate::datapath::plan::{Plan, Retired};

/// The one owner of the mirror.
pub(super) struct Planner<D> {
    merger: Merger,
    writer: Writer<D>,
    sweep: Sweep,
    logged: Logged,
    metrics: Metrics,
}

impl<D: Datapath + Inspect> Planner<D> {
    pub(super) fn new(merger: Merger, writer: Writer<D>, metrics: Metrics) -> Self {
        Self { merger, writer, sweep: Sweep::default(), logged: Logged::default(), metrics }
    }

    pub(super) fn merger(&self) -> &Merger {
        &self.merger
    }

    pub(super) fn writer(&self) -> &Writer<D> {
        &self.writer
    }

    pub(super) fn writer_mut(&mut self) -> &mut Writer<D> {
        &mut self.writer
    }

    /// The view for answers. Costs four counted references.
    pub(super) fn view(&self) -> View {
        View {
            refused: self.merger.refused().all().clone(),
            left_out: self.merger.left_out().clone(),
            terminating: self.merger.terminating().clone(),
            last_plan: self.writer.last_plan().clone(),
        }
    }

    /// When [`Self::retry`] is due.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.writer.retries.next()
    }

    /// Whether the maps show everything that was observed, but for what they keep refusing.
    pub(super) fn is_settled(&self) -> bool {
        self.merger.is_settled() && !self.writer.retries.are_fresh()
    }

    /// Observes and plans until nothing is left, but for what waits for its next attempt.
    pub(super) fn settle(&mut self, local: Option<&Arc<ClusterSnapshot>>, peers: &PeerInputs, now: Instant) {
        self.merger.observe(local, peers);
        self.plan_all(now);
    }

    /// Tries again what is due.
    pub(super) fn retry(&mut self, now: Instant) {
        let due = self.writer.retries.take_due(now);
        for frontend in &due {
            self.merger.retry(frontend);
        }
        if due.contains(&CANARY) {
            let plan = self.merger.actual_mut().plan_canary();
            self.write(plan, now);
        }
        self.plan_all(now);
        // A frontend that is not to be written any more has nothing to wait for.
        for frontend in due.iter().filter(|frontend| !self.merger.refused().has_failed(frontend)) {
            self.writer.retries.succeeded(frontend);
        }
        self.tell();
    }

    /// A grace period has passed since these were taken.
    pub(super) fn release(&mut self, retired: Retired, now: Instant) {
        self.writer.release(&mut self.merger, retired);
        self.merger.released();
        self.plan_all(now);
    }

    /// Holds a few elements of the maps against the mirror and repairs what differs.
    pub(super) fn sweep(&mut self, now: Instant) {
        match self.sweep.step(&self.writer.maps, self.merger.actual_mut()) {
            Ok(Found { plan, wrong }) => {
                for (map, elements) in wrong {
                    tracing::warn!(
                        map = map.as_str(),
                        elements,
                        "the map held something else than was written: it is repaired"
                    );
                    self.metrics.repaired(map, elements);
                }
                self.write(plan, now);
                self.metrics.swept(self.sweep.rounds());
            }
            Err(error) => {
                let error = mesh_failure::chain(&error);
                tracing::warn!(error, "the maps could not be held against what was written");
            }
        }
    }

    #[cfg(test)]
    pub(super) fn rounds(&self) -> u64 {
        self.sweep.rounds()
    }

    fn plan_all(&mut self, now: Instant) {
        while let Some(planned) = self.merger.next_plan() {
            self.writer.carry_out(&mut self.merger, planned, now);
        }
        self.tell();
    }

    /// Writes a plan that is no service's alone.
    fn write(&mut self, plan: Plan, now: Instant) {
        self.writer.carry_out(&mut self.merger, Planned { plan, services: Vec::new() }, now);
    }

    fn tell(&mut self) {
        self.writer.settled();
        self.logged.tell(&self.merger, self.writer.retries.len(), &self.metrics);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::merge::history_tests::kernel::Kernel;
    use crate::merge::testing;

    fn planner() -> Planner<Kernel> {
        Planner::new(testing::merger(), testing::writer(), testing::metrics())
    }

    #[test]
    fn nothing_is_settled_before_the_source_is_synced_and_all_is_afterwards() {
        let (mut planner, now) = (planner(), Instant::now());
        planner.settle(None, &testing::no_peers(), now);
        assert!(!planner.is_settled());
        planner.settle(Some(&testing::local(&[(1, &[1])])), &testing::no_peers(), now);
        assert!(planner.is_settled() && planner.retry_at().is_none());
        assert_eq!(planner.writer().maps.content().len(), 1);
    }

    #[test]
    fn a_failed_write_is_due_after_a_pause_shown_and_then_made_up_for() {
        let (mut planner, now) = (planner(), Instant::now());
        planner.writer_mut().maps.refused = Some(testing::frontend(1));
        planner.settle(Some(&testing::local(&[(1, &[1])])), &testing::no_peers(), now);
        assert!(!planner.is_settled() && planner.view().refused.contains_key(&testing::frontend(1)));
        let due = planner.retry_at().unwrap();
        assert!(due > now);
        planner.writer_mut().maps.refused = None;
        planner.retry(now);
        assert!(!planner.is_settled(), "it is not due yet");
        planner.retry(due);
        assert!(planner.is_settled() && planner.view().refused.is_empty());
    }

    #[test]
    fn a_frontend_that_is_not_wanted_any_more_has_nothing_to_wait_for() {
        let (mut planner, now) = (planner(), Instant::now());
        planner.writer_mut().maps.refused = Some(testing::frontend(1));
        planner.settle(Some(&testing::local(&[(1, &[1])])), &testing::no_peers(), now);
        planner.settle(Some(&testing::local(&[])), &testing::no_peers(), now);
        planner.retry(now + Duration::from_secs(60));
        assert!(planner.is_settled() && planner.retry_at().is_none());
    }

    #[test]
    fn a_sweep_repairs_what_somebody_else_has_written() {
        let (mut planner, now) = (planner(), Instant::now());
        planner.settle(Some(&testing::local(&[(1, &[1, 2])])), &testing::no_peers(), now);
        let before = planner.writer().maps.content();
        planner.writer_mut().maps.damage(0, 0);
        assert_ne!(planner.writer().maps.content(), before);
        let rounds = planner.rounds();
        while planner.rounds() < rounds + 2 {
            planner.sweep(now);
        }
        assert_eq!(planner.writer().maps.content(), before);
    }
}
