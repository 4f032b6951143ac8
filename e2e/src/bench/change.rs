//! What the change of a single backend of a peer costs an agent that knows the peer.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_model::record::Entry;

use super::Effort;
use super::agent::Agent;
use super::data_set::{DataSet, service_name};
use super::fixture::Fixture;
use super::row::Row;
use super::stats::median;
use super::store;
use crate::wait::unix_us;

/// For one change.
const PATIENCE: Duration = Duration::from_secs(10);

/// What each change took.
#[derive(Debug, Default)]
struct Seen {
    milliseconds: Vec<f64>,
    writes: Vec<f64>,
}

/// Replaces one backend after the other, each once the last has reached the maps.
pub(crate) fn measure(
    effort: Effort,
    (fixture, agent, data_set): (&Fixture, &Agent, &DataSet),
    name: &str,
) -> Result<Vec<Row>> {
    let changes = changes(data_set, effort.times(1000))?;
    let count = changes.len();
    let (cpu_us, wire_bytes) = (agent.cpu_us()?, fixture.wire_bytes()?);
    let seen = make(fixture, agent, changes)?;
    let (cpu_us, wire_bytes) = (agent.cpu_us()? - cpu_us, fixture.wire_bytes()? - wire_bytes);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (count, wire_bytes) = (count as f64, wire_bytes as f64);
    Ok(vec![
        Row::shown(format!("change_{name}_ms"), median(&seen.milliseconds), "ms"),
        Row::shown(format!("change_{name}_map_writes"), median(&seen.writes), "elements"),
        Row::shown(format!("change_{name}_wire"), wire_bytes / count, "B"),
        Row::shown(format!("change_{name}_cpu_us"), cpu_us / count, "us"),
    ])
}

/// Changes of services all over the peer.
fn changes(data_set: &DataSet, count: usize) -> Result<Vec<(String, Entry)>> {
    let services = data_set.shape().services;
    let change = |number: usize| {
        let service = number * 7919 % services;
        let record = data_set.changed_slice(service, u32::try_from(number + 1)?)?;
        Ok((service_name(service)?.to_string(), record))
    };
    (0..count).map(change).collect()
}

fn make(fixture: &Fixture, agent: &Agent, changes: Vec<(String, Entry)>) -> Result<Seen> {
    let journal = agent.journal(unix_us())?;
    fixture.store(0)?.with(&fixture.peers, async move |client| {
        let mut seen = Seen::default();
        for (service, record) in changes {
            let started_unix_us = unix_us();
            store::put(&client, record).await?;
            let (written_unix_us, writes) = journal.written(&service, PATIENCE)?;
            ensure!(written_unix_us >= started_unix_us, "{service} was written before it changed");
            let took = Duration::from_micros(written_unix_us - started_unix_us);
            seen.milliseconds.push(took.as_secs_f64() * 1000.0);
            let elements = writes.backends + writes.slots + writes.services + writes.deleted_services;
            seen.writes.push(f64::from(u32::try_from(elements)?));
        }
        Ok(seen)
    })
}
