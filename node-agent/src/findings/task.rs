//! Looks now and then, and reports the findings of two looks in a row.

use std::time::Duration;

use mesh_source::SourceMetrics;
use mesh_source::kubernetes::{EventWriter, Notice};
use mesh_source::metrics::Outcome;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::look::Looked;
use super::metrics::Metrics;
use super::seen::Seen;
use super::stretch::fraction;

pub use super::look::Sources;

/// The reporter of the Events.
pub(crate) const CONTROLLER: &str = "clustermesh.io/node-agent";
/// So many are told after one look: what all nodes find at once comes to the API server little by little.
const MAX_TOLD: usize = 5;

/// Where findings are reported.
#[derive(Debug)]
pub enum Voice {
    Events(Box<EventWriter>),
    /// Where there is no API server.
    Log(SourceMetrics),
}

impl Voice {
    async fn tell(&mut self, notice: &Notice) -> Outcome {
        match self {
            Self::Events(writer) => writer.write(notice).await,
            Self::Log(metrics) => {
                let Notice { subject, reason, message, .. } = notice;
                tracing::warn!(%subject, reason, message, "somebody can act on this");
                metrics.events(Outcome::Logged).inc();
                Outcome::Logged
            }
        }
    }
}

/// The task.
#[derive(Debug)]
pub struct Findings {
    pub sources: Sources,
    pub voice: Voice,
    /// How often to look.
    pub every: Duration,
    pub metrics: Metrics,
}

impl Findings {
    /// Runs until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut seen = Seen::default();
        // The nodes of a cluster take turns.
        let first = Instant::now() + self.every.mul_f64(fraction(&self.sources.node));
        let mut looks = interval_at(first, self.every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let Some(looked) = self.look().await else { return };
            let due = seen.take(looked.notices, Instant::now());
            self.metrics.standing.set(gauge(seen.len()));
            for notice in due.iter().take(MAX_TOLD) {
                if !self.voice.tell(notice).await.is_final() {
                    break;
                }
                seen.told(notice, Instant::now());
            }
        }
    }

    /// None where it panicked, which ends the agent, or where the agent ends anyway.
    async fn look(&self) -> Option<Looked> {
        let (sources, started) = (self.sources.clone(), Instant::now());
        let looked = spawn_blocking(move || sources.look()).await.ok()?;
        self.metrics.looks.inc();
        self.metrics.look_seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.services.set(gauge(looked.services));
        Some(looked)
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
