//! Keeps what the mesh API shows and whom it lets in as its files say, without a restart. What can't be read changes nothing.
//!
//! Looks at the files instead of waiting for the kernel to tell of them: a mounted Secret is a link to a link, on whatever
//! file system.

use std::sync::Arc;
use std::time::Duration;

use mesh_model::name::ClusterName;
use mesh_runtime::Condition;
use mesh_trust::Refusal;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::metrics::ServeMetrics;
use super::tls::{Admission, Content, TlsError, TlsFiles};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Told of every certificate that does not count.
pub(crate) type Refused = Arc<dyn Fn(&Refusal) + Send + Sync>;

/// Follows the files.
pub(crate) struct Reload {
    files: TlsFiles,
    cluster: ClusterName,
    refused: Refused,
    seen: Option<Content>,
    admission: watch::Sender<Option<Arc<Admission>>>,
    condition: Condition,
    metrics: ServeMetrics,
    /// The failure that was logged last, until a reading succeeds again.
    reported: Option<String>,
}

impl Reload {
    /// Reads the files for the first time. Where they are not there yet, nobody is let in until they are.
    ///
    /// # Errors
    /// Where what is there can't be used: somebody has to see that at the start.
    pub(crate) fn start(
        (files, cluster): (TlsFiles, ClusterName),
        refused: Refused,
        condition: Condition,
        metrics: ServeMetrics,
    ) -> Result<Self, TlsError> {
        let admission = watch::Sender::default();
        let mut reload =
            Self { files, cluster, refused, seen: None, admission, condition, metrics, reported: None };
        let content = reload.files.content();
        match reload.take(content) {
            Err(error) if !error.is_missing() => return Err(error),
            taken => reload.report(taken),
        }
        Ok(reload)
    }

    pub(crate) fn admission(&self) -> watch::Receiver<Option<Arc<Admission>>> {
        self.admission.subscribe()
    }

    /// Follows them until the token is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let files = self.files.clone();
            let Ok(content) = spawn_blocking(move || files.content()).await else { continue };
            let taken = self.take(content);
            self.report(taken);
        }
    }

    /// Takes what was read where it is something else than before.
    fn take(&mut self, content: Result<Content, TlsError>) -> Result<(), TlsError> {
        let content = content?;
        if self.seen.as_ref() == Some(&content) {
            return Ok(());
        }
        let admission = self.files.admission(&content, &self.cluster, self.refused.clone())?;
        if self.seen.replace(content).is_some() {
            self.metrics.reloads.inc();
            tracing::info!("certificates and trust of the mesh API were read anew");
        }
        self.admission.send_replace(Some(Arc::new(admission)));
        Ok(())
    }

    /// Tells of a failure once, also by readiness and metrics, until a reading succeeds.
    fn report(&mut self, taken: Result<(), TlsError>) {
        let Err(error) = taken else {
            self.condition.ready();
            self.metrics.reload_failing.set(0);
            self.reported = None;
            return;
        };
        let reason = mesh_failure::chain(&error);
        self.metrics.reload_failing.set(1);
        // Who has certificates that count goes on being served.
        if self.seen.is_none() {
            self.condition.not_ready(reason.clone());
        }
        if self.reported.as_ref() == Some(&reason) {
            return;
        }
        if self.seen.is_none() && error.is_missing() {
            tracing::info!(reason, "nobody is let in to the mesh API before it has certificates");
        } else {
            tracing::warn!(
                error = reason,
                "certificates or trust of the mesh API can't be read; what was read before stays"
            );
        }
        self.reported = Some(reason);
    }
}
