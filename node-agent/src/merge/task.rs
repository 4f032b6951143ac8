//! The merge loop: the one owner of the maps and of their mirror.
//!
//! Wakes when a source or a peer has something new, carries out what the merger plans, waits for grace periods
//! beside its other work, retries after failures, writes the heartbeat, and answers questions.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mesh_abi::Control;
use mesh_kv::backoff::Backoff;
use mesh_model::name::{ClusterId, ClusterName};
use mesh_model::snapshot::ClusterSnapshot;
use mesh_runtime::readiness::Condition;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::comeback::{Comeback, has_yielded};
use super::merger::{Merger, Planned};
use super::metrics::Metrics;
use super::query::{self, ClusterNames, Kernel, Query};
use crate::admin::api::{Event, Writes, unix_us};
use crate::admin::events::Events;
use crate::datapath::apply::{Applied, apply, release};
use crate::datapath::layouts::Beside;
use crate::datapath::maps::{self, MapError, Maps};
use crate::datapath::plan::{Freed, Plan};
use crate::datapath::restore::restore;
use crate::datapath::{sys, text};
use crate::heap;
use crate::peers::PeerSet;

/// How often the heartbeat is written and the kernel's counts are read.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// After so many map writes the memory that planning them took is worth giving back.
const TRIM_WRITES: usize = 10_000;
/// Lines of the last plan that are kept for `/v1/plan`.
const PLAN_LINES: usize = 1000;

/// What the loop reads.
pub struct Inputs {
    pub local: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    pub peers: watch::Receiver<Arc<PeerSet>>,
    pub queries: mpsc::Receiver<Query>,
}

/// What the loop tells.
pub struct Outputs {
    pub events: Events,
    pub metrics: Metrics,
    /// Holds once everything known at the start is in the maps.
    pub planned: Condition,
    /// Names for readers of the maps that have no agent to ask.
    pub names_file: PathBuf,
}

/// Fixed for the process's life.
pub struct Settings {
    pub own_id: ClusterId,
    pub own_name: ClusterName,
}

/// What the loop begins with.
pub struct Start {
    pub maps: Box<Maps>,
    pub control: Control,
    pub comeback: Comeback,
    pub merger: Merger,
    /// What a crash left in the maps.
    pub leftover: Freed,
    /// Other layouts that serve until everything is in the maps.
    pub beside: Beside,
}

/// The merge loop.
pub struct MergeTask {
    settings: Settings,
    inputs: Inputs,
    outputs: Outputs,
    maps: Box<Maps>,
    /// As last written.
    control: Control,
    /// Whether it may be.
    comeback: Comeback,
    merger: Merger,
    /// Freed by plans since the grace period under way began.
    waiting: Freed,
    grace: Option<Grace>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    last_plan: Vec<String>,
    /// Map writes since free memory was last given back.
    untrimmed: usize,
    /// What the names file was written from.
    names_written: Option<Naming>,
    /// Whether the last attempt to write it failed.
    names_refused: bool,
    beside: Beside,
}

/// How often the names of frontends have changed, and the names of clusters.
type Naming = (u64, ClusterNames);

/// A grace period under way, and what it is for.
struct Grace {
    ended: JoinHandle<Result<(), MapError>>,
    freed: Freed,
}

impl MergeTask {
    pub fn new(settings: Settings, inputs: Inputs, outputs: Outputs, start: Start) -> Self {
        let Start { maps, control, comeback, merger, leftover, beside } = start;
        Self {
            settings,
            inputs,
            outputs,
            maps,
            control,
            comeback,
            merger,
            waiting: leftover,
            grace: None,
            backoff: Backoff::default(),
            retry_at: None,
            last_plan: Vec::new(),
            untrimmed: 0,
            names_written: None,
            names_refused: false,
            beside,
        }
    }

