//! Looks at the cluster's certificates again and again, for as long as the process runs.
//!
//! The leader does. Where all replicas see the same certificates, each of them makes what keeps the cluster from having a
//! leader at all: what is missing or no longer counts, among them etcd's own; of several that try at once one succeeds. A failure
//! changes nothing of what is held, and is tried again soon.

use std::sync::Arc;
use std::time::Duration;

use mesh_failure::Backoff;
use mesh_runtime::Condition;
use rustls::pki_types::UnixTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::look::{LOOK, Look};

/// Makes and renews a cluster's certificates.
pub(crate) struct Keeper {
    look: Arc<Look>,
    condition: Condition,
    leading: watch::Receiver<bool>,
    /// The failure that was logged last, until a look succeeds again.
    reported: Option<String>,
}

impl Keeper {
    pub(crate) fn new(look: Arc<Look>, condition: Condition, leading: watch::Receiver<bool>) -> Self {
        Self { look, condition, leading, reported: None }
    }

    /// Keeps them until the token is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let leads = *self.leading.borrow_and_update();
            let wait = if leads || self.look.is_shared() {
                tokio::select! {
                    () = token.cancelled() => return,
                    wait = self.look(leads, &mut backoff) => wait,
                }
            } else {
                // Whoever leads does it.
                self.condition.ready();
                LOOK
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                Ok(()) = self.leading.changed() => {}
            }
        }
    }

    /// Looks once; says when to look again.
    async fn look(&mut self, leads: bool, backoff: &mut Backoff) -> Duration {
        let now = UnixTime::now();
        match self.look.pass(now, leads).await {
            Ok(next) => {
                backoff.reset();
                self.condition.ready();
                self.reported = None;
                Duration::from_secs(next.as_secs().saturating_sub(now.as_secs()).max(1)).min(LOOK)
            }
            Err(error) => {
                let reason = mesh_failure::chain(&error);
                self.look.failed();
                self.condition.not_ready(reason.clone());
                if self.reported.as_ref() != Some(&reason) {
                    tracing::error!(
                        error = reason,
                        "the cluster's certificates can't be kept; what is held stays"
                    );
                    self.reported = Some(reason);
                }
                backoff.next_delay().min(LOOK)
            }
        }
    }
}
