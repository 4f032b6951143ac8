//! Writes Events, at a bounded rate, and counts what becomes of them.

use std::fmt;

use kube::Client;
use mesh_failure::{Backoff, chain};
use mesh_kube::{self as api, Access, ApiError};
use tokio::time::{Instant, sleep};

use super::allowance::Allowance;
use super::notice::{Notice, Reporter};
use crate::metrics::{Outcome, SourceMetrics};

const MAX_INSTANCE: usize = 128;

/// Writes Events.
pub struct EventWriter {
    access: Access,
    reporter: Reporter,
    metrics: SourceMetrics,
    client: Option<Client>,
    backoff: Backoff,
    allowance: Allowance,
    /// What has been complained about since an Event was taken.
    complained: Option<Outcome>,
}

impl fmt::Debug for EventWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventWriter").field("reporter", &self.reporter).finish_non_exhaustive()
    }
}

impl EventWriter {
    /// `instance`: which process of `controller` writes, such as a pod.
    pub fn new(access: Access, controller: &'static str, instance: &str, metrics: SourceMetrics) -> Self {
        let instance = instance.chars().take(MAX_INSTANCE).collect();
        Self {
            access,
            reporter: Reporter { controller, instance },
            metrics,
            client: None,
            backoff: Backoff::default(),
            allowance: Allowance::new(),
            complained: None,
        }
    }

    /// Waits for its turn, then writes. After [`Outcome::Failed`] it has left the API server alone for as long as that
    /// needs, and the same notice may be tried again.
    pub async fn write(&mut self, notice: &Notice) -> Outcome {
        sleep(self.allowance.wait(Instant::now())).await;
        let (outcome, error) = match self.post(notice).await {
            Ok(()) => (Outcome::Written, None),
            Err(error) => (outcome_of(error.code()), Some(error)),
        };
        self.metrics.events(outcome).inc();
        tracing::debug!(subject = %notice.subject, reason = notice.reason, ?outcome, "an Event");
        match error {
            Some(error) if matches!(outcome, Outcome::Refused | Outcome::Failed) => {
                self.complain(notice, outcome, &error);
                if outcome == Outcome::Failed {
                    self.client = None;
                    sleep(self.backoff.delay_after(error.asked_pause())).await;
                }
            }
            _ => {
                self.backoff.reset();
                self.complained = None;
            }
        }
        outcome
    }

    /// Once, until an Event is taken again: an administrator may have decided so, for all of them.
    fn complain(&mut self, notice: &Notice, outcome: Outcome, error: &ApiError) {
        if self.complained.replace(outcome) == Some(outcome) {
            return;
        }
        let (subject, error) = (&notice.subject, chain(error));
        match outcome {
            Outcome::Refused => tracing::warn!(%subject, error, "an Event may not be written"),
            _ => tracing::warn!(%subject, error, "an Event could not be written; trying again"),
        }
    }

    async fn post(&mut self, notice: &Notice) -> Result<(), ApiError> {
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(self.access.client().await?),
        };
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", notice.namespace());
        let body = serde_json::to_vec(&notice.event(&self.reporter)).map_err(ApiError::Malformed)?;
        let request = api::request(http::Method::POST, &path, "application/json", body)?;
        api::send(client, request).await.map(drop)
    }
}

/// What an answer that is an error means.
fn outcome_of(code: Option<u16>) -> Outcome {
    match code {
        // Another process has told it; or the object went together with its namespace.
        Some(404 | 409) => Outcome::Known,
        // A token that ran out, a request that took too long, a server that is busy.
        Some(401 | 408 | 429) | None => Outcome::Failed,
        // Not allowed: an administrator's decision, or a namespace that is about to go. Or not understood.
        Some(400..=499) => Outcome::Refused,
        Some(_) => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_not_change_is_not_tried_again() {
        for (code, outcome) in [
            (Some(409), Outcome::Known),
            (Some(404), Outcome::Known),
            (Some(403), Outcome::Refused),
            (Some(422), Outcome::Refused),
            (Some(401), Outcome::Failed),
            (Some(429), Outcome::Failed),
            (Some(503), Outcome::Failed),
            (None, Outcome::Failed),
        ] {
            assert_eq!(outcome_of(code), outcome, "{code:?}");
            assert_eq!(outcome.is_final(), outcome != Outcome::Failed);
        }
    }
}
