//! The merge loop: wakes when a source or a peer has something new, when a grace period or a pause has ended, and when it is
//! time for a heartbeat. What each of these does stands in a file of its own. Questions are answered elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_abi::Control;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_runtime::readiness::Condition;
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::comeback::Comeback;
use super::connects::Connects;
use super::heartbeat::{self, Heartbeat};
use super::merger::{Merger, PeerInputs};
use super::metrics::Metrics;
use super::planner::Planner;
use super::query::View;
use super::retired::Retired;
use crate::admin::events::Events;
use crate::datapath::control::ControlMap;
use crate::datapath::grace::GracePeriods;
use crate::datapath::layouts::Beside;
use crate::datapath::outcomes::OutcomeMap;
use crate::datapath::plan::Freed;
use crate::datapath::service_maps::ServiceMaps;
use crate::datapath::sys;
use crate::heap;
use crate::peers::PeerSet;

/// How often the heartbeat is written and the kernel's counts are read.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// After so many map writes the memory that planning them took is worth giving back.
const TRIM_WRITES: usize = 10_000;

/// What the loop reads.
pub struct Inputs {
    pub local: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    /// When the own source last said that its snapshot is current.
    pub confirmed: watch::Receiver<Option<Instant>>,
    pub peers: watch::Receiver<Arc<PeerSet>>,
}

/// What the loop tells.
pub struct Outputs {
    pub events: Events,
    pub metrics: Metrics,
    /// Holds once everything known at the start is in the maps.
    pub planned: Condition,
    /// Holds while the own source confirms what the maps hold.
    pub source: Condition,
    /// Holds while plans can be written.
    pub writes: Condition,
    /// For those who answer questions: nobody asks the loop itself.
    pub view: watch::Sender<Arc<View>>,
}

/// What the loop begins with.
pub struct Start {
    pub services: ServiceMaps,
    pub control: ControlMap,
    pub outcomes: OutcomeMap,
    /// As it is to be from the first sign of life on.
    pub first: Control,
    pub comeback: Comeback,
    pub merger: Merger,
    /// What a crash left in the maps.
    pub leftover: Freed,
    pub grace_periods: GracePeriods,
    /// Other layouts that serve until everything is in the maps.
    pub beside: Beside,
}

/// The merge loop.
pub struct MergeTask {
    inputs: Inputs,
    view: watch::Sender<Arc<View>>,
    metrics: Metrics,
    planned: Condition,
    planner: Planner<ServiceMaps>,
    retired: Retired,
    heartbeat: Heartbeat,
    connects: Connects,
    /// When the own source confirmed what has been planned.
    confirmed: Option<Instant>,
    /// Map writes since free memory was last given back.
    untrimmed: usize,
    beside: Beside,
}

impl MergeTask {
    pub fn new(inputs: Inputs, outputs: Outputs, start: Start) -> Self {
        let Start { services, control, outcomes, first, comeback, merger, leftover, grace_periods, beside } =
            start;
        let Outputs { events, metrics, planned, source, writes, view } = outputs;
        Self {
            inputs,
            view,
            planner: Planner::new(services, merger, leftover, events, metrics.clone()),
            retired: Retired::new(grace_periods, metrics.clone()),
            metrics,
            planned,
            heartbeat: Heartbeat::new((Box::new(control), first), comeback, (source, writes)),
            connects: Connects::new(Box::new(outcomes)),
            confirmed: None,
            untrimmed: 0,
            beside,
        }
    }

    /// Runs until the token is cancelled. Stopping changes nothing in the maps.
    pub async fn run(mut self, token: CancellationToken) {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.retired.add(self.planner.take_freed());
            let retry_at = self.planner.retry_at().map(tokio::time::Instant::from_std);
            tokio::select! {
                () = token.cancelled() => return,
                Ok(()) = self.inputs.local.changed() => self.settle(),
                Ok(()) = self.inputs.peers.changed() => self.settle(),
                freed = self.retired.released() => self.release(freed),
                () = sleep_until(retry_at) => self.retry(),
                _ = heartbeat.tick() => self.beat(),
            }
        }
    }

    fn settle(&mut self) {
        // Before the snapshot that it is about, which may be newer by now but not older.
        let confirmed = *self.inputs.confirmed.borrow();
        let local = self.inputs.local.borrow_and_update().clone();
        let peers = PeerInputs::of(&self.inputs.peers.borrow_and_update());
        block_in_place(|| self.planner.settle(local.as_ref(), &peers, Instant::now()));
        self.confirmed = confirmed.filter(|_| local.is_some());
        self.show();
    }

    fn retry(&mut self) {
        block_in_place(|| self.planner.retry(Instant::now()));
        self.show();
    }

    fn release(&mut self, freed: Freed) {
        block_in_place(|| self.planner.release(freed, Instant::now()));
        self.show();
    }

    fn show(&self) {
        self.view.send_replace(Arc::new(self.planner.view()));
        if !self.planner.is_settled() {
            return;
        }
        match self.planner.merger().shortages() {
            0 => self.planned.ready(),
            frontends => self.planned.not_ready(format!(
                "the maps have no room for {frontends} frontends, which keep what they have: `clustermesh service \
                 list -o wide` names the flag to raise"
            )),
        }
    }

    fn beat(&mut self) {
        let now = Instant::now();
        let all_spoke = self.planner.merger().peers().have_all_spoken();
        self.confirm();
        let (settled, frozen, confirmed) = (self.planner.is_settled(), self.frozen(), self.confirmed);
        self.metrics.frozen(frozen.is_some());
        let state = heartbeat::State { settled, all_spoke, frozen, confirmed };
        self.heartbeat.beat(&state, &self.metrics, (now, sys::monotonic_ns()));
        self.connects.count(&self.metrics);
        block_in_place(|| self.planner.sweep(now));
        self.untrimmed += self.planner.take_writes();
        if self.untrimmed >= TRIM_WRITES {
            self.untrimmed = 0;
            block_in_place(heap::trim);
        }
        if !self.beside.is_empty() {
            block_in_place(|| self.beside.pass(state.settled, all_spoke, now));
        }
    }

    /// Takes the source's word for what has been planned, unless there is something newer to plan.
    fn confirm(&mut self) {
        let confirmed = *self.inputs.confirmed.borrow();
        if !self.inputs.local.has_changed().unwrap_or(false) && self.planner.merger().has_local() {
            self.confirmed = confirmed;
        }
    }

    /// Why nothing new can get into the maps.
    fn frozen(&self) -> Option<String> {
        let full = || self.retired.is_stuck() && self.planner.merger().has_shortage();
        let no_room =
            || full().then(|| "what plans free can't be used again, and there is no more room".into());
        self.planner.frozen().map(ToOwned::to_owned).or_else(no_room)
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
