//! The agent's sign of life in the maps: without it, services that kube-proxy serves too pass to it.
//!
//! It says when the own source last confirmed what the maps hold of the own cluster, not that a loop turns: an agent whose
//! source is refused or silent, or whose plans can't be written, gives none.

use std::time::{Duration, Instant};

use mesh_abi::Control;
use mesh_runtime::Condition;

use super::failback::{Failback, has_yielded};
use super::metrics::Metrics;
use crate::datapath::control::ControlMap;
use crate::datapath::maps::MapError;

/// Where the sign of life is written.
pub trait Cell: Send {
    fn write(&mut self, control: &Control) -> Result<(), MapError>;
}

impl Cell for ControlMap {
    fn write(&mut self, control: &Control) -> Result<(), MapError> {
        Self::write(self, control)
    }
}

/// The content of a sign of life. It is given only where all of it holds, or is known not to matter.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The maps show everything that was observed.
    pub settled: bool,
    /// Everything is known of every peer.
    pub all_synced: bool,
    /// Why plans can't be written: then the maps are as old as the last one that could.
    pub frozen: Option<String>,
    /// When the own source last said that what the maps hold of the own cluster is current; none: never yet.
    pub confirmed: Option<Instant>,
}

/// Writes the heartbeat.
pub(super) struct Heartbeat {
    cell: Box<dyn Cell>,
    /// As last written.
    control: Control,
    /// Whether it may be.
    failback: Failback,
    /// Whether there is none because plans can't be written.
    silent: bool,
    /// Whether there is none because the own source has not confirmed anything for `--yield-after`.
    blind: bool,
    /// Whether the own source confirms what the maps hold.
    source: Condition,
    /// Whether plans can be written.
    writes: Condition,
    started: Instant,
}

impl Heartbeat {
    /// `control`: as it is to be from the first sign of life on. `source` holds while the own source confirms what the maps
    /// hold, `writes` while plans can be written.
    pub(super) fn new(
        (cell, control): (Box<dyn Cell>, Control),
        failback: Failback,
        (source, writes): (Condition, Condition),
    ) -> Self {
        let started = Instant::now();
        Self { cell, control, failback, silent: false, blind: false, source, writes, started }
    }

    /// A sign of life for the programs. `now` and `now_ns` (`CLOCK_MONOTONIC`) are the same moment.
    pub(super) fn beat(&mut self, state: &State, metrics: &Metrics, (now, now_ns): (Instant, u64)) {
        self.failback.suspended(has_yielded(&self.control, now_ns), now);
        self.show_source(state.confirmed, metrics, now);
        self.show_writes(state.frozen.as_deref());
        let sign_ns = state.confirmed.map(|at| now_ns.saturating_sub(nanoseconds(now.duration_since(at))));
        if let Some(sign_ns) = sign_ns.filter(|_| !self.blind)
            && self.may_beat(state, now)
            && sign_ns > self.control.heartbeat_ns
        {
            self.control.heartbeat_ns = sign_ns;
            if let Err(error) = self.cell.write(&self.control) {
                tracing::error!(error = mesh_failure::chain(&error), "writing the heartbeat failed");
            }
        }
    }
}

impl Heartbeat {
    /// How long ago the own source confirmed what the maps hold; told once when it is too long, and once when it is over.
    fn show_source(&mut self, confirmed: Option<Instant>, metrics: &Metrics, now: Instant) {
        let age = now.duration_since(confirmed.unwrap_or(self.started));
        metrics.source_age(age);
        let limit_ns = self.control.yield_after_ns;
        let blind = limit_ns != 0 && nanoseconds(age) > limit_ns;
        match (self.blind, blind) {
            (false, true) => {
                let reason = format!(
                    "the own source has not confirmed what the maps hold for {} s: services that kube-proxy serves too \
                     pass to it; see the log for what is wrong with the source",
                    age.as_secs()
                );
                tracing::error!(reason, "no heartbeat: the own source is silent");
                self.source.not_ready(reason);
            }
            (true, false) => tracing::info!("the own source confirms again what the maps hold"),
            _ => {}
        }
        self.blind = blind;
        if confirmed.is_some() && !blind {
            self.source.ready();
        }
    }

    fn may_beat(&mut self, state: &State, now: Instant) -> bool {
        self.failback.may_beat(state.settled, state.all_synced, now) && state.frozen.is_none()
    }

