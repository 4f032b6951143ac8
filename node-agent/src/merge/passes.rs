//! What the merge loop does when it wakes, one job after the other. Waits for nothing: the loop around it does, and passes the
//! time in.

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

    /// What may be released once a grace period has passed that begins after this call.
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

    /// What is done every second.
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

    /// The source's word counts for what has been planned.
    fn confirm(&mut self, confirmed: Option<Instant>) {
        if confirmed.is_some() && self.planner.merger().has_local() {
            self.confirmed = confirmed;
        }
    }

    fn state(&self, is_stuck: bool) -> State {
        let merger = self.planner.merger();
        let no_room = || {
            let is_full = is_stuck && merger.has_shortage();
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
        self.shown.show(view, is_settled, self.planner.merger().shortages());
    }
}
