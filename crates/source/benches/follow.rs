//! `make bench`: how long a manifest's change takes to become a snapshot, by the number of services in the folder.
//!
//! One file per service, as many renames as `--renames`; the rest of the folder stays as it is.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use mesh_source::{Manifests, SourceMetrics};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

const SIZES: [usize; 4] = [1, 100, 1_000, 5_000];

#[derive(Parser)]
struct Cli {
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[arg(long, default_value_t = 200)]
    renames: usize,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Row {
    services: usize,
    /// From start to the first snapshot.
    first_ms: f64,
    /// From rename to snapshot.
    median_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

fn manifest(index: usize, generation: usize) -> String {
    let (high, low) = (index / 250, index % 250 + 1);
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: s{index}, annotations: {{clustermesh.io/global: \"true\"}}}}
spec: {{clusterIPs: [10.96.{high}.{low}], ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{index}-1, labels: {{kubernetes.io/service-name: s{index}}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [10.1.{}.{}]}}, {{addresses: [10.2.{high}.{low}]}}]
",
        generation / 250,
        generation % 250 + 1
    )
}

fn replace(folder: &Path, index: usize, generation: usize) -> Instant {
    let beside = folder.join(".new");
    fs::write(&beside, manifest(index, generation)).unwrap();
    let before = Instant::now();
    fs::rename(beside, folder.join(format!("s{index}.yaml"))).unwrap();
    before
}

async fn measure(services: usize, renames: usize) -> Row {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..services {
        replace(folder.path(), index, 0);
    }
    let (manifests, token) =
        (Manifests::new(folder.path(), SourceMetrics::unregistered()), CancellationToken::new());
    let mut snapshots = manifests.snapshots();
    let started = Instant::now();
    let task = tokio::spawn(manifests.run(token.clone()));
    let whole = |snapshot: &Option<_>| {
        snapshot.as_ref().is_some_and(|it: &std::sync::Arc<mesh_model::snapshot::ClusterSnapshot>| {
            it.services.len() == services
        })
    };
    snapshots.wait_for(whole).await.unwrap();
    let first = started.elapsed();
    let mut times = Vec::with_capacity(renames);
    for generation in 1..=renames {
        snapshots.mark_unchanged();
        let renamed = replace(folder.path(), generation * 7 % services, generation);
        snapshots.changed().await.unwrap();
        times.push(renamed.elapsed());
    }
    token.cancel();
    task.await.unwrap();
    times.sort();
    let ms = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
    let at = |share: f64| ms(times[((times.len() - 1) as f64 * share) as usize]);
    Row { services, first_ms: ms(first), median_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
}

fn main() {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("a manifest's rename becomes a snapshot after (ms; {} renames each)", cli.renames);
    println!("{:>9} {:>9} {:>9} {:>9} {:>9}", "services", "median", "p99", "max", "first");
    let mut rows = Vec::new();
    for services in SIZES {
        let row = runtime.block_on(measure(services, cli.renames.max(1)));
        let Row { first_ms, median_ms, p99_ms, max_ms, .. } = row;
        println!("{services:>9} {median_ms:>9.2} {p99_ms:>9.2} {max_ms:>9.2} {first_ms:>9.2}");
        rows.push(row);
    }
    if let Some(path) = cli.json {
        let text = serde_json::to_string_pretty(&serde_json::json!({"items": rows})).unwrap();
        fs::write(path, text + "\n").unwrap();
    }
}
