//! The merge loop: wakes when a source or a peer has something new, when a grace period or a pause has ended, and when it is
//! time for a heartbeat. The work is in `passes`. Questions are answered elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::block_in_place;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::passes::{Beat, Passes};
use super::retired::GraceQueue;
use crate::datapath::inspect::Inspect;
use crate::datapath::maps::Datapath;
use crate::datapath::sys;

pub use super::retired::GraceWait;
pub use super::sources::Inputs;
pub use super::start::{Outputs, Start};

/// How often the heartbeat is written and the kernel's counts are read.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The merge loop.
pub struct MergeTask<D> {
    inputs: Inputs,
    passes: Passes<D>,
    grace: GraceQueue,
}

impl<D: Datapath + Inspect> MergeTask<D> {
    pub fn new(inputs: Inputs, outputs: Outputs, start: Start<D>, grace_periods: Arc<dyn GraceWait>) -> Self {
        let grace = GraceQueue::new(grace_periods, outputs.metrics.clone());
        Self { inputs, passes: Passes::new(outputs, start), grace }
    }

    /// Runs until the token is cancelled. Stopping changes nothing in the maps.
    pub async fn run(mut self, token: CancellationToken) {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let passes = &mut self.passes;
        loop {
            self.grace.add(passes.take_retired());
            let retry_at = passes.planner().retry_at().map(tokio::time::Instant::from_std);
            tokio::select! {
                () = token.cancelled() => return,
                () = self.inputs.changed() => {
                    let news = self.inputs.read();
                    block_in_place(|| passes.settle(&news, Instant::now()));
                }
                retired = self.grace.released() => block_in_place(|| passes.release(retired, Instant::now())),
                () = sleep_until(retry_at) => block_in_place(|| passes.retry(Instant::now())),
                _ = heartbeat.tick() => {
                    let beat = Beat {
                        now: Instant::now(),
                        now_ns: sys::monotonic_ns(),
                        confirmed: self.inputs.reconfirmed(),
                        is_stuck: self.grace.is_stuck(),
                    };
                    block_in_place(|| passes.beat(&beat));
                }
            }
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