    /// Runs until the token is cancelled. Stopping changes nothing in the maps.
    pub async fn run(mut self, token: CancellationToken) {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.begin_grace();
            let retry_at = self.retry_at.map(tokio::time::Instant::from_std);
            tokio::select! {
                () = token.cancelled() => return,
                Ok(()) = self.inputs.local.changed() => self.settle(),
                Ok(()) = self.inputs.peers.changed() => self.settle(),
                Some(query) = self.inputs.queries.recv() => self.answer(query),
                ended = grace_period(&mut self.grace) => self.end_grace(ended),
                () = sleep_until(retry_at) => {
                    self.retry_at = None;
                    self.recover();
                    self.settle();
                }
                _ = heartbeat.tick() => self.beat(),
            }
        }
    }

    /// Observes and plans until nothing is left, unless a retry is due later.
    fn settle(&mut self) {
        let local = self.inputs.local.borrow_and_update().clone();
        let peers = self.inputs.peers.borrow_and_update().inputs();
        self.merger.observe(local.as_ref(), &peers);
        while self.retry_at.is_none() {
            let started = Instant::now();
            let Some(planned) = self.merger.next_plan() else { break };
            self.carry_out(planned, started);
        }
        if self.retry_at.is_none() && self.merger.is_settled() {
            self.outputs.planned.ready();
        }
        self.outputs.metrics.holds(self.merger.actual(), self.merger.refused().len());
    }

    fn carry_out(&mut self, mut planned: Planned, started: Instant) {
        for (frontend, shortage) in &planned.plan.refused {
            let (address, port) = (frontend.address, frontend.port);
            tracing::warn!(%address, port, reason = %shortage, "frontend keeps what it has");
        }
        self.waiting.append(std::mem::take(&mut planned.plan.freed));
        if planned.plan.is_empty() {
            return;
        }
        self.untrimmed += planned.plan.writes();
        self.last_plan = text::lines(&planned.plan, PLAN_LINES);
        let maps = self.maps.as_mut();
        let written = tokio::task::block_in_place(|| {
            maps.reset_counters(&planned.plan.fresh_counters)?;
            apply(maps, &planned.plan)
        });
        match written {
            Ok(applied) => {
                self.backoff.reset();
                self.outputs.metrics.planned(&planned.plan, started.elapsed().as_secs_f64());
                if let Some(applied) = applied {
                    self.outputs.events.publish(maps_written(planned, applied));
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &MapError) {
        let reason = mesh_kv::fault::chain(error);
        tracing::error!(error = reason, "writing the maps failed; they are read back and planned again");
        self.outputs.metrics.failed();
        self.outputs.events.publish(Event::ApplyFailed { at_unix_us: unix_us(SystemTime::now()), reason });
        self.retry_at = Some(Instant::now() + self.backoff.next_delay());
    }

    /// After a failure only the maps know what they hold.
    fn recover(&mut self) {
        // What a failed plan or one before it freed is free in what is restored: nobody may be reading it any more.
        let read = || maps::wait_grace_period().and_then(|()| self.maps.contents());
        let contents = match tokio::task::block_in_place(read) {
            Ok(contents) => contents,
            Err(error) => return self.fail(&error),
        };
        let restored = restore(&contents, self.merger.actual().capacity());
        // What waited for a grace period is among what nobody uses.
        self.grace = None;
        self.waiting = restored.leftover;
        self.names_written = None;
        self.merger.restart(restored.actual);
    }

    fn begin_grace(&mut self) {
        if self.grace.is_none() && !self.waiting.is_empty() {
            let ended = tokio::task::spawn_blocking(maps::wait_grace_period);
            self.grace = Some(Grace { ended, freed: std::mem::take(&mut self.waiting) });
        }
    }

    fn end_grace(&mut self, (ended, freed): (Result<(), MapError>, Freed)) {
        let released = ended.and_then(|()| {
            tokio::task::block_in_place(|| release(self.maps.as_mut(), self.merger.actual_mut(), freed))
        });
        match released {
            Ok(_) => {
                self.merger.released();
                self.settle();
            }
            Err(error) => self.fail(&error),
        }
    }

    /// A sign of life for the programs, and the kernel's counts for the metrics.
    fn beat(&mut self) {
        let settled = self.retry_at.is_none() && self.merger.is_settled();
        let all_spoke = self.merger.peers().have_all_spoken();
        let (now, now_ns) = (Instant::now(), sys::monotonic_ns());
        self.comeback.thaw(has_yielded(&self.control, now_ns), now);
        let mut written = Ok(());
        if self.comeback.may_beat(settled, all_spoke, now) {
            self.control.heartbeat_ns = now_ns;
            written = self.maps.write_control(&self.control);
        }
        let outcome = written.and_then(|()| self.maps.read_outcomes());
        match outcome {
            Ok(outcomes) => self.outputs.metrics.connects(&outcomes),
            Err(error) => {
                tracing::error!(error = mesh_kv::fault::chain(&error), "writing the heartbeat failed");
            }
        }
        if self.untrimmed >= TRIM_WRITES {
            self.untrimmed = 0;
            tokio::task::block_in_place(heap::trim);
        }
        let naming = (self.merger.actual().namings(), self.names());
        if self.names_written.as_ref() != Some(&naming) {
            self.write_names(naming);
        }
        if !self.beside.is_empty() {
            tokio::task::block_in_place(|| self.beside.pass(settled, all_spoke, Instant::now()));
        }
    }

    fn write_names(&mut self, naming: Naming) {
        let names = query::names(self.merger.actual(), &naming.1);
        let path = &self.outputs.names_file;
        let temporary = path.with_extension("tmp");
        let text = serde_json::to_vec(&names).expect("names are plain data");
        match std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path)) {
            Ok(()) => (self.names_written, self.names_refused) = (Some(naming), false),
            // Tried again with every beat, told of once.
            Err(error) if !std::mem::replace(&mut self.names_refused, true) => {
                tracing::warn!(path = %path.display(), %error, "the names file could not be written");
            }
            Err(_) => {}
        }
    }

    fn names(&self) -> ClusterNames {
        let own = (self.settings.own_id, self.settings.own_name.clone());
        self.inputs.peers.borrow().names().chain([own]).collect()
    }

    /// Whoever asked may be gone by now; that is fine.
    fn answer(&mut self, query: Query) {
        match query {
            Query::Services(reply) => {
                let kernel = self.kernel();
                let _ = reply.send(query::services(&self.merger, &self.names(), &kernel));
            }
            Query::Backends(only, reply) => {
                let _ = reply.send(query::backends(self.merger.actual(), &self.names(), only.as_ref()));
            }
            Query::Plan(reply) => {
                let _ = reply.send(self.last_plan.clone());
            }
        }
    }

    fn kernel(&self) -> Kernel {
        let groups = self.merger.actual().frontends().flat_map(|(_, held)| &held.groups);
        let ids: Vec<u32> = groups.map(|group| group.counter).filter(|counter| *counter != 0).collect();
        let counters = self.maps.read_counters(&ids).unwrap_or_default();
        let counters: HashMap<_, _> = ids.into_iter().zip(counters).collect();
        Kernel { counters, clusters: self.maps.read_clusters().ok() }
    }
}

/// Never ends while no grace period is under way.
async fn grace_period(grace: &mut Option<Grace>) -> (Result<(), MapError>, Freed) {
    let Some(under_way) = grace else { return std::future::pending().await };
    let ended = (&mut under_way.ended).await;
    let freed = grace.take().map(|grace| grace.freed).unwrap_or_default();
    // Blocking tasks are only cancelled when the runtime goes.
    (ended.unwrap_or(Ok(())), freed)
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn maps_written(planned: Planned, applied: Applied) -> Event {
    let Plan { backends, slots, services, deleted, .. } = &planned.plan;
    Event::MapsWritten {
        at_unix_us: unix_us(applied.first_write),
        done_unix_us: unix_us(applied.last_write),
        writes: Writes {
            backends: backends.len(),
            slots: slots.len(),
            services: services.len(),
            deleted_services: deleted.len(),
        },
        services: planned.services,
    }
}
