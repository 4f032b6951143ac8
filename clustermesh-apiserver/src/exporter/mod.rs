//! Keeps etcd equal to what this cluster's source says, for as long as this process leads.
//!
//! Every connection starts by reading what stands, so every pass may be the first: a restarted, wiped or meddled
//! with etcd needs no treatment of its own. Stopping removes nothing. Never writes to an etcd that holds another
//! cluster's records.

mod alarms;
mod candidacy;
mod cluster_record;
mod export_state;
mod fault;
mod fitness;
#[cfg(test)]
mod history_tests;
mod metrics;
mod oversized;
mod publication;
mod session;
#[cfg(test)]
mod testing;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_failure::Backoff;
use mesh_kv::election::{Candidate, Leadership};
use mesh_kv::standby::Standby;
use mesh_kv::{Dialer, Session};
use mesh_model::export::Identity;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_runtime::{Condition, Readiness};
use mesh_source::Status;
use mesh_source::ranges::Known;
use rustls::crypto::ring;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use alarms::Alarms;
use fitness::{Fitness, Unfit};
use oversized::OversizedRecords;

pub use fault::ExportError;
pub use metrics::ExportMetrics;

/// For giving up the leadership at the end; the lease ends by itself soon after.
const RESIGN_DEADLINE: Duration = Duration::from_secs(1);
/// A connection that has lived so long was a success: the next failure starts with the shortest delay.
const STABLE: Duration = Duration::from_secs(5);

/// For how long a leader's source may be silent by default.
pub(crate) const RESIGN_AFTER: Duration = Duration::from_secs(60);

/// How often the history is compacted by default.
pub(crate) const COMPACT: Duration = Duration::from_secs(5 * 60);

/// Where the source says what the cluster consists of.
#[derive(Clone, Debug)]
pub struct Source {
    /// None until the source's first full list.
    pub snapshots: watch::Receiver<Option<Arc<ClusterSnapshot>>>,
    /// Whether what the snapshot does not hold is gone.
    pub status: watch::Receiver<Arc<Status>>,
    /// When the source last said that the snapshot is current, by the monotonic clock.
    pub confirmed: watch::Receiver<Option<std::time::Instant>>,
    /// The cluster's address ranges; while they are unknown nothing is published.
    pub ranges: Known,
}

/// Publishes one cluster's records.
pub struct Exporter {
    identity: Identity,
    dialer: Arc<Dialer>,
    source: Source,
    candidate: Candidate,
    standby: Arc<Standby>,
    fitness: Arc<Fitness>,
    leadership: Option<Leadership>,
    /// Whether nobody has led since this process did, unless it resigned.
    led_last: bool,
    /// Whether this process resigned for another, and nobody has led since.
    resigned: bool,
    /// How often in a row this process led and could not write everything.
    fruitless: u32,
    /// Names this run of the process in the alive record.
    epoch: u64,
    /// Goes up with every alive record.
    counter: u64,
    condition: Condition,
    alarms: Arc<Alarms>,
    oversized: OversizedRecords,
    compact_every: Duration,
    metrics: ExportMetrics,
    /// Whether this process may write.
    leading: watch::Sender<bool>,
    /// The failure that was logged last, until publishing works again.
    reported: Option<String>,
}

