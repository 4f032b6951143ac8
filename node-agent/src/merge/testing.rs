//! The loop's passes without a kernel: over maps, a control cell and counts that tests look at.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use mesh_abi::{Control, OUTCOMES};
use mesh_runtime::Readiness;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::connects::Outcomes;
use super::failback::Failback;
use super::heartbeat::Cell;
use super::history_tests::kernel::Kernel;
use super::merger::Merger;
use super::metrics::Metrics;
use super::passes::{Beat, Passes};
use super::start::{Outputs, Start};
use crate::admin::events::Events;
use crate::datapath::layouts::RetiringLayouts;
use crate::datapath::maps::MapError;
use crate::datapath::plan::Retired;

/// The control cell, as last written.
#[derive(Clone, Default)]
pub(super) struct Signs(pub(super) Arc<Mutex<Option<Control>>>);

impl Cell for Signs {
    fn write(&mut self, control: &Control) -> Result<(), MapError> {
        *self.0.lock().unwrap() = Some(*control);
        Ok(())
    }
}

/// Programs that count nothing.
struct Idle;

impl Outcomes for Idle {
    fn read(&self) -> Result<[u64; OUTCOMES], MapError> {
        Ok([0; OUTCOMES])
    }
}

pub(super) fn outputs(readiness: &Readiness) -> Outputs {
    Outputs {
        events: Events::default(),
        metrics: Metrics::register(&mut Registry::default()),
        planned: readiness.condition("plan", "waiting"),
        source: readiness.condition("source", "waiting"),
        writes: readiness.condition("writes", "waiting"),
        view: watch::Sender::default(),
    }
}

pub(super) fn start<D>(services: D, merger: Merger, leftover: Retired, signs: &Signs) -> Start<D> {
    Start {
        services,
        control: Box::new(signs.clone()),
        outcomes: Box::new(Idle),
        first: Control::default(),
        failback: Failback::new(false),
        merger,
        leftover,
        retiring: RetiringLayouts::default(),
    }
}

pub(super) fn passes(kernel: Kernel, merger: Merger, leftover: Retired) -> Passes<Kernel> {
    let outputs = outputs(&Readiness::default());
    Passes::new(outputs, start(kernel, merger, leftover, &Signs::default()))
}

/// A beat of a loop whose source confirms nothing.
pub(super) fn beat(now: Instant) -> Beat {
    Beat { now, now_ns: 0, confirmed: None, is_stuck: false }
}
