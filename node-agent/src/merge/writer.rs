//! Carries plans out and keeps account: of elements to release later, of failures and their next attempts, and of the reason why
//! nothing can be written at all.

use std::sync::Arc;
use std::time::Instant;

use mesh_admin::api::{Event, Writes, unix_us};
use mesh_model::name::ServiceName;

use super::merger::{Merger, Planned};
use super::metrics::Metrics;
use super::retries::Retries;
use super::view::LastPlan;
use crate::admin::events::Events;
use crate::datapath::apply::{Applied, Outcome, carry_out, release};
use crate::datapath::maps::{Datapath, Refused};
use crate::datapath::plan::{Plan, Retired};

/// The one owner of the maps that plans are written into.
pub(super) struct Writer<D> {
    pub(super) maps: D,
    pub(super) events: Events,
    pub(super) metrics: Metrics,
    pub(super) retries: Retries,
    /// Retired by plans and not yet handed to a grace period.
    retired: Retired,
    /// Why nothing can be written at all.
    pub(super) frozen: Option<String>,
    last_plan: Arc<LastPlan>,
    /// Map writes since [`Self::take_writes`].
    writes: usize,
}

impl<D: Datapath> Writer<D> {
    /// `leftover`: what a crash left in the maps.
    pub(super) fn new(maps: D, leftover: Retired, events: Events, metrics: Metrics) -> Self {
        Self {
            maps,
            events,
            metrics,
            retries: Retries::default(),
            retired: leftover,
            frozen: None,
            last_plan: Arc::default(),
            writes: 0,
        }
    }

    /// Why plans can't be written. Refusals of a few frontends do not count.
    pub(super) fn frozen(&self) -> Option<&str> {
        self.frozen.as_deref()
    }

    pub(super) fn last_plan(&self) -> &Arc<LastPlan> {
        &self.last_plan
    }

    /// Number of map writes since this was last asked.
    pub(super) fn take_writes(&mut self) -> usize {
        std::mem::take(&mut self.writes)
    }

    /// Elements to release once a grace period has passed that begins after this call.
    pub(super) fn take_retired(&mut self) -> Retired {
        std::mem::take(&mut self.retired)
    }

    /// Nothing waits for its next attempt any more.
    pub(super) fn settled(&mut self) {
        if self.retries.is_empty() {
            self.frozen = None;
        }
    }

    /// Writes the plan; the merger learns what failed of it.
    pub(super) fn carry_out(&mut self, merger: &mut Merger, mut planned: Planned, now: Instant) {
        let started = Instant::now();
        for (frontend, _) in &planned.plan.refused {
            self.retries.succeeded(frontend);
        }
        if planned.plan.is_empty() {
            return self.retired.append(merger.actual_mut().written(&mut planned.plan));
        }
        self.writes += planned.plan.writes();
        self.reset_counters(&planned.plan);
        let outcome = carry_out(&mut self.maps, &planned.plan);
        let duration = started.elapsed();
        self.succeed(merger, &planned.plan, &outcome);
        let actual = merger.actual_mut();
        actual.forget_states(&outcome.failed_backends);
        self.retired.append(actual.conclude(&mut planned.plan, &outcome.failed));
        if outcome.errors.is_empty() {
            self.frozen = None;
        } else {
            self.fail(merger, &outcome, now);
        }
        let Planned { plan, services } = planned;
        if let Some(applied) = outcome.applied {
            self.metrics.planned(&plan, duration.as_secs_f64());
            self.events.publish(maps_written(&plan, services, applied));
        }
        self.last_plan = Arc::new(LastPlan::new(plan));
    }

    /// A grace period has passed since these were taken.
    pub(super) fn release(&mut self, merger: &mut Merger, retired: Retired) {
        let refused = release(&mut self.maps, merger.actual_mut(), retired);
        if let Some(Refused { error, .. }) = refused.first() {
            let error = mesh_failure::chain(error);
            tracing::warn!(elements = refused.len(), error, "what nobody needs could not be cleared");
        }
    }

