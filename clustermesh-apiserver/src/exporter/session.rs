//! One connection's life: judge what stands, become the leader, then keep etcd equal to the source.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mesh_kv::Session;
use mesh_kv::election::{Leadership, Standing};
use mesh_kv::publish::{Publisher, Write, read_back, transactions};
use mesh_model::record::{AliveRecord, Kind, SyncedKind, SyncedRecord};
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::table::Knowledge;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::content::Content;
use super::fault::ExportError;
use super::metrics::RecordKind;
use super::standing::cluster_record;
use super::{Exporter, Source, unix_us};

/// Readers take a cluster's control plane for stale after three of these.
const BEAT: Duration = Duration::from_secs(2);
/// Readers who were away for a shorter time resume, and need no list.
const COMPACT: Duration = Duration::from_secs(5 * 60);
/// How often a standby asks whether it may lead.
const STANDBY: Duration = Duration::from_millis(500);

impl Exporter {
    /// Publishes over one connection until something ends it.
    pub(super) async fn session(&mut self) -> Result<Infallible, ExportError> {
        let session = Session::open(&self.dialer).await?;
        self.metrics.connected.set(1);
        // Not even the leader key is written into another cluster's etcd.
        cluster_record(&self.identity, session.endpoint(), &read_back(&session, &self.identity.name).await?)?;
        let leadership = self.lead(&session).await?;
        self.leadership = Some(leadership.clone());
        self.metrics.leading.set(1);
        let keeping = leadership.keep(&session);
        tokio::select! {
            Err(error) = keeping => Err(error.into()),
            Err(error) = self.publish(&session, &leadership) => Err(error),
        }
    }

    /// Waits until this process leads.
    async fn lead(&mut self, session: &Session) -> Result<Leadership, ExportError> {
        let previous = self.leadership.take();
        let mut leader = None;
        loop {
            match self.candidate.campaign(session, previous.as_ref()).await? {
                Standing::Leader(leadership) => return Ok(leadership),
                Standing::Standby { holder } => {
                    self.condition.not_ready(format!("standing by: {holder} leads"));
                    if leader.as_ref() != Some(&holder) {
                        tracing::info!(leader = holder, "standing by");
                        leader = Some(holder);
                    }
                }
            }
            tokio::time::sleep(STANDBY).await;
        }
    }

    async fn publish(
        &mut self,
        session: &Session,
        leadership: &Leadership,
    ) -> Result<Infallible, ExportError> {
        let identity = self.identity.clone();
        let standing = read_back(session, &identity.name).await?;
        let record = cluster_record(&identity, session.endpoint(), &standing)?;
        let (endpoint, incarnation) = (session.endpoint(), &record.incarnation);
        tracing::info!(%endpoint, %incarnation, revision = standing.revision, "leading");
        let entry = record.entry(&identity.name);
        let mut publisher = Publisher::open(session, leadership, &identity.name, standing, entry).await?;
        let mut content = Content::new(&identity);
        let Source { mut snapshots, mut status } = self.source.clone();
        let (mut beat, mut compact) = (interval(BEAT), interval_at(Instant::now() + COMPACT, COMPACT));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // In this order: a source completes its snapshot before it says so.
            let knowledge = status.borrow_and_update().knowledge;
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot.filter(|snapshot| !content.shows(snapshot, knowledge)) {
                self.export(&mut publisher, &mut content, snapshot, knowledge).await?;
            }
            tokio::select! {
                error = publisher.interference() => return Err(error.into()),
                _ = beat.tick() => self.beat(&mut publisher).await?,
                _ = compact.tick() => {
                    let revision = publisher.compact().await?;
                    tracing::debug!(revision, "compacted the history before it");
                }
                // A source whose sender is gone says nothing new; its end is its supervisor's business.
                Ok(()) = snapshots.changed() => {}
                Ok(()) = status.changed() => {}
            }
        }
    }

    /// Brings one snapshot to etcd.
    async fn export(
        &mut self,
        publisher: &mut Publisher<'_>,
        content: &mut Content<'_>,
        snapshot: Arc<ClusterSnapshot>,
        knowledge: Knowledge,
    ) -> Result<(), ExportError> {
        let start = Instant::now();
        let ops = content.ops(&snapshot, knowledge, publisher.actual(), unix_us());
        let mut last_beat = start;
        let mut left: usize = ops.iter().map(|ops| ops.puts.len() + ops.deletes.len()).sum();
        let total = left;
        for writes in transactions(ops) {
            self.metrics.pending.set(i64::try_from(left).unwrap_or(i64::MAX));
            left -= writes.len();
            self.apply(publisher, writes).await?;
            if last_beat.elapsed() >= BEAT {
                last_beat = Instant::now();
                self.beat(publisher).await?;
            }
        }
        if knowledge == Knowledge::Complete {
            self.mark_synced(publisher).await?;
        }
        content.applied(snapshot, knowledge);
        self.exported(publisher, start, total);
        Ok(())
    }

    async fn apply(&self, publisher: &mut Publisher<'_>, writes: Vec<Write>) -> Result<(), ExportError> {
        let puts = writes.iter().filter(|write| matches!(write, Write::Put(_))).count();
        let deletes = writes.len() - puts;
        let revision = publisher.apply(writes).await?;
        self.metrics.applied(puts, deletes);
        tracing::debug!(revision, puts, deletes, "wrote records");
        Ok(())
    }

    /// Says that the kinds are complete, where that isn't said yet.
    async fn mark_synced(&self, publisher: &mut Publisher<'_>) -> Result<(), ExportError> {
        let record = SyncedRecord { revision: u64::try_from(publisher.revision()).unwrap_or_default() };
        let missing: Vec<Write> = SyncedKind::ALL
            .iter()
            .map(|kind| record.entry(&self.identity.name, *kind))
            .filter(|(key, _)| !publisher.actual().contains_key(key))
            .map(Write::Put)
            .collect();
        if missing.is_empty() { Ok(()) } else { self.apply(publisher, missing).await }
    }

    fn exported(&mut self, publisher: &Publisher<'_>, start: Instant, operations: usize) {
        let (services, slices) = (publisher.count(Kind::Services), publisher.count(Kind::Endpoints));
        self.metrics.set_records(RecordKind::Services, services);
        self.metrics.set_records(RecordKind::Endpoints, slices);
        self.metrics.set_records(RecordKind::Nodes, publisher.count(Kind::Nodes));
        self.metrics.pending.set(0);
        self.metrics.passes.inc();
        self.metrics.duration.observe(start.elapsed().as_secs_f64());
        self.metrics.last_success.set(unix_us() as f64 / 1e6);
        self.condition.ready();
        let revision = publisher.revision();
        if self.reported.take().is_some() {
            tracing::info!(revision, operations, services, slices, "publishing again");
        } else {
            tracing::debug!(revision, operations, services, slices, "etcd shows what the source says");
        }
    }

    /// Shows that this exporter lives; also finds out whether it still may write to this etcd.
    async fn beat(&mut self, publisher: &mut Publisher<'_>) -> Result<(), ExportError> {
        self.counter += 1;
        let record = AliveRecord { epoch: self.epoch, counter: self.counter, source_age_ms: None };
        publisher.apply(vec![Write::Put(record.entry(&self.identity.name))]).await?;
        Ok(())
    }
}
