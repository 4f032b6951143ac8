//! Clients in pods: the load's process, and the thread that reads what it says.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::ChildStdout;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::Lab;
use super::pod::Pod;
use crate::load::record::{Outcome, Record};
use crate::wait;

/// How long clients may take to see a change.
const PATIENCE: Duration = Duration::from_secs(20);

/// The target, and how often to dial it.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    pub target: SocketAddr,
    pub per_second: u32,
    pub timeout: Duration,
}

impl LoadSpec {
    /// The usual load: 100 connections a second, 1 s timeout.
    pub fn to(target: SocketAddr) -> Self {
        Self { target, per_second: 100, timeout: Duration::from_secs(1) }
    }

    fn args(&self) -> Vec<String> {
        vec![
            "load".into(),
            format!("--target={}", self.target),
            format!("--rate={}", self.per_second),
            format!("--timeout={}ms", self.timeout.as_millis()),
            // It goes with its lab.
            "--duration=600m".into(),
        ]
    }
}

/// The clients' records so far; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Records(Arc<Mutex<Vec<Record>>>);

impl Records {
    pub(crate) fn push(&self, record: Record) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    /// Those from the `from`th on.
    pub(crate) fn since(&self, from: usize) -> Vec<Record> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(from..).unwrap_or_default().to_vec()
    }

    pub fn all(&self) -> Vec<Record> {
        self.since(0)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits for `count` more connections that began after now, and gives those.
    pub fn next(&self, count: usize, patience: Duration) -> Result<Vec<Record>> {
        self.begun_since(wait::unix_us(), count, patience)
    }

    /// The same from a moment on that may have passed.
    pub fn begun_since(&self, unix_us: u64, count: usize, patience: Duration) -> Result<Vec<Record>> {
        wait::until(&format!("{count} more connections"), patience, || {
            let all = self.all().into_iter();
            let begun: Vec<_> = all.filter(|record| record.start_unix_us >= unix_us).collect();
            if begun.len() < count { Err(anyhow!("{} so far", begun.len())) } else { Ok(begun) }
        })
    }

    /// Waits until the next connections are answered by exactly these clusters.
    pub fn wait_answers(&self, clusters: &[&str]) -> Result<()> {
        wait::until(&format!("answers from {clusters:?} alone"), PATIENCE, || {
            let seen = Summary::of(&self.next(30, PATIENCE)?);
            ensure!(seen.clusters() == clusters, "{seen:?}");
            Ok(())
        })
    }

    /// Fails when a connection has failed.
    pub fn ensure_no_failure(&self) -> Result<()> {
        let all = Summary::of(&self.all());
        ensure!(all.failed() == 0, "{all:?}");
        Ok(())
    }
}

/// A client at work: its pod, and the thread that reads what it says.
#[derive(Debug)]
pub(super) struct Client {
    pod: Pod,
    reader: JoinHandle<Result<()>>,
}

impl Lab {
    /// Starts a client in a pod of its own, on the `node`th node (from 0) of a cluster.
    pub fn client(&mut self, cluster: &str, node: usize, name: &str, load: &LoadSpec) -> Result<Records> {
        let mut pod = self.cluster(cluster)?.bare_pod(name, node)?;
        let stdout = pod.run(load.args())?;
        let records = Records::default();
        let sink = records.clone();
        let reader = thread::Builder::new().name(format!("client-{name}")).spawn(move || read(stdout, &sink));
        self.clients.push(Client { pod, reader: reader.context("starting a reader")? });
        Ok(records)
    }

    /// A pod on the `node`th node (from 0) of a cluster that runs nothing by itself; see [`Pod::output`].
    pub fn idle_pod(&mut self, cluster: &str, node: usize, name: &str) -> Result<&Pod> {
        let pod = self.cluster(cluster)?.bare_pod(name, node)?;
        self.idle.push(pod);
        self.idle.last().context("it was just pushed")
    }

    /// Ends all clients; what they have under way is waited for. Their pods stay, for whoever wants a shell there.
    pub fn end_clients(&mut self) -> Result<()> {
        let clients = std::mem::take(&mut self.clients);
        clients.iter().try_for_each(|client| client.pod.terminate())?;
        for mut client in clients {
            client.pod.wait_end(Duration::from_secs(10))?;
            client.reader.join().map_err(|_| anyhow!("a client's reader panicked"))??;
            self.idle.push(client.pod);
        }
        Ok(())
    }

    /// The pods of clients that have ended.
    pub fn idle_pods(&self) -> &[Pod] {
        &self.idle
    }

    pub(super) fn check_clients(&mut self) -> Result<()> {
        self.clients.iter_mut().try_for_each(|client| client.pod.check())
    }
}

fn read(stdout: ChildStdout, sink: &Records) -> Result<()> {
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading a client's records")?;
        sink.push(serde_json::from_str(&line).with_context(|| format!("a client said {line:?}"))?);
    }
    Ok(())
}

/// How many connections each cluster answered, and the errors by kind, as tests compare them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub answers: std::collections::BTreeMap<String, usize>,
    pub errors: std::collections::BTreeMap<&'static str, usize>,
}

impl Summary {
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut summary = Self::default();
        for record in records {
            match &record.outcome {
                Outcome::Answer(answer) => {
                    let cluster = answer.split('/').next().unwrap_or_default();
                    *summary.answers.entry(cluster.into()).or_default() += 1;
                }
                Outcome::Error(failure) => *summary.errors.entry(failure.as_str()).or_default() += 1,
            }
        }
        summary
    }

    pub fn clusters(&self) -> Vec<&str> {
        self.answers.keys().map(String::as_str).collect()
    }

    pub fn failed(&self) -> usize {
        self.errors.values().sum()
    }
}
