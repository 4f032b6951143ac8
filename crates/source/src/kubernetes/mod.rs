//! Follows a cluster's own API server.
//!
//! One follower per kind; one owner puts together what they say. Nothing is known before every kind was listed
//! once. An API server that is away changes nothing. Never writes, but for Events, and those only where asked to.

mod events;
mod follow;
mod mirror;
mod reading;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use mesh_model::address_policy::OwnRanges;
use mesh_model::name::NodeName;
use mesh_model::snapshot::ClusterSnapshot;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::kinds::Kind;
use crate::memory::Known;
use crate::metrics::SourceMetrics;
use crate::status::{Problem, Status, Turn};
use follow::{Change, Follower};
use mirror::Mirror;

pub use events::{EventWriter, Events, Notice, Subject, TOLD_AGAIN, upper_camel};
pub use mesh_kube::{Access, AccessError};
pub use mirror::{Report, Uids};

/// Changes on their way to their owner.
const QUEUE: usize = 256;
/// Changes that one snapshot takes up at most, so that a long list doesn't hold back what came before it.
const BATCH: usize = 4096;

/// How often the source says that what it publishes is current.
const CONFIRM: Duration = Duration::from_secs(1);

/// What is asked of the source.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The node whose clients topology hints are for; an exporter has none.
    pub node: Option<NodeName>,
    /// Whether ServiceCIDRs are needed.
    pub service_cidrs: bool,
    /// Whether a list must be the latest, and not what a server's cache holds. Of an exporter: every peer believes
    /// what it writes, so after a change of leaders no older state may overwrite a newer one.
    pub latest: bool,
    /// Where ClusterIPs lie; none: anywhere. Of manifests only, whose authors choose them: Kubernetes allots its own.
    pub service_ranges: Vec<IpNet>,
    /// How long nothing may come over a watch before it is asked anew; none: [`QUIET`].
    pub quiet: Option<Duration>,
}

/// Longer than the minute in which API servers send bookmarks, so that in most idle clusters no watch is asked anew.
pub const QUIET: Duration = Duration::from_secs(75);

/// Follows a cluster's API server and publishes what its objects add up to.
#[derive(Debug)]
pub struct Kubernetes {
    access: Access,
    kinds: Vec<Kind>,
    mirror: Mirror,
    metrics: SourceMetrics,
    known: bool,
    knowledge: channel::Sender<Option<Known>>,
    quiet: Duration,
    latest: bool,
    snapshots: channel::Sender<Option<Arc<ClusterSnapshot>>>,
    status: channel::Sender<Arc<Status>>,
    ranges: channel::Sender<Option<Arc<OwnRanges>>>,
    reports: channel::Sender<Arc<Vec<Report>>>,
    uids: channel::Sender<Uids>,
    confirmed: channel::Sender<Option<Instant>>,
}

impl Kubernetes {
    pub fn new(access: Access, options: Options, metrics: SourceMetrics) -> Self {
        let is_wanted = |kind: &Kind| options.service_cidrs || !kind.api().for_service_ranges;
        let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(is_wanted).collect();
        Self {
            access,
            quiet: options.quiet.unwrap_or(QUIET).min(QUIET),
            latest: options.latest,
            mirror: Mirror::new(kinds.iter().copied(), options.node),
            kinds,
            metrics,
            known: false,
            knowledge: channel::Sender::default(),
            snapshots: channel::Sender::default(),
            status: channel::Sender::default(),
            ranges: channel::Sender::default(),
            reports: channel::Sender::default(),
            uids: channel::Sender::default(),
            confirmed: channel::Sender::default(),
        }
    }

    /// What the cluster consists of; `None` until every kind was listed once.
    pub fn snapshots(&self) -> channel::Receiver<Option<Arc<ClusterSnapshot>>> {
        self.snapshots.subscribe()
    }

    /// Begins with what a process before this one knew; `publish`: says so before the API server has said anything. The
    /// ranges are said at once.
    pub fn remembering(mut self, before: &Known, publish: bool) -> Self {
        self.mirror.remember(before);
        self.ranges.send_replace(before.ranges.clone());
        if publish {
            self.snapshots.send_replace(Some(before.snapshot.clone()));
        }
        self
    }

    /// What shall outlive this process.
    pub fn known(&self) -> channel::Receiver<Option<Known>> {
        self.knowledge.subscribe()
    }

    /// What is wrong with objects, or with the way to the API server.
    pub fn status(&self) -> channel::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// The ranges that Nodes and ServiceCIDRs tell; `None` until every kind was listed once, by this process or by the
    /// one that it remembers.
    pub fn ranges(&self) -> channel::Receiver<Option<Arc<OwnRanges>>> {
        self.ranges.subscribe()
    }

    /// What the owners of Services should hear.
    pub fn reports(&self) -> channel::Receiver<Arc<Vec<Report>>> {
        self.reports.subscribe()
    }

    /// Which objects the global Services are, for whoever tells their owners something.
    pub fn uids(&self) -> channel::Receiver<Uids> {
        self.uids.subscribe()
    }

