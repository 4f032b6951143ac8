//! The etcd of a peer, and the writing of records there as an exporter does it.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, Txn, TxnOp};
use mesh_kv::publish::{self, Write};
use mesh_model::record::Entry;
use tokio::task::JoinSet;

use crate::lab::netns::{self, Netns};

use super::data_set::DataSet;

/// Transactions under way at the same time, while a store is filled.
const IN_FLIGHT: usize = 8;
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Services whose records are made in one go.
const BATCH: usize = 500;

/// Where a peer's etcd is, seen from a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) endpoint: String,
}

impl Store {
    /// Runs `work` with a client, in the namespace.
    pub(crate) fn with<T, F>(
        &self,
        netns: &Netns,
        work: impl FnOnce(Client) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
    {
        let endpoint = self.endpoint.clone();
        netns.enter(move || run(&endpoint, work))
    }

    /// The same beside the caller, in the namespace of that name.
    pub(crate) fn beside<F>(
        &self,
        netns: String,
        work: impl FnOnce(Client) -> F + Send + 'static,
    ) -> Result<JoinHandle<()>>
    where
        F: Future<Output = Result<()>>,
    {
        let endpoint = self.endpoint.clone();
        let run = move || {
            let entered = netns::enter_by_path(&netns::path_of(&netns));
            if let Err(error) = entered.and_then(|()| run(&endpoint, work)) {
                eprintln!("bench: beside {endpoint}: {error:#}");
            }
        };
        thread::Builder::new().name("beside".into()).spawn(run).context("starting a thread")
    }

    /// Writes everything that the peer has.
    pub(crate) fn fill(&self, netns: &Netns, data_set: &DataSet) -> Result<()> {
        let data_set = data_set.clone();
        self.with(netns, async move |client| {
            let services = data_set.shape().services;
            for from in (0..services).step_by(BATCH) {
                let all = (from..services.min(from + BATCH)).map(|number| data_set.service(number));
                write(&client, publish::transactions(all.collect::<Result<_>>()?)).await?;
            }
            write(&client, publish::transactions(vec![data_set.frame()?])).await
        })
    }
}

fn run<T, F>(endpoint: &str, work: impl FnOnce(Client) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::connect([endpoint], None).await;
        work(client.with_context(|| format!("connecting to {endpoint}"))?).await
    })
}

async fn write(client: &Client, transactions: Vec<Vec<Write>>) -> Result<()> {
    let mut under_way = JoinSet::new();
    for writes in transactions {
        if under_way.len() == IN_FLIGHT {
            finish(&mut under_way).await?;
        }
        let client = client.clone();
        under_way.spawn(async move { commit(client, writes).await });
    }
    while !under_way.is_empty() {
        finish(&mut under_way).await?;
    }
    Ok(())
}

async fn finish(under_way: &mut JoinSet<Result<()>>) -> Result<()> {
    under_way.join_next().await.context("nothing is under way")?.context("a writer panicked")?
}

async fn commit(client: Client, writes: Vec<Write>) -> Result<()> {
    let operation = |write| match write {
        Write::Put((key, value)) => TxnOp::put(key, value, None),
        Write::Delete(key) => TxnOp::delete(key, None),
    };
    let operations: Vec<TxnOp> = writes.into_iter().map(operation).collect();
    let txn = Txn::new().and_then(operations);
    tokio::time::timeout(PATIENCE, client.kv_client().txn(txn)).await.context("writing records")??;
    Ok(())
}

/// Writes one record.
pub(crate) async fn put(client: &Client, (key, value): Entry) -> Result<()> {
    tokio::time::timeout(PATIENCE, client.kv_client().put(key, value, None)).await.context("writing")??;
    Ok(())
}

/// Writes records one by one at a rate, each made when it is written, and gives the rate that was reached.
pub(crate) async fn put_at_rate(
    client: &Client,
    per_second: u32,
    mut records: impl Iterator<Item = Result<Entry>>,
) -> Result<f64> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second);
    let (started, mut under_way, mut written) = (Instant::now(), JoinSet::new(), 0_u32);
    loop {
        tick.tick().await;
        let Some(record) = records.next() else { break };
        let (client, record) = (client.clone(), record?);
        under_way.spawn(async move { put(&client, record).await });
        written += 1;
        // More would only measure how etcd's queue grows.
        while under_way.len() >= 256 {
            finish(&mut under_way).await?;
        }
    }
    ensure!(written > 0, "nothing to write");
    while !under_way.is_empty() {
        finish(&mut under_way).await?;
    }
    Ok(f64::from(written) / started.elapsed().as_secs_f64())
}
