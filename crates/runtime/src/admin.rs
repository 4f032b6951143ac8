//! The HTTP server through which probes, Prometheus and people look into this process.
//!
//! It listens on a TCP address or a unix socket and never changes the process's state by itself; routes beyond
//! [`health_routes`] are the caller's.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::lock::{Lock, LockError};
use crate::metrics::{self, Registry};
use crate::readiness::Readiness;

/// How long open requests, e.g. endless streams, may go on after the process was told to stop.
const GRACE: Duration = Duration::from_millis(500);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    /// Its directory is created if absent; the socket is for its owner only (mode 0600). Whoever listens holds the
    /// lock beside it, `*.lock`.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why the admin server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("cannot listen on {listen} for the admin server")]
    Bind { listen: Listen, source: io::Error },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("another process answers on {path}; stop it first, or choose another path or instance", path = .path.display())]
    InUse { path: PathBuf },
    #[error("{path} exists and is no socket; remove it, or choose another path", path = .path.display())]
    NoSocket { path: PathBuf },
    #[error("the admin server on {listen} stopped")]
    Serve { listen: Listen, source: io::Error },
}

/// A bound admin server that does not answer yet.
#[derive(Debug)]
pub struct AdminServer {
    listen: Listen,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl AdminServer {
    /// Binds, so that a taken address stops the process at its start rather than later.
    pub async fn bind(listen: Listen) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Bind { listen: listen.clone(), source };
        let (listen, socket) = match &listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                (Listen::Tcp(listener.local_addr().map_err(failed)?), Socket::Tcp(listener))
            }
            Listen::Unix(path) => {
                let lock = lock(path)?;
                clear_stale(path).await?;
                let (listener, file) = bind_unix(path, lock).map_err(failed)?;
                (listen.clone(), Socket::Unix(listener, file))
            }
        };
        tracing::info!(address = %listen, "admin server listens");
        Ok(Self { listen, socket })
    }

    /// Where it listens; the real port where 0 was asked for.
    #[cfg(test)]
    pub(crate) fn address(&self) -> &Listen {
        &self.listen
    }

    /// Serves until `token` is cancelled; open requests then get a moment to finish.
    pub async fn serve(self, routes: Router, token: CancellationToken) -> Result<(), AdminError> {
        let stop = token.clone().cancelled_owned();
        let serving = async {
            match self.socket {
                Socket::Tcp(listener) => axum::serve(listener, routes).with_graceful_shutdown(stop).await,
                Socket::Unix(listener, _file) => {
                    axum::serve(listener, routes).with_graceful_shutdown(stop).await
                }
            }
        };
        let overdue = async {
            token.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let served = tokio::select! {
            served = serving => served,
            () = overdue => Ok(()),
        };
        served.map_err(|source| AdminError::Serve { listen: self.listen, source })
    }
}

/// Removes the socket when the server ends, and then lets go of its lock.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    _lock: Lock,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody else can have taken the path: the lock is still held.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// To find nobody on the socket proves nothing: two that start at once would each remove the other's.
fn lock(socket: &Path) -> Result<Lock, AdminError> {
    if let Some(directory) = socket.parent() {
        let failed = |source| AdminError::Bind { listen: Listen::Unix(socket.into()), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    Ok(Lock::take(&socket.with_extension("lock"))?)
}

/// Removes a socket on which nobody answers, as a killed process leaves it behind. A process that answers is of a
/// version that takes no lock.
async fn clear_stale(path: &Path) -> Result<(), AdminError> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(AdminError::NoSocket { path: path.into() });
    }
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(AdminError::InUse { path: path.into() });
    }
    std::fs::remove_file(path)
        .map_err(|source| AdminError::Bind { listen: Listen::Unix(path.into()), source })
}

fn bind_unix(path: &Path, lock: Lock) -> io::Result<(UnixListener, SocketFile)> {
    let listener = UnixListener::bind(path)?;
    let file = SocketFile { path: path.into(), _lock: lock };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok((listener, file))
}

/// `/livez`, `/readyz` and `/metrics`; merge further routes into it.
pub fn health_routes(readiness: Readiness, registry: Arc<Registry>) -> Router {
    let ready = move || async move { readyz(&readiness) };
    let metrics = move || async move { ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], registry.encode()) };
    // Alive means that the runtime still answers: whatever else is wrong, a restart would not mend it.
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

fn readyz(readiness: &Readiness) -> Response {
    let missing = readiness.missing();
    let remarks = readiness.remarks().into_iter().map(|(about, line)| format!("remark: {about}: {line}\n"));
    if missing.is_empty() {
        return std::iter::once("ok\n".to_owned()).chain(remarks).collect::<String>().into_response();
    }
    let line = |it: crate::readiness::Missing| format!("{}: {}\n", it.condition, it.reason);
    let body: String = std::iter::once("not ready\n".to_owned())
        .chain(missing.into_iter().map(line))
        .chain(remarks)
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
