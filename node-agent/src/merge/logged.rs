//! Frontends that are not as desired for want of room: logged when that begins or changes, and counted.

use super::left_out::{self, LeftOutClusters};
use super::merger::Merger;
use super::metrics::Metrics;
use super::refusal::{self, Refusals};

/// As last told.
#[derive(Default)]
pub(super) struct Logged {
    left_out: LeftOutClusters,
    refused: Refusals,
}

impl Logged {
    /// `waiting`: frontends that a write failed of.
    pub(super) fn tell(&mut self, merger: &Merger, waiting: usize, metrics: &Metrics) {
        metrics.holds(merger.actual(), merger.refused_count());
        metrics.waiting(waiting);
        refusal::log(&self.refused, merger.refused().all());
        self.refused = merger.refused().all().clone();
        left_out::log(&self.left_out, merger.left_out());
        self.left_out = merger.left_out().clone();
        metrics.left_out(&self.left_out);
    }
}
