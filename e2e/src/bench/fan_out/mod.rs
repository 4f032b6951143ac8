//! What it costs to tell many readers of every change: the mesh API beside an etcd that serves the same records.

mod reader;
mod servers;

use std::time::Duration;

use anyhow::Result;

use reader::{Crowd, Heard};
use servers::{Kind, Server, World};

use super::Effort;
use super::propagate;
use super::row::{Goal, Row};
use super::stats::percentile;
use super::store;

/// TLS connections of the readers, and their streams: each watches all that there is.
const CONNECTIONS: usize = 50;
const STREAMS: usize = 1000;
const CHANGES_PER_SECOND: u32 = 100;
/// Streams that hear nothing for a while: to see what one takes, and how many there may be.
const IDLE_STREAMS: usize = 10_000;
/// Connections without a stream.
const IDLE_CONNECTIONS: usize = 500;
/// For the last change to be heard by everybody.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let world = World::new()?;
    let mut runs = Vec::new();
    for run in 0..effort.runs() {
        let both = [Kind::Served, Kind::Etcd].map(|kind| busy(&world, kind, effort));
        let [served, etcd] = both;
        let (served, etcd) = (served?, etcd?);
        eprintln!("bench:   run {}: {served:?} beside etcd's {etcd:?}", run + 1);
        runs.push((served, etcd));
    }
    runs.sort_by(|one, other| one.0.beside(&one.1).total_cmp(&other.0.beside(&other.1)));
    let (served, etcd) = &runs[runs.len() / 2];
    rows.push(Row::new("serve_events_per_cpu", served.beside(etcd), "x etcd", Goal::AtLeast(5.0)));
    rows.extend(served.rows("serve"));
    rows.extend(etcd.rows("serve_by_etcd"));
    rows.extend(idle(&world, effort)?);
    drop(world);
    rows.extend(propagate::measure_served(effort)?);
    Ok(rows)
}

/// What was told to a crowd, and what that took.
#[derive(Debug)]
struct Told {
    /// As many as could be written: readers, writer and server share the machine.
    changes_per_second: f64,
    events: f64,
    /// Of those that there were to tell.
    share: f64,
    cpu_seconds: f64,
    cpu_share: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Told {
    fn per_cpu_second(&self) -> f64 {
        self.events / self.cpu_seconds
    }

    fn beside(&self, other: &Self) -> f64 {
        self.per_cpu_second() / other.per_cpu_second()
    }

    fn rows(&self, name: &str) -> Vec<Row> {
        vec![
            Row::shown(format!("{name}_events_per_cpu_second"), self.per_cpu_second(), "1/s"),
            Row::shown(format!("{name}_changes_per_second"), self.changes_per_second, "1/s"),
            Row::shown(format!("{name}_cpu"), self.cpu_share * 100.0, "% of a CPU"),
            Row::shown(format!("{name}_median_ms"), self.p50_ms, "ms"),
            Row::shown(format!("{name}_p99_ms"), self.p99_ms, "ms"),
            Row::new(format!("{name}_heard"), self.share * 100.0, "%", Goal::AtLeast(100.0)),
        ]
    }
}

fn busy(world: &World, kind: Kind, effort: Effort) -> Result<Told> {
    let server = world.server(kind)?;
    let seconds = if effort.is_quick() { 3 } else { 30 };
    let crowd = Crowd::gather(&server, CONNECTIONS, STREAMS)?;
    let changes = CHANGES_PER_SECOND * seconds;
    let before = server.cpu_us()?;
    let (started, reached) = (std::time::Instant::now(), change(world, &server, changes)?);
    let wanted = usize::try_from(changes)? * STREAMS;
    let Heard { events, mut delays_us } = crowd.leave(wanted, PATIENCE)?;
    let (cpu_seconds, elapsed) = ((server.cpu_us()? - before) / 1e6, started.elapsed().as_secs_f64());
    delays_us.sort_unstable();
    let delays: Vec<f64> = delays_us.iter().map(|us| f64::from(*us) / 1000.0).collect();
    Ok(Told {
        changes_per_second: reached,
        events: events as f64,
        share: events as f64 / wanted as f64,
        cpu_seconds,
        cpu_share: cpu_seconds / elapsed,
        p50_ms: percentile(&delays, 0.5),
        p99_ms: percentile(&delays, 0.99),
    })
}

/// Changes backends at the rate; gives the rate that was reached.
fn change(world: &World, server: &Server, changes: u32) -> Result<f64> {
    let data_set = world.data_set.clone();
    server.store.with(&world.netns, async move |client| {
        let services = data_set.shape().services;
        let records =
            (0..changes).map(|number| data_set.changed_slice(number as usize * 7 % services, number + 1));
        store::put_at_rate(&client, CHANGES_PER_SECOND, records).await
    })
}

fn idle(world: &World, effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (kind, name) in [(Kind::Served, "serve"), (Kind::Etcd, "serve_by_etcd")] {
        let goal = |goal| if kind == Kind::Served { goal } else { Goal::None };
        let server = world.server(kind)?;
        let count = effort.times(IDLE_CONNECTIONS);
        let before = server.heap_bytes()?;
        let crowd = Crowd::gather(&server, count, 0)?;
        let each = (server.heap_bytes()? - before) / count as f64;
        crowd.leave(0, PATIENCE)?;
        rows.push(Row::shown(format!("{name}_connection_kb"), each / 1e3, "kB"));
        // A new one, so that nothing is left of before.
        let server = world.server(kind)?;
        let streams = effort.times(IDLE_STREAMS);
        // What the connections take is not the streams'.
        let warm = Crowd::gather(&server, CONNECTIONS, CONNECTIONS)?;
        let before = server.heap_bytes()?;
        let crowd = Crowd::gather(&server, CONNECTIONS, streams)?;
        let grown = server.heap_bytes()? - before - each * CONNECTIONS as f64;
        let per_stream = grown / streams as f64 / 1e3;
        rows.push(Row::new(format!("{name}_idle_stream_kb"), per_stream, "kB", goal(Goal::AtMost(20.0))));
        change(world, &server, 1)?;
        let heard = crowd.leave(streams, PATIENCE)?.events as f64;
        warm.leave(CONNECTIONS, PATIENCE)?;
        rows.push(Row::new(
            format!("{name}_idle_streams"),
            heard,
            "heard",
            goal(Goal::AtLeast(streams as f64)),
        ));
    }
    Ok(rows)
}