    fn succeed(&mut self, merger: &mut Merger, plan: &Plan, outcome: &Outcome) {
        if self.retries.is_empty() {
            return;
        }
        for frontend in plan.frontends().filter(|frontend| !outcome.failed.contains_key(*frontend)) {
            self.retries.succeeded(frontend);
            merger.succeeded(frontend);
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::merge::history_tests::kernel::Kernel;
    use crate::merge::testing;

    /// Plans and writes until nothing is left.
    fn write(writer: &mut Writer<Kernel>, merger: &mut Merger, services: &[(u8, &[u8])], now: Instant) {
        merger.observe(Some(&testing::local(services)), &testing::no_peers());
        while let Some(planned) = merger.next_plan() {
            writer.carry_out(merger, planned, now);
        }
        writer.settled();
    }

    #[test]
    fn writes_are_counted_told_and_kept_as_the_last_plan() {
        let (mut writer, mut merger, now) = (testing::writer(), testing::merger(), Instant::now());
        write(&mut writer, &mut merger, &[(1, &[1, 2])], now);
        assert_eq!((writer.take_writes(), writer.take_writes()), (5, 0), "2 backends, 2 slots, 1 service");
        let (events, _) = writer.events.subscribe(Some(0));
        let [Event::MapsWritten { writes, services, .. }] =
            &events.iter().map(|it| &**it).collect::<Vec<_>>()[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((writes.backends, writes.slots, writes.services, services.len()), (2, 2, 1, 1));
        assert_eq!(writer.last_plan().lines().len(), 5);
        write(&mut writer, &mut merger, &[(1, &[1, 2])], now);
        assert_eq!(writer.take_writes(), 0, "nothing differs");
    }

    #[test]
    fn what_a_plan_retires_is_cleared_when_it_is_released() {
        let (mut writer, mut merger, now) = (testing::writer(), testing::merger(), Instant::now());
        write(&mut writer, &mut merger, &[(1, &[1, 2])], now);
        assert!(writer.take_retired().is_empty());
        write(&mut writer, &mut merger, &[], now);
        let retired = writer.take_retired();
        assert!(!retired.is_empty() && writer.take_retired().is_empty());
        assert_eq!(writer.maps.contents().backends.len(), 2, "a program may still read them");
        writer.release(&mut merger, retired);
        assert_eq!(writer.maps.contents().backends.len(), 0);
    }

    #[test]
    fn a_refused_frontend_waits_for_its_next_attempt_and_freezes_nothing() {
        let (mut writer, mut merger, now) = (testing::writer(), testing::merger(), Instant::now());
        writer.maps.refused = Some(testing::frontend(1));
        write(&mut writer, &mut merger, &[(1, &[1]), (2, &[2])], now);
        assert!(merger.refused().has_failed(&testing::frontend(1)));
        assert!(!merger.refused().has_failed(&testing::frontend(2)));
        assert_eq!((writer.retries.len(), writer.frozen()), (1, None));
        writer.maps.refused = None;
        let due = writer.retries.take_due(now + Duration::from_secs(60));
        due.iter().for_each(|frontend| merger.retry(frontend));
        write(&mut writer, &mut merger, &[(1, &[1]), (2, &[2])], now);
        assert!(writer.retries.is_empty() && !merger.refused().has_failed(&testing::frontend(1)));
        assert_eq!(writer.maps.content().len(), 2);
    }

    #[test]
    fn maps_that_take_no_write_at_all_are_frozen_until_one_succeeds() {
        let (mut writer, mut merger, now) = (testing::writer(), testing::merger(), Instant::now());
        writer.maps.budget = Some(0);
        write(&mut writer, &mut merger, &[(1, &[1])], now);
        assert!(writer.frozen().is_some());
        let (events, _) = writer.events.subscribe(Some(0));
        assert!(matches!(**events.last().unwrap(), Event::ApplyFailed { .. }), "{events:?}");
        writer.maps.budget = None;
        write(&mut writer, &mut merger, &[(1, &[1]), (2, &[2])], now);
        assert_eq!(writer.frozen(), None, "although the first still waits");
    }
}
