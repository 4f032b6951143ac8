//! From the rename of a manifest in one cluster to the map write on a node of another, through the real processes,
//! beside what etcd alone takes between the same two places.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Effort;
use super::journal::Journal;
use super::row::{Goal, Row};
use super::stats::{median, percentile};
use super::store::Store;
use crate::lab::address::Plan;
use crate::lab::manifest::{self, Endpoint, ServiceSpec};
use crate::lab::{Lab, LabSpec};
use crate::wait::{self, unix_us};

/// The cluster that changes, and the one that follows.
const CLUSTERS: [&str; 2] = ["yavin", "hoth"];
/// Services in both, and backends of each.
const SERVICES: usize = 100;
const BACKENDS: u8 = 10;
/// For one change.
const PATIENCE: Duration = Duration::from_secs(10);
/// A key that nobody follows.
const BARE_KEY: &str = "bench/bare";

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let mut mesh = Mesh::start(&LabSpec::small())?;
    let bare = mesh.bare()?;
    let (mut times, mut bare_times) = (Vec::new(), Vec::new());
    for change in 0..effort.times(1000) {
        times.push(mesh.change(change)?);
        bare_times.push(ms(bare.once()?));
    }
    mesh.lab.check()?;
    Ok(rows(&times, &bare_times))
}

/// The same where peers read the mesh API beside the same where they read etcd, alternating.
pub(super) fn measure_served(effort: Effort) -> Result<Vec<Row>> {
    let specs = [LabSpec { mesh_api: true, ..LabSpec::small() }, LabSpec::small()];
    let mut meshes = specs.iter().map(Mesh::start).collect::<Result<Vec<_>>>()?;
    let mut times = [Vec::new(), Vec::new()];
    for change in 0..effort.times(1000) {
        for (mesh, times) in meshes.iter_mut().zip(&mut times) {
            times.push(mesh.change(change)?);
        }
    }
    meshes.iter_mut().try_for_each(|mesh| mesh.lab.check())?;
    let [served, direct] = times;
    let ratio = median(&served) / median(&direct);
    Ok(vec![
        Row::shown("serve_propagation_median_ms", median(&served), "ms"),
        Row::shown("serve_propagation_p99_ms", percentile(&served, 0.99), "ms"),
        Row::shown("serve_propagation_by_etcd_median_ms", median(&direct), "ms"),
        Row::shown("serve_propagation_by_etcd_p99_ms", percentile(&direct, 0.99), "ms"),
        Row::new("serve_propagation", ratio, "x etcd", Goal::AtMost(1.1)),
    ])
}

/// Two clusters, of which one changes and the other follows.
struct Mesh {
    journal: Journal,
    folder: PathBuf,
    plan: Plan,
    reader: String,
    lab: Lab,
}

impl Mesh {
    fn start(spec: &LabSpec) -> Result<Self> {
        let mut lab = Lab::start(spec)?;
        let [writer, reader] = CLUSTERS;
        for name in CLUSTERS {
            let cluster = lab.cluster(name)?;
            (0..SERVICES).try_for_each(|number| declare(cluster.manifests(), cluster.plan(), number))?;
        }
        let node = lab.cluster(reader)?.nodes().first().context("a cluster without a node")?;
        let (agent, reader) = (node.api(), node.netns().name().to_owned());
        let writer = lab.cluster(writer)?;
        let (plan, folder) = (writer.plan(), writer.manifests().to_owned());
        (0..SERVICES).try_for_each(|number| rewrite(&folder, plan, (number, 0)).map(drop))?;
        wait::until("the agent to know all backends", PATIENCE, || {
            agent.ensure_backends(SERVICES * usize::from(BACKENDS))
        })?;
        let journal = Journal::follow(agent.socket, unix_us())?;
        Ok(Self { journal, folder, plan, reader, lab })
    }

    fn bare(&mut self) -> Result<Bare> {
        let writer = self.lab.cluster(CLUSTERS[0])?;
        Bare::follow(writer.control().name(), &self.reader, self.plan)
    }

    /// Replaces a backend; gives the time until it is in the maps, in milliseconds.
    fn change(&mut self, change: usize) -> Result<f64> {
        let number = change % SERVICES;
        let generation = u8::try_from(change / SERVICES % 100 + 1)?;
        let renamed_unix_us = rewrite(&self.folder, self.plan, (number, generation))?;
        let (written_unix_us, _) = self.journal.written(&spec(number).full_name(), PATIENCE)?;
        Ok(ms(Duration::from_micros(written_unix_us.saturating_sub(renamed_unix_us))))
    }
}

