//! Keeps etcd equal to what this cluster's source says, for as long as this process leads.
//!
//! Every connection starts by reading what stands, so every pass may be the first: a restarted, wiped or meddled
//! with etcd needs no treatment of its own. Stopping removes nothing. Never writes to an etcd that holds another
//! cluster's records.

mod content;
mod fault;
mod metrics;
mod session;
mod standing;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_kv::backoff::Backoff;
use mesh_kv::election::{Candidate, Leadership};
use mesh_kv::{Dialer, Session};
use mesh_model::export::Identity;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_runtime::Condition;
use mesh_source::Status;
use rustls::crypto::ring;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use fault::ExportError;
pub use metrics::ExportMetrics;

/// For giving up the leadership at the end; the lease ends by itself soon after.
const RESIGN_DEADLINE: Duration = Duration::from_secs(1);
/// A connection that has lived so long was a success: the next failure starts with the shortest delay.
const STABLE: Duration = Duration::from_secs(5);

/// Where the source says what the cluster consists of.
#[derive(Clone, Debug)]
pub struct Source {
    /// None until the source's first full list.
    pub snapshots: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    /// Whether what the snapshot does not hold is gone.
    pub status: watch::Receiver<Arc<Status>>,
}

/// Publishes one cluster's records.
pub struct Exporter {
    identity: Identity,
    dialer: Arc<Dialer>,
    source: Source,
    candidate: Candidate,
    leadership: Option<Leadership>,
    /// Names this run of the process in the alive record.
    epoch: u64,
    /// Goes up with every alive record.
    counter: u64,
    condition: Condition,
    metrics: ExportMetrics,
    /// The failure that was logged last, until publishing works again.
    reported: Option<String>,
}

impl Exporter {
    /// `condition` holds while etcd shows everything that the source says.
    pub fn new(
        identity: Identity,
        dialer: Arc<Dialer>,
        source: Source,
        condition: Condition,
        metrics: ExportMetrics,
    ) -> Self {
        let epoch = random::<8>();
        // JSON readers may hold numbers as doubles, which are exact up to 53 bits.
        let epoch = u64::from_be_bytes(epoch) >> 11;
        let holder = format!("process {} ({epoch:x})", std::process::id());
        let candidate = Candidate::new(&identity.name, &holder);
        let (leadership, counter, reported) = (None, 0, None);
        Self { identity, dialer, source, candidate, leadership, epoch, counter, condition, metrics, reported }
    }

    /// Runs until the token is cancelled, whatever etcd does. Then lets a successor take over at once.
    pub async fn run(mut self, token: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let start = Instant::now();
            let error = tokio::select! {
                () = token.cancelled() => break,
                Err(error) = self.session() => error,
            };
            self.report(&error);
            if start.elapsed() >= STABLE {
                backoff.reset();
            }
            tokio::select! {
                () = token.cancelled() => break,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
        self.resign().await;
    }

    /// Says once what is wrong, and again only when it is something else.
    fn report(&mut self, error: &ExportError) {
        self.metrics.failed(error.reason());
        let text = error.to_string();
        self.condition.not_ready(text.as_str());
        if self.reported.as_ref() == Some(&text) {
            tracing::debug!(error = text, "still not publishing");
        } else if error.is_for_people() {
            tracing::error!(error = text, "not publishing; trying again");
        } else {
            tracing::warn!(error = text, "not publishing; trying again");
        }
        self.reported = Some(text);
    }

    async fn resign(&mut self) {
        let Some(leadership) = self.leadership.take() else { return };
        let resigning = async {
            let session = Session::open(&self.dialer).await?;
            leadership.resign(&session).await.map_err(ExportError::from)
        };
        match tokio::time::timeout(RESIGN_DEADLINE, resigning).await {
            Ok(Ok(())) => tracing::info!("gave up the leadership; all records stay"),
            Ok(Err(error)) => tracing::debug!(error = %error, "the leadership ends with its lease"),
            Err(_) => tracing::debug!("the leadership ends with its lease"),
        }
    }
}

/// Microseconds since the Unix epoch, by this machine's clock.
fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Bytes that nobody can guess.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::default_provider().secure_random.fill(&mut bytes).expect("the kernel's generator never fails");
    bytes
}
