//! Tells the owners of Services what is wrong with them, by Events (`events.k8s.io/v1`).
//!
//! Each finding is told once while it stands, and again every hour, after which Kubernetes forgets Events; an Event's
//! name says what it is about, so that a new leader tells nothing twice. Rate-limited. Only the leader writes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::api::{self, ApiError};
use super::backoff::Backoff;
use super::follow::chain;
use super::mirror::Report;
use crate::metrics::SourceMetrics;

const CONTROLLER: &str = "clustermesh.io/clustermesh-apiserver";
/// Kubernetes' default of how long it keeps Events.
const AGAIN: Duration = Duration::from_secs(3600);
/// So many at once, then one per pause.
const BURST: u32 = 20;
const PAUSE: Duration = Duration::from_secs(2);
/// Longest note that Kubernetes takes.
const MAX_NOTE_BYTES: usize = 1024;
const MAX_INSTANCE: usize = 128;

/// Writes Events.
#[derive(Debug)]
pub struct Events {
    access: Access,
    /// Who writes: this pod.
    instance: String,
    reports: watch::Receiver<Arc<Vec<Report>>>,
    leading: watch::Receiver<bool>,
    metrics: SourceMetrics,
    told: BTreeMap<Report, Instant>,
    allowance: Allowance,
}

impl Events {
    /// Tells `reports` while `leading`.
    pub fn new(
        access: Access,
        instance: &str,
        reports: watch::Receiver<Arc<Vec<Report>>>,
        leading: watch::Receiver<bool>,
        metrics: SourceMetrics,
    ) -> Self {
        let instance = instance.chars().take(MAX_INSTANCE).collect();
        Self {
            access,
            instance,
            reports,
            leading,
            metrics,
            told: BTreeMap::new(),
            allowance: Allowance::new(),
        }
    }

    /// Runs until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let (mut backoff, mut client) = (Backoff::default(), None);
        loop {
            let reports = self.reports.borrow_and_update().clone();
            self.told.retain(|report, _| reports.binary_search(report).is_ok());
            if !*self.leading.borrow_and_update() {
                self.told.clear();
            } else if let Some(report) = self.due(&reports) {
                match self.tell(&mut client, report).await {
                    Ok(()) => backoff.reset(),
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "an Event could not be written; trying again");
                        client = None;
                        sleep(backoff.delay_after(&error)).await;
                    }
                }
                continue;
            }
            tokio::select! {
                Ok(()) = self.reports.changed() => {}
                Ok(()) = self.leading.changed() => {}
                () = sleep(AGAIN / 60) => {}
            }
        }
    }

    fn due<'r>(&self, reports: &'r [Report]) -> Option<&'r Report> {
        reports.iter().find(|report| self.told.get(*report).is_none_or(|told| told.elapsed() >= AGAIN))
    }

    async fn tell(&mut self, client: &mut Option<Client>, report: &Report) -> Result<(), ApiError> {
        sleep(self.allowance.wait(Instant::now())).await;
        let client = match client {
            Some(client) => client,
            None => client.insert(self.access.client().await?),
        };
        match post(client, &event(report, &self.instance)).await {
            Ok(()) => drop(self.metrics.events.inc()),
            // Another leader has told it; or the Service went together with its namespace.
            Err(error) if matches!(error.code(), Some(404 | 409)) => {}
            // Not allowed: an administrator's decision, or a namespace that is about to go.
            Err(error) if error.code() == Some(403) => {
                tracing::warn!(service = %report.service, error = chain(&error), "an Event may not be written");
            }
            Err(error) => return Err(error),
        }
        self.told.insert(report.clone(), Instant::now());
        Ok(())
    }
}

async fn post(client: &Client, event: &Event) -> Result<(), ApiError> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let body = serde_json::to_vec(event).map_err(ApiError::Malformed)?;
    let request = http::Request::post(path).header("content-type", "application/json").body(Body::from(body));
    let request = request.map_err(|error| ApiError::Unreachable(error.into()))?;
    api::send(client, request).await.map(drop)
}

fn event(report: &Report, instance: &str) -> Event {
    let (namespace, name) = (report.service.namespace(), report.service.name());
    let mut hasher = DefaultHasher::new();
    (&report.uid, report.reason, &report.message).hash(&mut hasher);
    let mut note = report.message.clone();
    while note.len() > MAX_NOTE_BYTES {
        note.pop();
    }
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:016x}", hasher.finish())),
            namespace: Some(namespace.into()),
            ..ObjectMeta::default()
        },
        action: Some("Export".into()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(note),
        reason: Some(reason(report)),
        regarding: Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            uid: Some(report.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some(instance.into()),
        type_: Some(if report.reason.is_fault() { "Warning" } else { "Normal" }.into()),
        ..Event::default()
    }
}

/// As Kubernetes writes reasons: in upper camel case.
fn reason(report: &Report) -> String {
    let words = format!("{:?}", report.reason);
    let camel = words.split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    camel.collect()
}

/// A bucket of tokens.
#[derive(Debug)]
struct Allowance {
    tokens: u32,
    filled: Option<Instant>,
}

impl Allowance {
    fn new() -> Self {
        Self { tokens: BURST, filled: None }
    }

    /// Takes a token. Returns how long to wait before it counts.
    fn wait(&mut self, now: Instant) -> Duration {
        let filled = *self.filled.get_or_insert(now);
        let whole = now.saturating_duration_since(filled).as_secs() / PAUSE.as_secs();
        let whole = u32::try_from(whole).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(whole).min(BURST);
        self.filled = Some(if self.tokens == BURST { now } else { filled + PAUSE * whole });
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Duration::ZERO
            }
            None => {
                self.filled = Some(now + PAUSE);
                PAUSE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Reason;

    fn report(uid: &str) -> Report {
        let (service, reason) = ("ns/rebel-base".parse().unwrap(), Reason::external_name);
        Report { service, uid: uid.into(), reason, message: "é".repeat(600) }
    }

    #[test]
    fn an_event_is_of_the_form_that_kubernetes_takes() {
        let event = event(&report("u-1"), "pod-0");
        assert_eq!(event.reason.as_deref(), Some("ExternalName"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert!(event.note.unwrap().len() <= MAX_NOTE_BYTES);
        let regarding = event.regarding.unwrap();
        assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Service"), Some("u-1")));
    }

    #[test]
    fn the_name_is_that_of_the_finding() {
        let name = |report: &Report| event(report, "pod-0").metadata.name;
        assert_eq!(name(&report("u-1")), event(&report("u-1"), "pod-1").metadata.name);
        assert_ne!(name(&report("u-1")), name(&report("u-2")), "a recreated Service is another");
    }

    #[test]
    fn after_a_burst_one_per_pause_is_allowed() {
        let (mut allowance, now) = (Allowance::new(), Instant::now());
        assert!((0..BURST).all(|_| allowance.wait(now).is_zero()));
        assert_eq!(allowance.wait(now), PAUSE);
        assert!(allowance.wait(now + 2 * PAUSE).is_zero());
        let later = now + 1000 * PAUSE;
        assert_eq!((0..100).filter(|_| allowance.wait(later).is_zero()).count(), BURST as usize);
    }
}
