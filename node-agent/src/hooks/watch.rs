//! Watches that the pods are served, and who else is at the hooks: looks before the agent calls itself ready, and now and
//! then afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mesh_failure::Backoff;
use mesh_runtime::Condition;
use tokio_util::sync::CancellationToken;

use super::ahead::Ahead;
use super::told::Told;
use super::verdict::{awaits_plan, verdict};
use crate::datapath::canary::{Canary, CanaryError, Proof};
use crate::datapath::hook_order::Order;
use crate::datapath::programs::Installation;

pub use super::told::Outputs;

/// How often an agent looks once all has been well.
pub(crate) const INTERVAL: Duration = Duration::from_secs(60);

/// And while there is nothing to dial yet.
const SOON: Duration = Duration::from_millis(500);

/// The hooks to look at, and how often.
#[derive(Clone, Debug)]
pub struct Watch {
    pub canary: Canary,
    /// Moves the programs before those of others.
    pub installation: Installation,
    pub interval: Duration,
    /// Holds once the maps show what the sources say.
    pub planned: Condition,
    /// Whether the node is ready although something else takes frontends.
    pub allow_taken: bool,
}

impl Watch {
    /// Looks until all is well, then now and then.
    pub async fn run(self, outputs: Outputs, token: CancellationToken) {
        let (mut backoff, mut told) = (Backoff::default(), Told::new(outputs));
        let (mut well, mut ahead) = (None, Ahead::default());
        loop {
            // Before the maps are read.
            let planned = self.planned.holds();
            let seen = self.canary.probe().await;
            let mut interval = self.interval;
            if let Some(order) = &seen.order {
                if ahead.is_due(order, Instant::now()) && self.move_ahead(order).await {
                    continue;
                }
                told.tell(order, &seen.dialled, &self.canary.cgroup);
                let verdict = verdict(order, &seen.dialled, planned);
                told.balances(if self.allow_taken { Ok(()) } else { verdict });
                if !planned && awaits_plan(order, &seen.dialled) {
                    interval = interval.min(SOON);
                }
            }
            let is_well = seen.proof.is_ok();
            if well != Some(is_well) {
                say(&seen.proof);
            }
            well = Some(is_well);
            told.served(seen.proof.map(drop));
            let pause = if is_well {
                backoff.reset();
                interval
            } else {
                backoff.next_delay()
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether programs were moved.
    async fn move_ahead(&self, order: &Order) -> bool {
        let installation = self.installation.clone();
        let moved = tokio::task::spawn_blocking(move || installation.move_ahead()).await;
        match moved {
            Ok(Ok(moved)) if moved.is_empty() => false,
            Ok(Ok(moved)) => {
                let before = order.foreign.iter().filter(|foreign| foreign.before);
                let others: BTreeSet<_> = before.map(|foreign| foreign.program).collect();
                tracing::info!(?moved, ?others, "programs were moved before those of others");
                true
            }
            Ok(Err(error)) => {
                let error = mesh_failure::chain(&error);
                tracing::warn!(error, "the programs could not be moved before those of others");
                false
            }
            // The agent is about to end.
            Err(_) => false,
        }
    }
}

fn say(proof: &Result<Proof, CanaryError>) {
    match proof {
        Ok(Proof::Dialled) => {
            tracing::info!("the canary is well: connects below the programs' cgroup are translated")
        }
        Ok(Proof::Asked) => tracing::info!(
            "the canary is well: the programs run for all cgroups below theirs; the agent isn't below it, and may not \
             put a process there to dial"
        ),
        Err(error) => {
            let error = mesh_failure::chain(error);
            tracing::error!(error, "the canary is not well: connects are not translated");
        }
    }
}
