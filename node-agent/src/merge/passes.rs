//! The passes of the merge loop, one job after the other. Waits for nothing: the loop around it does, and passes the time in.

use std::time::Instant;

use super::connects::Connects;
use super::heartbeat::{Heartbeat, State};
use super::metrics::Metrics;
use super::planner::Planner;
use super::shown::Shown;
use super::sources::News;
use super::start::{Outputs, Start};
use super::trimming::Trimming;
use super::writer::Writer;
use crate::datapath::inspect::Inspect;
use crate::datapath::layouts::RetiringLayouts;
use crate::datapath::maps::Datapath;
use crate::datapath::plan::Retired;
use crate::heap;

/// The moment of a beat, and what the loop knows then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    pub(super) now: Instant,
    /// The same moment by `CLOCK_MONOTONIC`.
    pub(super) now_ns: u64,
    /// When the own source confirmed what was planned last, if it did again.
    pub(super) confirmed: Option<Instant>,
    /// Whether nothing that plans free can be used again.
    pub(super) is_stuck: bool,
}

/// The jobs, and what they share.
pub(super) struct Passes<D> {
    planner: Planner<D>,
    heartbeat: Heartbeat,
    connects: Connects,
    trimming: Trimming,
    retiring: RetiringLayouts,
    shown: Shown,
    metrics: Metrics,
    /// When the own source confirmed what has been planned.
    confirmed: Option<Instant>,
}

impl<D: Datapath + Inspect> Passes<D> {
    pub(super) fn new(outputs: Outputs, start: Start<D>) -> Self {
        let Start { services, control, outcomes, first, failback, merger, leftover, retiring } = start;
        let Outputs { events, metrics, planned, source, writes, view } = outputs;
        let writer = Writer::new(services, leftover, events, metrics.clone());
        Self {
            planner: Planner::new(merger, writer, metrics.clone()),
            heartbeat: Heartbeat::new((control, first), failback, (source, writes)),
            connects: Connects::new(outcomes),
            trimming: Trimming::default(),
            retiring,
            shown: Shown::new(view, planned),
            metrics,
            confirmed: None,
        }
    }

    pub(super) fn planner(&self) -> &Planner<D> {
        &self.planner
    }

    #[cfg(test)]
    pub(super) fn maps(&mut self) -> &mut D {
        &mut self.planner.writer_mut().maps
    }

    /// Elements to release once a grace period has passed that begins after this call.
    pub(super) fn take_retired(&mut self) -> Retired {
        self.planner.writer_mut().take_retired()
    }

    /// Plans and writes what the sources say.
    pub(super) fn settle(&mut self, news: &News, now: Instant) {
        self.planner.settle(news.local.as_ref(), &news.peers, now);
        self.confirmed = news.confirmed.filter(|_| news.local.is_some());
        self.show();
    }

    /// Tries again what is due.
    pub(super) fn retry(&mut self, now: Instant) {
        self.planner.retry(now);
        self.show();
    }

    /// A grace period has passed since these were taken.
    pub(super) fn release(&mut self, retired: Retired, now: Instant) {
        self.planner.release(retired, now);
        self.show();
    }

    /// The jobs of every second.
    pub(super) fn beat(&mut self, beat: &Beat) {
        self.confirm(beat.confirmed);
        let state = self.state(beat.is_stuck);
        self.metrics.frozen(state.frozen.is_some());
        self.heartbeat.beat(&state, &self.metrics, (beat.now, beat.now_ns));
        self.connects.count(&self.metrics);
        self.planner.sweep(beat.now);
        if self.trimming.is_due(self.planner.writer_mut().take_writes()) {
            heap::trim();
        }
        self.retiring.pass(state.settled, state.all_synced, beat.now);
    }

    /// The source confirmed what has been planned.
    fn confirm(&mut self, confirmed: Option<Instant>) {
        if confirmed.is_some() && self.planner.merger().has_local() {
            self.confirmed = confirmed;
        }
    }

    fn state(&self, is_stuck: bool) -> State {
        let merger = self.planner.merger();
        let no_room = || {
            let is_full = is_stuck && merger.refused().has_shortage();
            is_full.then(|| "what plans free can't be used again, and there is no more room".into())
        };
        State {
            settled: self.planner.is_settled(),
            all_synced: merger.peers().are_all_synced(),
            frozen: self.planner.writer().frozen().map(ToOwned::to_owned).or_else(no_room),
            confirmed: self.confirmed,
        }
    }

    fn show(&self) {
        let (view, is_settled) = (self.planner.view(), self.planner.is_settled());
        self.shown.show(view, is_settled, self.planner.merger().refused().shortages());
    }
}

#[cfg(test)]
mod tests {
    use mesh_runtime::Readiness;

    use super::*;
    use crate::merge::history_tests::kernel::Kernel;
    use crate::merge::testing::{self, Signs};

    struct Loop {
        passes: Passes<Kernel>,
        readiness: Readiness,
        signs: Signs,
        now: Instant,
    }

    impl Loop {
        fn start() -> Self {
            let (readiness, signs) = (Readiness::default(), Signs::default());
            let start = testing::start(Kernel::new(), testing::merger(), Retired::default(), &signs);
            let passes = Passes::new(testing::outputs(&readiness), start);
            Self { passes, readiness, signs, now: Instant::now() }
        }

        fn settle(&mut self, services: &[(u8, &[u8])], confirmed: Option<Instant>) {
            let local = Some(testing::local(services));
            let news = News { local, peers: testing::no_peers(), confirmed };
            self.passes.settle(&news, self.now);
        }

        /// Beats; whether there is a sign of life by then.
        fn beats(&mut self, confirmed: Option<Instant>, is_stuck: bool) -> bool {
            let beat = Beat { now: self.now, now_ns: 1_000_000_000, confirmed, is_stuck };
            self.passes.beat(&beat);
            self.signs.0.lock().unwrap().is_some()
        }
    }

    #[test]
    fn a_sign_of_life_needs_a_source_that_confirms_what_was_planned() {
        let mut it = Loop::start();
        let now = it.now;
        assert!(!it.beats(Some(now), false), "nothing was planned");
        it.settle(&[(1, &[1])], None);
        assert!(!it.beats(None, false), "nothing was confirmed");
        assert!(it.beats(Some(now), false));
        assert!(it.readiness.is_ready());
    }

    #[test]
    fn the_confirmation_comes_with_the_snapshot_that_it_is_about() {
        let mut it = Loop::start();
        let now = it.now;
        it.settle(&[(1, &[1])], Some(now));
        assert!(it.beats(None, false));
    }

    #[test]
    fn full_maps_whose_retired_elements_cannot_be_used_again_give_no_sign_of_life() {
        let mut it = Loop::start();
        let now = it.now;
        let hosts: Vec<u8> = (0..=255).collect();
        let services: Vec<(u8, &[u8])> = (0..64).map(|number| (number, &hosts[..])).collect();
        it.settle(&services, Some(now));
        assert!(it.passes.planner().merger().refused().has_shortage(), "more slots than there are");
        assert!(!it.beats(Some(now), true));
        assert!(it.beats(Some(now), false), "as long as there is hope for room");
    }

    #[test]
    fn elements_are_handed_out_once_to_wait_and_cleared_when_released() {
        let mut it = Loop::start();
        it.settle(&[(1, &[1])], None);
        it.settle(&[], None);
        let (retired, now) = (it.passes.take_retired(), it.now);
        assert!(!retired.is_empty() && it.passes.take_retired().is_empty());
        it.passes.release(retired, now);
        assert!(it.passes.maps().contents().backends.is_empty());
    }
}
