//! The start of the merge loop: its first state and its outputs.

use std::sync::Arc;

use mesh_abi::Control;
use mesh_runtime::Condition;
use tokio::sync::watch;

use super::connects::Outcomes;
use super::failback::Failback;
use super::heartbeat::Cell;
use super::merger::Merger;
use super::metrics::Metrics;
use super::view::View;
use crate::admin::events::Events;
use crate::datapath::layouts::RetiringLayouts;
use crate::datapath::plan::Retired;

/// The outputs of the loop.
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

/// The first state of the loop.
pub struct Start<D> {
    pub services: D,
    pub control: Box<dyn Cell>,
    pub outcomes: Box<dyn Outcomes>,
    /// As it is to be from the first sign of life on.
    pub first: Control,
    pub failback: Failback,
    pub merger: Merger,
    /// Elements that a crash left in the maps.
    pub leftover: Retired,
    /// Other layouts that serve until everything is in the maps.
    pub retiring: RetiringLayouts,
}