    /// Told once, and once that it is over.
    fn show_writes(&mut self, frozen: Option<&str>) {
        match (self.silent, frozen) {
            (false, Some(reason)) => tracing::error!(reason, "no heartbeat: plans can't be written"),
            (true, None) => tracing::info!("plans can be written again"),
            _ => {}
        }
        self.silent = frozen.is_some();
        match frozen {
            Some(reason) => self.writes.not_ready(format!("plans can't be written: {reason}")),
            None => self.writes.ready(),
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use mesh_runtime::Readiness;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const LIMIT: Duration = Duration::from_secs(120);
    /// The machine has been up for a while.
    const UP: u64 = 10_000 * SECOND_NS;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Option<Control>>>);

    impl Cell for Written {
        fn write(&mut self, control: &Control) -> Result<(), MapError> {
            *self.0.lock().unwrap() = Some(*control);
            Ok(())
        }
    }

    struct Agent {
        heartbeat: Heartbeat,
        written: Written,
        readiness: Readiness,
        metrics: Metrics,
        start: Instant,
    }

    impl Agent {
        /// An agent that finds this sign of life in the maps.
        fn new(heartbeat_ns: u64) -> Self {
            let control = Control { heartbeat_ns, yield_after_ns: nanoseconds(LIMIT), ..Control::default() };
            let readiness = Readiness::default();
            let source = readiness.condition("source", "waiting");
            let failback = Failback::new(has_yielded(&control, UP));
            let writes = readiness.condition("writes", "waiting");
            let written = Written::default();
            let heartbeat = Heartbeat::new((Box::new(written.clone()), control), failback, (source, writes));
            let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
            let start = heartbeat.started;
            Self { heartbeat, written, readiness, metrics, start }
        }

        /// A beat so many seconds after the start, the source's last word being of that second; whether services have
        /// passed to kube-proxy.
        fn yields(&mut self, at: u64, confirmed: Option<u64>, frozen: Option<&str>) -> bool {
            let time = |second| self.start + Duration::from_secs(second);
            let state = State {
                settled: true,
                all_synced: true,
                frozen: frozen.map(Into::into),
                confirmed: confirmed.map(time),
            };
            let now = (time(at), UP + at * SECOND_NS);
            self.heartbeat.beat(&state, &self.metrics, now);
            has_yielded(&self.heartbeat.control, now.1)
        }
    }

    #[test]
    fn a_source_that_falls_silent_yields_after_the_limit_and_comes_back_with_it() {
        let mut agent = Agent::new(UP - 5 * SECOND_NS);
        for second in 0..1000 {
            assert!(!agent.yields(second, Some(second), None), "idle, but confirmed");
        }
        assert!(agent.readiness.is_ready());
        assert!(!agent.yields(1100, Some(1000), None));
        assert!(agent.yields(1121, Some(1000), None));
        assert!(!agent.readiness.is_ready());
        assert!(agent.yields(1200, Some(1000), None));
        assert!(!agent.yields(1201, Some(1201), None), "the source confirms again");
        assert!(agent.readiness.is_ready());
    }

    #[test]
    fn crashes_before_the_source_is_synced_give_no_sign_of_life() {
        let found = UP - 119 * SECOND_NS;
        let mut agent = Agent::new(found);
        assert!(!agent.yields(1, None, None), "the age of the earlier agent's sign goes on");
        assert_eq!(*agent.written.0.lock().unwrap(), None, "nothing is written");
        assert!(agent.yields(2, None, None));
    }

    #[test]
    fn plans_that_cannot_be_written_yield_although_the_source_confirms() {
        let mut agent = Agent::new(UP);
        for second in 0..120 {
            assert!(!agent.yields(second, Some(second), Some("refused")));
        }
        assert!(agent.yields(122, Some(122), Some("refused")));
        let [missing] = &agent.readiness.missing()[..] else { panic!("one condition is missing") };
        assert_eq!((missing.condition, &*missing.reason), ("writes", "plans can't be written: refused"));
        agent.yields(123, Some(123), None);
        assert!(agent.readiness.is_ready());
    }

    #[test]
    fn a_sign_of_life_is_as_old_as_what_the_source_confirmed() {
        let mut agent = Agent::new(UP - 5 * SECOND_NS);
        agent.yields(10, Some(3), None);
        assert_eq!(
            agent.written.0.lock().unwrap().map(|control| control.heartbeat_ns),
            Some(UP + 3 * SECOND_NS)
        );
        agent.yields(11, Some(2), None);
        assert_eq!(agent.heartbeat.control.heartbeat_ns, UP + 3 * SECOND_NS, "it never gets older");
    }
}
