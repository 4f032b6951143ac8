//! How much CPU an agent takes when nothing happens, and when much does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_admin::api::PeerState;
use node_agent::datapath::actual::Capacity;
use tokio_util::sync::CancellationToken;

use super::Effort;
use super::agent::Agent;
use super::data_set::{DataSet, Shape};
use super::fixture::Fixture;
use super::row::Row;
use super::store;
use crate::wait;

/// Peers of the idle agent, and what each of them has.
const PEERS: usize = 10;
const SMALL: Shape = Shape { services: 100, backends: 10 };
/// The peer that changes all the time.
const BUSY: Shape = Shape { services: 10_000, backends: 10 };
const CHANGES_PER_SECOND: u32 = 1000;
/// How often an exporter says that it lives.
const ALIVE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);
/// An agent's default sizes.
const ROOM: Capacity = Capacity { services: 65_536, slots: 1 << 20, backends: 262_144, counters: 16_384 };

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    eprintln!("bench:   an idle agent with {PEERS} peers");
    let mut rows = vec![idle(effort)?];
    eprintln!("bench:   an agent under {CHANGES_PER_SECOND} changes a second");
    rows.extend(busy(effort)?);
    Ok(rows)
}

fn idle(effort: Effort) -> Result<Row> {
    let mut fixture = Fixture::new(PEERS)?;
    let data_sets = (0..PEERS).map(|number| DataSet::new(number, SMALL)).collect::<Result<Vec<_>>>()?;
    for (number, data_set) in data_sets.iter().enumerate() {
        fixture.fill(number, data_set)?;
    }
    let agent = fixture.agent(SMALL.services, ROOM)?;
    for (number, data_set) in data_sets.iter().enumerate() {
        agent.join(data_set, &fixture.store(number)?)?;
    }
    wait_synced(&agent, PEERS)?;
    agent.settle()?;
    let token = CancellationToken::new();
    let watched = std::thread::scope(|scope| {
        for (number, data_set) in data_sets.iter().enumerate() {
            let (fixture, token) = (&fixture, token.clone());
            scope.spawn(move || show_alive(fixture, number, data_set, token));
        }
        let share = watch(&agent, Duration::from_secs(if effort.is_quick() { 4 } else { 30 }));
        token.cancel();
        share
    });
    Ok(Row::shown("idle_10_peers_cpu", watched? * 100.0, "% of a CPU"))
}

fn busy(effort: Effort) -> Result<Vec<Row>> {
    let mut fixture = Fixture::new(1)?;
    let data_set = DataSet::new(0, BUSY)?;
    fixture.fill(0, &data_set)?;
    let agent = fixture.agent(BUSY.services, ROOM)?;
    agent.join(&data_set, &fixture.store(0)?)?;
    wait_synced(&agent, 1)?;
    agent.settle()?;
    let seconds = if effort.is_quick() { 2 } else { 10 };
    let (before, started) = (agent.cpu_us()?, Instant::now());
    let reached = fixture.store(0)?.with(&fixture.peers, async move |client| {
        let records = (0..CHANGES_PER_SECOND * seconds).map(|number| {
            let service = usize::try_from(number)? * 7919 % BUSY.services;
            data_set.changed_slice(service, number + 1)
        });
        store::put_at_rate(&client, CHANGES_PER_SECOND, records).await
    })?;
    let share = (agent.cpu_us()? - before) / 1e6 / started.elapsed().as_secs_f64();
    Ok(vec![
        Row::shown("busy_changes_per_second", reached, "1/s"),
        Row::shown("busy_cpu", share * 100.0, "% of a CPU"),
        Row::shown("busy_cpu_per_change_us", share * 1e6 / reached, "us"),
    ])
}

fn wait_synced(agent: &Agent, peers: usize) -> Result<()> {
    let wanted = serde_json::to_value(PeerState::Synced)?;
    wait::until("all peers to be synced", PATIENCE, || {
        let answer = agent.admin("/v1/peers")?;
        let items = answer["items"].as_array().context("peers are no list")?;
        let synced = items.iter().filter(|peer| peer["state"] == wanted).count();
        anyhow::ensure!(synced == peers, "{synced} of {peers}");
        Ok(())
    })
}

/// What an exporter does when nothing happens.
fn show_alive(fixture: &Fixture, number: usize, data_set: &DataSet, token: CancellationToken) -> Result<()> {
    let (name, data_set) = (data_set.name().clone(), data_set.clone());
    let written = fixture.store(number)?.with(&fixture.peers, async move |client| {
        let mut tick = tokio::time::interval(ALIVE);
        for counter in 1.. {
            tokio::select! {
                () = token.cancelled() => break,
                _ = tick.tick() => store::put(&client, data_set.alive(counter)).await?,
            }
        }
        Ok(())
    });
    written.with_context(|| format!("showing that {name} lives"))
}

/// The share of one CPU that an agent takes over a time.
fn watch(agent: &Agent, time: Duration) -> Result<f64> {
    let (before, started) = (agent.cpu_us()?, Instant::now());
    std::thread::sleep(time);
    Ok((agent.cpu_us()? - before) / 1e6 / started.elapsed().as_secs_f64())
}
