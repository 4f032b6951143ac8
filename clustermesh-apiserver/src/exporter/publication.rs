//! The leader's work: keeps etcd equal to the source, transaction by transaction.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mesh_kv::Session;
use mesh_kv::election::Leadership;
use mesh_kv::publish::{Oversized, Publisher, Write, read_back, transactions};
use mesh_model::address_policy::OwnRanges;
use mesh_model::export::withdrawn;
use mesh_model::record::{AliveRecord, ClusterRecord, Kind, SyncedKind, SyncedRecord};
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::table::Knowledge;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::cluster_record::cluster_record;
use super::export_state::{ExportState, knowledge};
use super::fault::ExportError;
use super::metrics::RecordKind;
use super::{Exporter, Source, unix_us};

/// Readers take a cluster's control plane for stale after three of these.
const BEAT: Duration = Duration::from_secs(2);

impl Exporter {
    /// Publishes until something ends it; `lost` says why the leadership can't be kept.
    pub(super) async fn publish(
        &mut self,
        session: &Session,
        leadership: &Leadership,
        lost: &mut oneshot::Receiver<ExportError>,
    ) -> Result<Infallible, ExportError> {
        tokio::select! {
            Ok(error) = &mut *lost => return Err(error),
            () = self.learn_ranges() => {}
        }
        let identity = self.identity.clone();
        let stored = read_back(session, &identity.name).await?;
        let record = cluster_record(&identity, session.endpoint(), &stored)?;
        let (endpoint, incarnation) = (session.endpoint(), &record.incarnation);
        tracing::info!(%endpoint, %incarnation, revision = stored.revision, "leading");
        let entry = record.entry(&identity.name);
        let mut publisher = Publisher::open(session, leadership, &identity.name, stored, entry).await?;
        let mut state = ExportState::new(&identity);
        self.follow(&mut publisher, &mut state, lost, record).await
    }

    /// Waits until the cluster's address ranges are known.
    async fn learn_ranges(&mut self) {
        let mut ranges = self.source.ranges.clone();
        if let Ok(known) = ranges.wait_for(Option::is_some).await
            && let Some(known) = &*known
        {
            self.identity.ranges = OwnRanges::clone(known);
        }
    }

    /// Writes the cluster record again if the cluster's address ranges are others than it says.
    async fn tell_ranges(
        &mut self,
        publisher: &mut Publisher<'_>,
        record: &mut ClusterRecord,
    ) -> Result<(), ExportError> {
        self.learn_ranges().await;
        let ranges = self.identity.ranges.exported();
        if record.ranges != ranges {
            record.ranges = ranges;
            publisher.write_cluster(record.entry(&self.identity.name)).await?;
            tracing::info!("the cluster's address ranges have changed");
        }
        Ok(())
    }

    async fn follow(
        &mut self,
        publisher: &mut Publisher<'_>,
        state: &mut ExportState<'_>,
        lost: &mut oneshot::Receiver<ExportError>,
        mut record: ClusterRecord,
    ) -> Result<Infallible, ExportError> {
        let Source { mut snapshots, mut status, mut ranges, .. } = self.source.clone();
        let mut compact = interval_at(Instant::now() + self.compact_every, self.compact_every);
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // In this order: a source completes its snapshot before it says so.
            let said = status.borrow_and_update().knowledge;
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                let knowledge = knowledge(said, &snapshot);
                if !state.shows(&snapshot, knowledge) {
                    self.export(publisher, state, snapshot, knowledge).await?;
                }
            }
            tokio::select! {
                biased;
                // The first that a leader does who was frozen: it finds out whether it still may write.
                _ = beat.tick() => self.beat(publisher).await?,
                Ok(error) = &mut *lost => return Err(error),
                error = publisher.interference() => return Err(error.into()),
                _ = compact.tick() => {
                    let revision = publisher.compact().await?;
                    tracing::debug!(revision, "compacted the history before it");
                }
                // A source whose sender is gone says nothing new; its end is its supervisor's business.
                Ok(()) = snapshots.changed() => {}
                Ok(()) = status.changed() => {}
                Ok(()) = ranges.changed() => self.tell_ranges(publisher, &mut record).await?,
            }
        }
    }

    /// Brings one snapshot to etcd.
    async fn export(
        &mut self,
        publisher: &mut Publisher<'_>,
        state: &mut ExportState<'_>,
        snapshot: Arc<ClusterSnapshot>,
        knowledge: Knowledge,
    ) -> Result<(), ExportError> {
        let start = Instant::now();
        let ops = state.ops(&snapshot, knowledge, publisher.actual(), unix_us());
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
        self.oversized.retain(|key| state.wants(&snapshot, key));
        state.applied(snapshot, knowledge);
        self.exported(publisher, start, total);
        Ok(())
    }

    /// Writes what fits; the rest is told of, and left until it changes.
    async fn apply(&mut self, publisher: &mut Publisher<'_>, writes: Vec<Write>) -> Result<(), ExportError> {
        let keys: Vec<String> = writes.iter().map(|write| write.key().to_owned()).collect();
        let puts = writes.iter().filter(|write| matches!(write, Write::Put(_))).count();
        let deletes = writes.len() - puts;
        let oversized = publisher.apply(writes).await?;
        let puts = puts - oversized.len();
        self.oversized.note(keys.iter().map(String::as_str), &oversized);
        self.metrics.applied(puts, deletes);
        tracing::debug!(revision = publisher.revision(), puts, deletes, "wrote records");
        withdraw(publisher, &oversized).await
    }

    /// Says that the kinds are complete, where that isn't said yet.
    async fn mark_synced(&mut self, publisher: &mut Publisher<'_>) -> Result<(), ExportError> {
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
        self.fitness.wrote();
        self.fruitless = 0;
        let revision = publisher.revision();
        if self.reported.take().is_some() {
            tracing::info!(revision, operations, services, slices, "publishing again");
        } else {
            tracing::debug!(revision, operations, services, slices, "etcd shows what the source says");
        }
    }

    /// Shows that this exporter lives, and how old is what it publishes; also finds out whether it still may write
    /// to this etcd.
    async fn beat(&mut self, publisher: &mut Publisher<'_>) -> Result<(), ExportError> {
        self.counter += 1;
        let age = self.source.confirmed.borrow().map(|at| at.elapsed().as_millis());
        let source_age_ms = age.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX));
        let record = AliveRecord { epoch: self.epoch, counter: self.counter, source_age_ms };
        publisher.apply(vec![Write::Put(record.entry(&self.identity.name))]).await?;
        self.alarms.took_record();
        Ok(())
    }
}

/// Takes endpoints that are gone out of the records that stand where new ones can't be written.
async fn withdraw(publisher: &mut Publisher<'_>, oversized: &[Oversized]) -> Result<(), ExportError> {
    let actual = publisher.actual();
    let smaller = oversized.iter().filter_map(|it| withdrawn(&it.key, actual.get(&it.key)?, &it.value));
    let smaller: Vec<Write> = smaller.map(Write::Put).collect();
    if !smaller.is_empty() {
        publisher.apply(smaller).await?;
    }
    Ok(())
}
