//! Writes that the kernel refused: whose they were, when they are tried again, and whether anything can be written at all.

use std::time::{Instant, SystemTime};

use mesh_admin::api::{Event, unix_us};
use mesh_model::desired::Frontend;

use super::merger::Merger;
use super::writer::Writer;
use crate::datapath::apply::Outcome;
use crate::datapath::maps::{Datapath, Refused};
use crate::datapath::plan::Plan;

/// Failed frontends of one plan that the log names.
const NAMED_FAILURES: usize = 10;

impl<D: Datapath> Writer<D> {
    /// A count that goes on where another ended is no reason to write nothing.
    pub(super) fn reset_counters(&mut self, plan: &Plan) {
        let refused = self.maps.reset_counters(&plan.fresh_counters);
        if let Some(Refused { error, .. }) = refused.first() {
            let error = mesh_failure::chain(error);
            tracing::warn!(counters = refused.len(), error, "connection counts do not begin at zero");
        }
    }

    /// Logs the failures; each waits for its next attempt.
    pub(super) fn fail(&mut self, merger: &mut Merger, outcome: &Outcome, now: Instant) {
        // A frontend in no mirror was to be deleted by the sweep, which finds it again.
        let held = |frontend: &Frontend| merger.actual().held(frontend).is_some();
        let failed: Vec<_> = outcome.failed.iter().filter(|(frontend, _)| held(frontend)).collect();
        let frontends = failed.len();
        for (number, (frontend, error)) in failed.into_iter().enumerate() {
            let reason = mesh_failure::chain(&outcome.errors[*error]);
            if number < NAMED_FAILURES {
                let (address, port, protocol) = (frontend.address, frontend.port, frontend.protocol);
                tracing::warn!(%address, port, %protocol, reason, "a write failed: frontend keeps what it has");
            }
            merger.failed(*frontend, reason);
            self.retries.failed(*frontend, now);
        }
        let reason = outcome.errors.first().map(|error| mesh_failure::chain(error)).unwrap_or_default();
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
            None => self.maps.check_writable().err().map(|error| mesh_failure::chain(&error)),
        };
    }
}
