//! Keeps what the mesh API shows and whom it lets in as its own files and those of the peers say, without a restart. What
//! can't be read changes nothing.
//!
//! Looks at the own files instead of waiting for the kernel to tell of them: a mounted Secret is a link to a link, on whatever
//! file system. The peers' files are followed by [`crate::peers`].

use std::sync::Arc;
use std::time::Duration;

use mesh_runtime::Condition;
use mesh_trust::Refusal;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::metrics::ServeMetrics;
use super::tls::{Admission, Content, Judgement, Own, OwnFiles, TlsError};
use crate::peers::{Known, Trusted};

/// How often the own files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Told of every certificate that does not count.
pub(crate) type Refused = Arc<dyn Fn(&Refusal) + Send + Sync>;

/// Follows the files.
pub(crate) struct Reload {
    files: OwnFiles,
    judgement: Judgement,
    peers: watch::Receiver<Arc<Known>>,
    /// The own files as they could be used last.
    own: Option<(Content, Own)>,
    trusted: Trusted,
    admission: watch::Sender<Option<Arc<Admission>>>,
    condition: Condition,
    metrics: ServeMetrics,
    /// The failure that was logged last, until a reading succeeds again.
    reported: Option<String>,
}

impl Reload {
    /// Reads the files for the first time. Where they are not there yet, or can't be used, nobody is let in until they can:
    /// the process is not ready, exports all the same, and a Secret that is mirrored into the folder can still be mended.
    pub(crate) fn start(
        (files, mut peers): (OwnFiles, watch::Receiver<Arc<Known>>),
        judgement: Judgement,
        condition: Condition,
        metrics: ServeMetrics,
    ) -> Self {
        let trusted = peers.borrow_and_update().trusted();
        let (own, admission, reported) = (None, watch::Sender::default(), None);
        let mut reload =
            Self { files, judgement, peers, own, trusted, admission, condition, metrics, reported };
        let content = reload.files.content();
        let taken = reload.take(content);
        reload.report(taken);
        reload
    }

    pub(crate) fn admission(&self) -> watch::Receiver<Option<Arc<Admission>>> {
        self.admission.subscribe()
    }

    /// Follows them until the token is cancelled.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                Ok(()) = self.peers.changed() => self.take_peers(),
                _ = looks.tick() => {
                    let files = self.files.clone();
                    let Ok(content) = spawn_blocking(move || files.content()).await else { continue };
                    let taken = self.take(content);
                    self.report(taken);
                }
            }
        }
    }

    /// Takes the own files as they were read, where they are others than before.
    fn take(&mut self, content: Result<Content, TlsError>) -> Result<(), TlsError> {
        let mut content = content?;
        if let Some((before, _)) = &self.own {
            content.keep_authority(before);
            if *before == content {
                return Ok(());
            }
        }
        let own = self.files.own(&content, &self.judgement.cluster)?;
        self.own = Some((content, own));
        self.admit();
        Ok(())
    }

    /// Nothing of the own files keeps what the peers say now from counting.
    fn take_peers(&mut self) {
        let trusted = self.peers.borrow_and_update().trusted();
        if trusted != self.trusted {
            self.trusted = trusted;
            self.admit();
        }
    }

    /// Has what is known now count.
    fn admit(&mut self) {
        let Some((_, own)) = &self.own else { return };
        let admission = self.judgement.admission(own, &self.trusted);
        let before = self.admission.borrow().clone();
        if before.is_some() {
            self.metrics.reloads.inc();
            tracing::info!("certificates and trust of the mesh API were read anew");
        }
        let known = before.map(|before| before.left_out.clone()).unwrap_or_default();
        for reason in admission.left_out.iter().filter(|reason| !known.contains(reason)) {
            tracing::warn!(reason, "a peer file lets nobody in to the mesh API");
        }
        self.admission.send_replace(Some(Arc::new(admission)));
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
        if self.own.is_none() {
            self.condition.not_ready(reason.clone());
        }
        if self.reported.as_ref() == Some(&reason) {
            return;
        }
        if self.own.is_some() {
            tracing::warn!(
                error = reason,
                "certificates or trust of the mesh API can't be read; what was read before stays"
            );
        } else if error.is_missing() {
            tracing::info!(reason, "nobody is let in to the mesh API before it has certificates");
        } else {
            tracing::error!(
                error = reason,
                "nobody is let in to the mesh API before its certificate can be used"
            );
        }
        self.reported = Some(reason);
    }
}
