//! Brings what the sources say into the maps: observes, plans, writes, and does again what failed.
//!
//! A write that fails is its frontend's alone: that one waits for a pause of its own, and everything else goes on. Waits for
//! nothing itself: the task around it passes the time in and waits for grace periods.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mesh_admin::api::{Event, Writes, unix_us};
use mesh_model::desired::Frontend;
use mesh_model::name::ServiceName;
use mesh_model::snapshot::ClusterSnapshot;

use super::left_out::{self, LeftOutClusters};
use super::merger::{Merger, PeerInputs, Planned};
use super::metrics::Metrics;
use super::query::{LastPlan, View};
use super::refusal::{self, Refusals};
use super::retries::Retries;
use super::sweep::{Found, Sweep};
use crate::admin::events::Events;
use crate::datapath::actual::CANARY;
use crate::datapath::apply::{Applied, Outcome, carry_out, release};
use crate::datapath::inspect::Inspect;
use crate::datapath::maps::{Datapath, Refused};
use crate::datapath::plan::{Freed, Plan};

/// Failed frontends of one plan that the log names.
const NAMED_FAILURES: usize = 10;

/// The one owner of the maps and of their mirror.
pub(super) struct Planner<D> {
    maps: D,
    merger: Merger,
    events: Events,
    metrics: Metrics,
    /// Freed by plans and not yet handed to a grace period.
    freed: Freed,
    retries: Retries,
    sweep: Sweep,
    /// Why nothing can be written at all.
    frozen: Option<String>,
    last_plan: Arc<LastPlan>,
    /// As last logged.
    left_out: LeftOutClusters,
    refused: Refusals,
    /// Map writes since [`Self::take_writes`].
    writes: usize,
}

