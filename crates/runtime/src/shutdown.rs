//! From signals to a token: SIGTERM or SIGINT stops gracefully, a second one exits at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Why signals could not be caught.
#[derive(Debug, thiserror::Error)]
#[error("cannot catch {name}")]
pub struct SignalError {
    name: &'static str,
    source: io::Error,
}

/// The signals that stop this process. From the moment it exists they no longer kill it by themselves.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn install() -> Result<Self, SignalError> {
        let catch = |name, kind| signal(kind).map_err(|source| SignalError { name, source });
        let terminate = catch("SIGTERM", SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: catch("SIGINT", SignalKind::interrupt())? })
    }

    /// Cancels `token` at the first signal and exits with the shell's status for it (128 + number) at the second.
    pub(crate) async fn cancel_then_exit(mut self, token: CancellationToken) {
        let (name, _) = self.next().await;
        tracing::info!(signal = name, "stopping");
        token.cancel();
        let (name, number) = self.next().await;
        tracing::warn!(signal = name, "a second signal: exiting at once");
        std::process::exit(128 + number);
    }

    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        }
    }
}