impl Exporter {
    /// Adds its conditions to `readiness`: that etcd shows everything that the source says, or that another process
    /// leads; that this process could lead; and that etcd has raised no alarm.
    pub fn new(
        identity: Identity,
        dialer: Arc<Dialer>,
        source: Source,
        readiness: &Readiness,
        metrics: ExportMetrics,
    ) -> Self {
        let condition = readiness.condition("export", "waiting for the source's first full list");
        let health = readiness.condition("etcd", "waiting for etcd's first answer");
        let epoch = random::<8>();
        // JSON readers may hold numbers as doubles, which are exact up to 53 bits.
        let epoch = u64::from_be_bytes(epoch) >> 11;
        let (holder, leading) = (holder(epoch), watch::Sender::default());
        let able = readiness.condition("fitness", Unfit::Unlisted.to_string());
        let fitness = Fitness::new(source.clone(), RESIGN_AFTER, leading.subscribe(), able, metrics.clone());
        Self {
            candidate: Candidate::new(&identity.name, &holder),
            standby: Arc::new(Standby::new(&identity.name, &format!("{epoch:x}"), &holder)),
            fitness: Arc::new(fitness),
            led_last: false,
            resigned: false,
            fruitless: 0,
            identity,
            dialer,
            source,
            leadership: None,
            epoch,
            counter: 0,
            condition,
            alarms: Arc::new(Alarms::new(health, metrics.clone())),
            oversized: OversizedRecords::new(metrics.clone()),
            compact_every: COMPACT,
            metrics,
            leading,
            reported: None,
        }
    }

    /// Compacts the history so often; readers who were away for a shorter time resume, and need no list.
    pub(crate) fn compacting_every(self, compact_every: Duration) -> Self {
        Self { compact_every, ..self }
    }

    /// Leaves the lead to another replica when the source has confirmed nothing for so long; zero: never.
    pub fn resigning_after(mut self, resign_after: Duration) -> Self {
        self.fitness = Arc::new(self.fitness.with_limit(resign_after));
        self
    }

    fn set_leading(&self, leads: bool) {
        self.metrics.leading.set(leads.into());
        if !leads {
            self.metrics.standbys.set(0);
        }
        self.leading.send_replace(leads);
    }

    /// Whether this process is its cluster's leader.
    pub(crate) fn leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    /// Runs until the token is cancelled, whatever etcd does. Then lets a successor take over at once.
    pub async fn run(mut self, token: CancellationToken) {
        let fitness = Arc::clone(&self.fitness);
        tokio::select! {
            () = token.cancelled() => {}
            never = fitness.show() => match never {},
            never = self.connect() => match never {},
        }
        self.resign().await;
    }

    /// One connection after the other.
    async fn connect(&mut self) -> Infallible {
        let mut backoff = Backoff::default();
        loop {
            let start = Instant::now();
            let Err(error) = self.session().await;
            self.report(&error);
            self.metrics.connected.set(0);
            self.set_leading(false);
            if start.elapsed() >= STABLE {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Says once what is wrong, and again only when it is something else.
    fn report(&mut self, error: &ExportError) {
        self.metrics.failed(error.reason());
        self.set_leading(false);
        let text = error.to_string();
        self.condition.not_ready(text.as_str());
        if self.reported.as_ref() == Some(&text) {
            tracing::debug!(error = text, "still not publishing");
        } else if error.is_unfit() {
            tracing::warn!(reason = text, "resigned");
        } else if error.is_for_people() {
            tracing::error!(error = text, "not publishing; trying again");
        } else {
            tracing::warn!(error = text, "not publishing; trying again");
        }
        self.reported = Some(text);
    }

    async fn resign(&mut self) {
        let leadership = self.leadership.take();
        if leadership.is_none() && !self.standby.is_announced() {
            return;
        }
        let resigning = async {
            let session = Session::open(&self.dialer).await?;
            candidacy::withdraw(&self.standby, &session).await;
            match leadership {
                Some(leadership) => leadership.resign(&session).await.map_err(ExportError::from),
                None => Ok(()),
            }
        };
        match tokio::time::timeout(RESIGN_DEADLINE, resigning).await {
            Ok(Ok(())) => tracing::info!("gave up what this process had in the election; all records stay"),
            Ok(Err(error)) => tracing::debug!(error = %error, "the leadership ends with its lease"),
            Err(_) => tracing::debug!("the leadership ends with its lease"),
        }
    }
}

/// What people know this process by.
fn holder(epoch: u64) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} process {} ({epoch:x})", host.trim(), std::process::id()).trim_start().to_owned()
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
