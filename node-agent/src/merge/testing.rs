//! The loop's passes without a kernel: over maps, a control cell and counts that tests look at.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use mesh_abi::{Control, OUTCOMES};
use mesh_model::annotation::Affinity;
use mesh_model::desired::Frontend;
use mesh_model::snapshot::{ClusterSnapshot, Protocol};
use mesh_runtime::Readiness;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::connects::Outcomes;
use super::failback::Failback;
use super::heartbeat::Cell;
use super::history_tests::CAPACITY;
use super::history_tests::kernel::Kernel;
use super::merger::{Merger, PeerInputs};
use super::merger_tests;
use super::metrics::Metrics;
use super::passes::{Beat, Passes};
use super::start::{Outputs, Start};
use super::writer::Writer;
use crate::admin::events::Events;
use crate::datapath::actual::Actual;
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

/// Metrics that nobody reads.
pub(super) fn metrics() -> Metrics {
    Metrics::register(&mut Registry::default())
}

/// The merger of cluster 1, over empty maps.
pub(super) fn merger() -> Merger {
    Merger::new(merger_tests::id(1), true, Actual::new(CAPACITY))
}

/// Writes into empty maps.
pub(super) fn writer() -> Writer<Kernel> {
    Writer::new(Kernel::new(), Retired::default(), Events::default(), metrics())
}

/// Services of cluster 1: the last byte of each one's ClusterIP, and of its endpoints' addresses.
pub(super) fn local(services: &[(u8, &[u8])]) -> Arc<ClusterSnapshot> {
    let service = |(number, hosts): &(u8, &[u8])| {
        (merger_tests::name(*number), merger_tests::service(1, *number, Affinity::None, hosts))
    };
    Arc::new(merger_tests::snapshot(services.iter().map(service)))
}

/// The frontend of such a service.
pub(super) fn frontend(number: u8) -> Frontend {
    Frontend { address: [10, 96, 1, number].into(), port: 80, protocol: Protocol::Tcp }
}

/// A folder of peer files without any.
pub(super) fn no_peers() -> PeerInputs {
    PeerInputs { claimed: Some([].into()), ..PeerInputs::default() }
}

pub(super) fn outputs(readiness: &Readiness) -> Outputs {
    Outputs {
        events: Events::default(),
        metrics: metrics(),
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