impl<D: Datapath + Inspect> Planner<D> {
    /// `leftover`: what a crash left in the maps.
    pub(super) fn new(maps: D, merger: Merger, leftover: Freed, events: Events, metrics: Metrics) -> Self {
        Self {
            maps,
            merger,
            events,
            metrics,
            freed: leftover,
            retries: Retries::default(),
            sweep: Sweep::default(),
            frozen: None,
            last_plan: Arc::default(),
            left_out: LeftOutClusters::default(),
            refused: Refusals::default(),
            writes: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn into_maps(self) -> D {
        self.maps
    }

    #[cfg(test)]
    pub(super) fn maps(&self) -> &D {
        &self.maps
    }

    #[cfg(test)]
    pub(super) fn maps_mut(&mut self) -> &mut D {
        &mut self.maps
    }

    pub(super) fn merger(&self) -> &Merger {
        &self.merger
    }

    /// What there is to be shown. Costs four counted references.
    pub(super) fn view(&self) -> View {
        View {
            refused: self.merger.refused().clone(),
            left_out: self.merger.left_out().clone(),
            terminating: self.merger.terminating().clone(),
            last_plan: self.last_plan.clone(),
        }
    }

    /// When [`Self::retry`] is due.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retries.next()
    }

    /// Whether the maps show everything that was observed, but for what they keep refusing.
    pub(super) fn is_settled(&self) -> bool {
        self.merger.is_settled() && !self.retries.are_fresh()
    }

    /// Whether plans can be written; else the reason. What a few frontends are refused does not count.
    pub(super) fn frozen(&self) -> Option<&str> {
        self.frozen.as_deref()
    }

    /// Number of map writes since this was last asked.
    pub(super) fn take_writes(&mut self) -> usize {
        std::mem::take(&mut self.writes)
    }

    /// What may be released once a grace period has passed that begins after this call.
    pub(super) fn take_freed(&mut self) -> Freed {
        std::mem::take(&mut self.freed)
    }

    /// Observes and plans until nothing is left, but for what waits for its next attempt.
    pub(super) fn settle(&mut self, local: Option<&Arc<ClusterSnapshot>>, peers: &PeerInputs, now: Instant) {
        self.merger.observe(local, peers);
        self.plan_all(now);
    }

    /// Tries again what is due.
    pub(super) fn retry(&mut self, now: Instant) {
        let due = self.retries.take_due(now);
        for frontend in &due {
            self.merger.retry(frontend);
        }
        if due.contains(&CANARY) {
            let plan = self.merger.actual_mut().plan_canary();
            self.carry_out(Planned { plan, services: Vec::new() }, now);
        }
        self.plan_all(now);
        // What is not to be written any more has nothing to wait for.
        for frontend in due.iter().filter(|frontend| !self.merger.has_failed(frontend)) {
            self.retries.succeeded(frontend);
        }
        self.show();
    }

    /// A grace period has passed since these were taken.
    pub(super) fn release(&mut self, freed: Freed, now: Instant) {
        let refused = release(&mut self.maps, self.merger.actual_mut(), freed);
        if let Some(Refused { error, .. }) = refused.first() {
            let error = mesh_kv::fault::chain(error);
            tracing::warn!(
                backends = refused.len(),
                error,
                "backends that nobody needs could not be cleared"
            );
        }
        self.merger.released();
        self.plan_all(now);
    }

    /// Holds a few elements of the maps against the mirror and repairs what differs.
    pub(super) fn sweep(&mut self, now: Instant) {
        match self.sweep.step(&self.maps, self.merger.actual_mut()) {
            Ok(Found { plan, wrong }) => {
                for (map, elements) in wrong {
                    tracing::warn!(
                        ?map,
                        elements,
                        "the map held something else than was written: it is repaired"
                    );
                    self.metrics.repaired(map, elements);
                }
                self.carry_out(Planned { plan, services: Vec::new() }, now);
                self.metrics.swept(self.sweep.rounds());
            }
            Err(error) => {
                let error = mesh_kv::fault::chain(&error);
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
            self.carry_out(planned, now);
        }
        self.show();
    }

    fn show(&mut self) {
        if self.retries.is_empty() {
            self.frozen = None;
        }
        let refused = self.merger.refused_count();
        self.metrics.holds(self.merger.actual(), refused);
        self.metrics.waiting(self.retries.len());
        refusal::log(&self.refused, self.merger.refused());
        self.refused = self.merger.refused().clone();
        left_out::log(&self.left_out, self.merger.left_out());
        self.left_out = self.merger.left_out().clone();
        self.metrics.left_out(&self.left_out);
    }

    fn carry_out(&mut self, mut planned: Planned, now: Instant) {
        let started = Instant::now();
        for (frontend, _) in &planned.plan.refused {
            self.retries.succeeded(frontend);
        }
        if planned.plan.is_empty() {
            let freed = self.merger.actual_mut().written(&mut planned.plan);
            return self.freed.append(freed);
        }
        self.writes += planned.plan.writes();
        self.reset_counters(&planned.plan);
        let outcome = carry_out(&mut self.maps, &planned.plan);
        let duration = started.elapsed();
        if !self.retries.is_empty() {
            let written = planned.plan.frontends().filter(|frontend| !outcome.failed.contains_key(*frontend));
            for frontend in written {
                self.retries.succeeded(frontend);
                self.merger.succeeded(frontend);
            }
        }
        let actual = self.merger.actual_mut();
        actual.forget_states(&outcome.failed_backends);
        let freed = actual.conclude(&mut planned.plan, &outcome.failed);
        self.freed.append(freed);
        if outcome.errors.is_empty() {
            self.frozen = None;
        } else {
            self.fail(&outcome, now);
        }
        let Planned { plan, services } = planned;
        if let Some(applied) = outcome.applied {
            self.metrics.planned(&plan, duration.as_secs_f64());
            self.events.publish(maps_written(&plan, services, applied));
        }
        self.last_plan = Arc::new(LastPlan::new(plan));
    }

    /// A count that goes on where another ended is no reason to write nothing.
    fn reset_counters(&mut self, plan: &Plan) {
        let refused = self.maps.reset_counters(&plan.fresh_counters);
        if let Some(Refused { error, .. }) = refused.first() {
            let error = mesh_kv::fault::chain(error);
            tracing::warn!(counters = refused.len(), error, "connection counts do not begin at zero");
        }
    }

    fn fail(&mut self, outcome: &Outcome, now: Instant) {
        // What stands in no mirror was to be deleted by the sweep, which finds it again.
        let held = |frontend: &Frontend| self.merger.actual().held(frontend).is_some();
        let failed: Vec<_> = outcome.failed.iter().filter(|(frontend, _)| held(frontend)).collect();
        let frontends = failed.len();
        for (number, (frontend, error)) in failed.into_iter().enumerate() {
            let reason = mesh_kv::fault::chain(&outcome.errors[*error]);
            if number < NAMED_FAILURES {
                let (address, port, protocol) = (frontend.address, frontend.port, frontend.protocol);
                tracing::warn!(%address, port, %protocol, reason, "a write failed: frontend keeps what it has");
            }
            self.merger.failed(*frontend, reason);
            self.retries.failed(*frontend, now);
        }
        let reason = outcome.errors.first().map(|error| mesh_kv::fault::chain(error)).unwrap_or_default();
        tracing::error!(
            frontends,
            reason,
            "writes failed; each frontend is tried again after a pause of its own"
        );
        self.metrics.failed();
        let reason = format!("{frontends} frontends: {reason}");
        self.events.publish(Event::ApplyFailed { at_unix_us: unix_us(SystemTime::now()), reason });
        self.frozen = match outcome.applied {
            Some(_) => None,
            None => self.maps.check_writable().err().map(|error| mesh_kv::fault::chain(&error)),
        };
    }
}

fn maps_written(plan: &Plan, names: Vec<ServiceName>, applied: Applied) -> Event {
    let Plan { backends, slots, services, deleted, .. } = plan;
    Event::MapsWritten {
        at_unix_us: unix_us(applied.first_write),
        done_unix_us: unix_us(applied.last_write),
        writes: Writes {
            backends: backends.len(),
            slots: slots.len(),
            services: services.len(),
            deleted_services: deleted.len(),
        },
        services: names,
    }
}