    /// When every kind was last known to be followed. What refuses is noticed at once, a connection that broke without a
    /// word within half a minute, and a server that stands still within [`Options::quiet`] and a fifth of it.
    pub fn confirmed(&self) -> channel::Receiver<Option<Instant>> {
        self.confirmed.subscribe()
    }

    /// Follows the API server until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let (out, changes) = mpsc::channel(QUEUE);
        let follow = |kind: &Kind| {
            let follower = Follower::new(*kind, self.access.clone(), self.quiet, out.clone());
            Box::pin(follower.latest(self.latest).run())
        };
        let mut following: Vec<_> = self.kinds.iter().map(follow).collect();
        drop(out);
        let all_end = std::future::poll_fn(|context| {
            following.retain_mut(|follower| follower.as_mut().poll(context).is_pending());
            if following.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            () = token.cancelled() => {}
            () = self.own(changes) => {}
            () = all_end => {}
        }
    }

    async fn own(&mut self, mut changes: mpsc::Receiver<(Kind, Change)>) {
        let mut confirm = interval(CONFIRM);
        confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (kind, change) = tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => change,
                    None => return,
                },
                _ = confirm.tick(), if !self.confirmed.is_closed() => {
                    self.confirm();
                    continue;
                }
            };
            let started = Instant::now();
            self.take(kind, change);
            let mut more = 1..BATCH;
            while let (Some(_), Ok((kind, change))) = (more.next(), changes.try_recv()) {
                self.take(kind, change);
            }
            self.publish();
            self.confirm();
            self.metrics.passes.inc();
            self.metrics.pass_seconds.observe(started.elapsed().as_secs_f64());
        }
    }

    fn confirm(&self) {
        if self.known && self.mirror.is_followed() {
            self.confirmed.send_replace(Some(Instant::now()));
        }
    }

    fn take(&mut self, kind: Kind, change: Change) {
        match &change {
            Change::Init => drop(self.metrics.lists(kind).inc()),
            Change::Apply(_) | Change::Delete(_) => drop(self.metrics.changes(kind).inc()),
            Change::Fault(_) => drop(self.metrics.failures.inc()),
            Change::Nameless | Change::InitDone | Change::Alive => {}
        }
        self.mirror.take(kind, change);
    }

    fn publish(&mut self) {
        let changed = self.mirror.refresh();
        if self.mirror.is_complete() {
            // Ranges and status come behind the snapshot: who sees them sees it.
            if changed || !self.known {
                let snapshot = self.mirror.snapshot();
                tracing::debug!(
                    services = snapshot.services.len(),
                    nodes = snapshot.nodes.len(),
                    "new snapshot"
                );
                self.snapshots.send_replace(Some(Arc::new(snapshot.clone())));
            }
            let moved = self.publish_ranges();
            if changed || moved || !self.known {
                self.knowledge.send_replace(Some(self.knows()));
            }
            self.known = true;
        }
        replace(&self.reports, Arc::new(self.mirror.reports()));
        if !self.uids.borrow().ptr_eq(self.mirror.uids()) {
            self.uids.send_replace(self.mirror.uids().clone());
        }
        self.publish_status();
        self.measure();
    }

    /// Whether they are others than before.
    fn publish_ranges(&mut self) -> bool {
        if !std::mem::take(&mut self.mirror.ranges_moved) && self.known {
            return false;
        }
        let ranges = Some(Arc::new(self.mirror.ranges()));
        self.ranges.send_if_modified(|told| std::mem::replace(told, ranges.clone()) != ranges)
    }

    /// What is published, for a process after this one.
    fn knows(&self) -> Known {
        let snapshot = self.snapshots.borrow().clone().unwrap_or_default();
        Known { ranges: self.ranges.borrow().clone(), ..Known::new(snapshot, Arc::default()) }
    }

    fn publish_status(&self) {
        let status = self.mirror.status();
        let before = self.status.borrow().clone();
        if *before != status {
            tell(&status.turn(&before, &self.metrics));
            self.status.send_replace(Arc::new(status));
        }
    }

    fn measure(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.count_objects(|kind| self.mirror.count(kind));
        self.metrics.kept.set(gauge(self.mirror.kept()));
        self.metrics.notified.set((self.mirror.is_complete() && !self.mirror.has_faults()).into());
        if !self.mirror.has_faults() {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.metrics.last_success_seconds.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        }
    }
}

/// Publishes a value if it is another.
fn replace<T: PartialEq>(sender: &channel::Sender<T>, value: T) {
    sender.send_if_modified(|current| {
        let other = *current != value;
        if other {
            *current = value;
        }
        other
    });
}

fn tell(turn: &Turn) {
    for Problem { object, reason, message, .. } in &turn.appeared {
        if reason.is_fault() {
            tracing::warn!(object, %reason, error = message, "problem with the source");
        } else {
            tracing::info!(object, %reason, message, "remark on an object");
        }
    }
    for Problem { object, reason, .. } in &turn.gone {
        tracing::info!(object, %reason, "problem with the source is gone");
    }
}
