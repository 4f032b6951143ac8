//! Looks at this cluster's certificate for its peers, so that a new one is there for the next connection and a broken one is
//! told before a connection needs it.
//!
//! Never closes a connection: a peer that takes the certificate no longer does.

use std::time::Duration;

use mesh_kv::{Credentials, TlsError};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// How often the files are looked at: a mounted Secret is a link to a link, on whatever file system.
const LOOK: Duration = Duration::from_millis(500);

/// Looks at the files.
pub(crate) struct CredentialsTask {
    credentials: Credentials,
    metrics: Metrics,
    /// Why the files can't be used as they are.
    failure: watch::Sender<Option<String>>,
}

impl CredentialsTask {
    pub(crate) fn new(credentials: Credentials, metrics: Metrics) -> Self {
        Self { credentials, metrics, failure: watch::Sender::default() }
    }

    /// For remarks of a process that goes on with what it had.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.subscribe()
    }

    /// Looks until the token is cancelled.
    pub(crate) async fn run(self, token: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                _ = looks.tick() => {}
            }
            let credentials = self.credentials.clone();
            if let Ok(read) = spawn_blocking(move || credentials.read()).await {
                self.show(read);
            }
        }
    }

    fn show(&self, read: Result<bool, TlsError>) {
        let is_held = self.credentials.expires();
        self.metrics.certificate_expires(is_held.map_or(0, |expires| expires.as_secs()));
        self.metrics.certificate_failing.set(read.is_err().into());
        let failure = read.as_ref().err().map(|error| mesh_failure::chain(error));
        if matches!(read, Ok(true)) {
            self.metrics.certificate_reloads.inc();
            tracing::info!("the certificate for peers was read");
        }
        let is_new = self.failure.send_if_modified(|known| {
            let other = *known != failure;
            known.clone_from(&failure);
            other
        });
        let (Some(error), true) = (failure, is_new) else { return };
        if is_held.is_none() && read.is_err_and(|error| error.is_missing()) {
            tracing::info!(error, "there is no certificate for peers yet");
        } else {
            tracing::warn!(error, "the certificate for peers can't be read; what was read before stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_kv::testing::Ca;
    use prometheus_client::registry::Registry;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_broken_certificate_is_told_until_it_is_mended_and_a_new_one_is_there_at_once() {
        let dir = tempfile::tempdir().unwrap();
        Ca::new("hoth").issue("agent", dir.path());
        let (credentials, metrics) =
            (Credentials::in_folder(dir.path()), Metrics::register(&mut Registry::default()));
        let task = CredentialsTask::new(credentials.clone(), metrics.clone());
        let (mut failure, token) = (task.failure(), CancellationToken::new());
        let running = tokio::spawn(task.run(token.clone()));
        std::fs::write(dir.path().join("tls.crt"), "broken").unwrap();
        let broken = tokio::time::timeout(DEADLINE, failure.wait_for(Option::is_some)).await;
        assert!(broken.unwrap().unwrap().as_ref().unwrap().contains("tls.crt"));
        assert_eq!(metrics.certificate_failing.get(), 1);
        Ca::new("hoth").issue("agent", dir.path());
        tokio::time::timeout(DEADLINE, failure.wait_for(Option::is_none)).await.unwrap().unwrap();
        assert!(credentials.expires().is_some());
        token.cancel();
        running.await.unwrap();
    }
}
