//! Brings what the sources say into the maps: observes, plans, has plans written, and does again what failed.
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

    /// What there is to be shown. Costs four counted references.
    pub(super) fn view(&self) -> View {
        View {
            refused: self.merger.refused().clone(),
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
        // What is not to be written any more has nothing to wait for.
        for frontend in due.iter().filter(|frontend| !self.merger.has_failed(frontend)) {
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
                        ?map,
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

    /// Writes what is no service's alone.
    fn write(&mut self, plan: Plan, now: Instant) {
        self.writer.carry_out(&mut self.merger, Planned { plan, services: Vec::new() }, now);
    }

    fn tell(&mut self) {
        self.writer.settled();
        self.logged.tell(&self.merger, self.writer.retries.len(), &self.metrics);
    }
}
