//! Shows the alarms that the own etcd has raised, and knows when they are gone.
//!
//! Never disarms one: that is for people, who make room first.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_kv::alarm::Alarm;
use mesh_kv::fault::CallReason;
use mesh_kv::health::alarms;
use mesh_kv::{CallError, Session};
use mesh_runtime::Condition;
use tokio::sync::watch;
use tokio::time::timeout;

use super::metrics::ExportMetrics;

/// How often etcd is asked for its alarms.
const POLL: Duration = Duration::from_secs(10);
/// The same while one stands, so that its end is noticed soon.
const POLL_RAISED: Duration = Duration::from_secs(2);
/// After so long a wait for space a write is tried, whatever etcd says of its alarms, if it says anything.
const TRY_ANYWAY: Duration = Duration::from_secs(30);

/// The alarms of the own etcd, as far as they are known.
pub(super) struct Alarms {
    raised: watch::Sender<BTreeSet<Alarm>>,
    /// Whether etcd refuses to tell its alarms.
    is_silent: AtomicBool,
    condition: Condition,
    metrics: ExportMetrics,
}

impl Alarms {
    /// `condition` holds while there is none.
    pub(super) fn new(condition: Condition, metrics: ExportMetrics) -> Self {
        Self { raised: watch::Sender::default(), is_silent: AtomicBool::new(false), condition, metrics }
    }

    /// Asks etcd again and again.
    pub(super) async fn follow(&self, session: &Session) -> Infallible {
        let mut raised = self.raised.subscribe();
        loop {
            self.look(session).await;
            let quiet = raised.borrow_and_update().is_empty();
            // A refused write shows an alarm before the next poll does.
            let _ = timeout(if quiet { POLL } else { POLL_RAISED }, raised.changed()).await;
        }
    }

    /// Asks etcd once.
    pub(super) async fn look(&self, session: &Session) {
        match alarms(session).await {
            Ok(raised) => {
                self.is_silent.store(false, Ordering::Relaxed);
                self.show(raised);
            }
            // Not every etcd lets everybody ask; a refused write tells of lacking space, too.
            Err(CallError { reason: CallReason::Refused(text) | CallReason::Auth(text), .. }) => {
                self.is_silent.store(true, Ordering::Relaxed);
                tracing::debug!(error = text, "etcd does not tell its alarms");
                self.show(self.raised.borrow().clone());
            }
            Err(error) => tracing::debug!(error = %error, "cannot read etcd's alarms now"),
        }
    }

    /// Etcd has refused a write for lack of space: waits until it may take writes again.
    pub(super) async fn until_space(&self) {
        let mut raised = self.raised.subscribe();
        let mut known = raised.borrow_and_update().clone();
        if known.insert(Alarm::NoSpace) {
            self.show(known);
        }
        // Gone, or tried anyway: either way the next write tells.
        let _ = timeout(TRY_ANYWAY, raised.wait_for(|raised| !raised.contains(&Alarm::NoSpace))).await;
    }

    /// Etcd has taken a record. Where it does not tell its alarms, that means that it has space.
    pub(super) fn took_record(&self) {
        let mut known = self.raised.borrow().clone();
        if self.is_silent.load(Ordering::Relaxed) && known.remove(&Alarm::NoSpace) {
            self.show(known);
        }
    }

    fn show(&self, raised: BTreeSet<Alarm>) {
        let before = self.raised.borrow().clone();
        for alarm in Alarm::ALL {
            self.metrics.set_alarm(alarm, raised.contains(&alarm));
        }
        for alarm in raised.difference(&before) {
            tracing::error!(%alarm, remedy = alarm.remedy(), "etcd has raised an alarm");
        }
        for alarm in before.difference(&raised) {
            tracing::info!(%alarm, "etcd's alarm is gone");
        }
        match raised.first() {
            None => self.condition.ready(),
            Some(alarm) => {
                self.condition.not_ready(format!("etcd has raised the alarm {alarm}: {}", alarm.remedy()));
            }
        }
        self.raised.send_if_modified(|known| {
            let differs = *known != raised;
            *known = raised;
            differs
        });
    }
}
