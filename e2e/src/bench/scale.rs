//! How long an agent takes to learn of a peer, by the size of the peer, and what it costs to know it.

use std::time::Duration;

use anyhow::{Result, ensure};
use node_agent::datapath::actual::Capacity;

use super::Effort;
use super::agent::Agent;
use super::change;
use super::data_set::{DataSet, Shape};
use super::fixture::Fixture;
use super::journal::Story;
use super::row::{Goal, Row};
use super::stats::median;

/// The sizes, by the name in the rows. The second is the one with goals.
const PEERS: [(&str, Shape); 4] = [
    ("10k", Shape { services: 1_000, backends: 10 }),
    ("100k", Shape { services: 10_000, backends: 10 }),
    ("100k_in_one", Shape { services: 1, backends: 100_000 }),
    ("1m", Shape { services: 10_000, backends: 100 }),
];

/// For the largest.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, shape) in PEERS {
        eprintln!("bench:   {} services with {} backends each", shape.services, shape.backends);
        rows.extend(measure_peer(effort, name, shape)?);
    }
    Ok(rows)
}

/// What one agent took.
#[derive(Debug)]
struct Learnt {
    seconds: f64,
    story: Story,
    heap_bytes: f64,
}

fn measure_peer(effort: Effort, name: &str, shape: Shape) -> Result<Vec<Row>> {
    let mut fixture = Fixture::new(1)?;
    let data_set = DataSet::new(0, shape)?;
    fixture.fill(0, &data_set)?;
    let mut all = Vec::new();
    for _ in 1..effort.runs() {
        let (agent, learnt) = learn(&mut fixture, &data_set)?;
        all.push(learnt);
        agent.end()?;
    }
    let (agent, learnt) = learn(&mut fixture, &data_set)?;
    all.push(learnt);
    let mut rows = learnt_rows(name, shape, &all);
    rows.push(Row::shown(format!("peer_{name}_map_mb"), agent.map_bytes()? / 1e6, "MB"));
    rows.extend(change::measure(effort, (&fixture, &agent, &data_set), name)?);
    Ok(rows)
}

/// Starts an agent that knows its own services, and introduces the peer.
fn learn(fixture: &mut Fixture, data_set: &DataSet) -> Result<(Agent, Learnt)> {
    let agent = fixture.agent(data_set.shape().services, room(data_set.shape()))?;
    agent.settle()?;
    let before = agent.heap_bytes()?;
    let store = fixture.store(0)?;
    let joined_unix_us = agent.join(data_set, &store)?;
    let journal = agent.journal(joined_unix_us)?;
    let backends = data_set.shape().all_backends();
    let story = journal.until(PATIENCE, |story| story.writes.backends >= backends)?;
    ensure!(story.writes.backends == backends, "written more backends than there are: {story:?}");
    agent.settle()?;
    let connected = story.connected_unix_us.unwrap_or(joined_unix_us);
    let seconds = Duration::from_micros(story.done_unix_us.saturating_sub(connected)).as_secs_f64();
    let heap_bytes = agent.heap_bytes()? - before;
    Ok((agent, Learnt { seconds, story, heap_bytes }))
}

/// Room for the peer, and twice that for services whose slots move.
fn room(shape: Shape) -> Capacity {
    let backends = u32::try_from(shape.all_backends()).unwrap_or(u32::MAX);
    Capacity {
        services: 65_536,
        slots: (4 * backends).next_power_of_two().max(1 << 20),
        backends: (backends + backends / 4).max(262_144),
        counters: 16_384,
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn learnt_rows(name: &str, shape: Shape, all: &[Learnt]) -> Vec<Row> {
    let seconds: Vec<f64> = all.iter().map(|learnt| learnt.seconds).collect();
    let backends = shape.all_backends() as f64;
    let heap: Vec<f64> = all.iter().map(|learnt| learnt.heap_bytes / backends).collect();
    let writes: Vec<f64> = all.iter().map(|learnt| learnt.story.all_writes() as f64).collect();
    let (time, memory) = match name {
        "100k" => (Goal::AtMost(2.0), Goal::AtMost(128.0)),
        _ => (Goal::None, Goal::None),
    };
    vec![
        Row::new(format!("peer_{name}_seconds"), median(&seconds), "s", time),
        Row::new(format!("peer_{name}_heap"), median(&heap), "B/backend", memory),
        Row::shown(format!("peer_{name}_map_writes"), median(&writes), "elements"),
    ]
}