fn rows(times: &[f64], bare: &[f64]) -> Vec<Row> {
    let beyond = percentile(times, 0.99) - percentile(bare, 0.99);
    vec![
        Row::new("propagation_median_ms", median(times), "ms", Goal::AtMost(5.0)),
        Row::shown("propagation_p99_ms", percentile(times, 0.99), "ms"),
        Row::shown("bare_etcd_median_ms", median(bare), "ms"),
        Row::shown("bare_etcd_p99_ms", percentile(bare, 0.99), "ms"),
        Row::new("propagation_p99_above_bare_ms", beyond, "ms", Goal::AtMost(15.0)),
    ]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn spec(number: usize) -> ServiceSpec {
    ServiceSpec::global(&format!("service-{number}"), usize::from(BACKENDS))
}

fn declare(folder: &std::path::Path, plan: Plan, number: usize) -> Result<()> {
    let cluster_ips = plan.cluster_ip(u16::try_from(number)? + 10);
    let object = manifest::service(&spec(number), cluster_ips);
    manifest::write(folder, &format!("service-{number}.service.yaml"), &[object])?;
    Ok(())
}

/// Writes a service's endpoints, of which one depends on the generation. No pods stand behind them.
fn rewrite(folder: &std::path::Path, plan: Plan, (number, generation): (usize, u8)) -> Result<u64> {
    let endpoint = |slot: u8| Endpoint {
        pod: format!("pod-{slot}"),
        node: "n1".into(),
        // One /24 for each service; generations stay below the slots of the other backends.
        addresses: plan.pod(u8::try_from(number).unwrap_or(u8::MAX), slot),
        ready: true,
    };
    let mut endpoints: Vec<Endpoint> = (0..BACKENDS).map(|slot| endpoint(240 + slot)).collect();
    endpoints[0] = endpoint(1 + generation);
    let slices = manifest::slices(&spec(number), &endpoints);
    manifest::write(folder, &format!("service-{number}.endpoints.yaml"), &slices)
}

/// etcd alone: a put in the one place, a watch in the other.
struct Bare {
    put: Option<mpsc::SyncSender<()>>,
    took: mpsc::Receiver<Duration>,
    threads: [Option<JoinHandle<()>>; 2],
}

impl Bare {
    fn follow(writer: &str, reader: &str, plan: Plan) -> Result<Self> {
        let store = Store { endpoint: format!("http://{}:2379", plan.control()[0]) };
        let (seen_sender, seen) = mpsc::channel();
        let (ready_sender, ready) = mpsc::channel();
        let watcher = store.beside(reader.to_owned(), async move |mut client| {
            let mut stream = client.watch(BARE_KEY, None).await?;
            ready_sender.send(())?;
            while let Some(message) = stream.message().await? {
                // Others say that the watch was made.
                if !message.events().is_empty() && seen_sender.send(Instant::now()).is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        ready.recv_timeout(PATIENCE).context("watching the bare key")?;
        let (put, orders) = mpsc::sync_channel(1);
        let (took_sender, took) = mpsc::channel();
        let putter = store.beside(writer.to_owned(), async move |mut client| {
            while orders.recv().is_ok() {
                let started = Instant::now();
                client.put(BARE_KEY, "x", None).await?;
                let seen = seen.recv_timeout(PATIENCE).context("the put was not seen")?;
                took_sender.send(seen.saturating_duration_since(started))?;
            }
            // Whoever watches finds that nobody listens, and ends.
            drop(seen);
            client.put(BARE_KEY, "x", None).await?;
            Ok(())
        })?;
        Ok(Self { put: Some(put), took, threads: [Some(putter), Some(watcher)] })
    }

    fn once(&self) -> Result<Duration> {
        let put = self.put.as_ref().context("already over")?;
        put.send(()).context("the writer has ended")?;
        self.took.recv_timeout(PATIENCE).context("the writer does not answer")
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.put = None;
        // A panic in them has been shown already.
        self.threads.iter_mut().filter_map(Option::take).for_each(|thread| drop(thread.join()));
    }
}
