//! Rolling updates of a service with many pods in one cluster, under calls from pods of both: what fails is counted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Course;
use super::calls;
use super::mesh::{self, READER, WRITER};
use crate::bench::row::{Goal, Row};
use crate::bench::stats::median;
use crate::kube::pod_log::PodLog;
use crate::kube::{KubeCluster, KubeLab};
use crate::lab::client::Summary;
use crate::load::record::Record;
use crate::story::SERVICE;
use crate::wait::{self, unix_us};

const MANIFEST: &str = include_str!("../../story/rebel-base.yaml");
const TARGET: &str = "rebel-base.default.svc.cluster.local:80";
/// Pods in the cluster that is updated; the other one has those of the manifest.
const PODS: usize = 20;
const OTHERS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn measure(course: &Course) -> Result<Vec<Row>> {
    ensure!(course.runs > 0, "no runs");
    let mut lab = mesh::bring_up(&mesh::spec(course))?;
    deploy(&lab)?;
    let mut callers = calls::start_all(mesh::cluster(&lab, WRITER)?, TARGET)?;
    callers.extend(calls::start_all(mesh::cluster(&lab, READER)?, TARGET)?);
    let (mut seconds, begun_unix_us) = (Vec::new(), unix_us());
    for run in 1..=course.runs {
        let (took, records) = update(mesh::cluster(&lab, WRITER)?, &callers)?;
        let summary = Summary::of(&records);
        eprintln!(
            "bench:   update {run} of {}: {:.0} s, {} calls, {} failed {:?}",
            course.runs,
            took.as_secs_f64(),
            records.len(),
            summary.failed(),
            summary.errors
        );
        ensure!(summary.clusters() == [WRITER, READER], "only {:?} answered", summary.clusters());
        seconds.push(took.as_secs_f64());
    }
    let all = calls_of(&callers, (begun_unix_us, unix_us()), calls::PATIENCE)?;
    lab.check()?;
    Ok(rows(&seconds, &all))
}

fn rows(seconds: &[f64], records: &[Record]) -> Vec<Row> {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = |number: usize| number as f64;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let ms = |record: &Record| record.latency_us as f64 / 1000.0;
    let latencies: Vec<f64> = records.iter().map(ms).collect();
    vec![
        Row::new("kube_rolling_failed", count(Summary::of(records).failed()), "requests", Goal::AtMost(0.0)),
        Row::shown("kube_rolling_requests", count(records.len()), "requests"),
        Row::shown("kube_rolling_updates", count(seconds.len()), "updates"),
        Row::shown("kube_rolling_median_s", median(seconds), "s"),
        Row::shown("kube_rolling_request_median_ms", median(&latencies), "ms"),
    ]
}

/// The service in both clusters, global from the beginning.
fn deploy(lab: &KubeLab) -> Result<()> {
    for (name, pods) in [(WRITER, PODS), (READER, OTHERS)] {
        let context = mesh::cluster(lab, name)?.context();
        let cluster = format!("--from-literal=cluster={name}");
        context.kubectl(&["create", "configmap", "galaxy", &cluster])?;
        context.apply(MANIFEST)?;
        context.kubectl(&["annotate", "service", SERVICE, "clustermesh.io/global=true"])?;
        context.kubectl(&["scale", "deployment", SERVICE, &format!("--replicas={pods}")])?;
    }
    for name in [WRITER, READER] {
        roll_out(mesh::cluster(lab, name)?)?;
    }
    for name in [WRITER, READER] {
        mesh::wait_backends(mesh::cluster(lab, name)?, PODS + OTHERS, PATIENCE)?;
    }
    Ok(())
}

fn roll_out(cluster: &KubeCluster) -> Result<()> {
    let deployment = format!("deployment/{SERVICE}");
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    cluster.context().kubectl(&["rollout", "status", &deployment, &timeout]).map(drop)
}

/// One update, until the last old pod is gone: how long it took, and the calls that began and were told meanwhile.
fn update(cluster: &KubeCluster, callers: &[PodLog]) -> Result<(Duration, Vec<Record>)> {
    let (begun_unix_us, started) = (unix_us(), Instant::now());
    cluster.context().kubectl(&["rollout", "restart", &format!("deployment/{SERVICE}")])?;
    roll_out(cluster)?;
    wait_old_gone(cluster)?;
    let took = started.elapsed();
    let records = calls_of(callers, (begun_unix_us, unix_us()), Duration::ZERO)?;
    Ok((took, records))
}

/// All calls that began between two times, and were told within `patience`.
fn calls_of(callers: &[PodLog], (from, to): (u64, u64), patience: Duration) -> Result<Vec<Record>> {
    let later = to + u64::try_from(patience.as_micros())?;
    let mut records = Vec::new();
    for caller in callers {
        // A caller that has logged a later call has logged those.
        caller.records.begun_since(later, 1, PATIENCE).context("a caller's calls")?;
        let all = caller.records.all().into_iter();
        records.extend(all.filter(|record| (from..to).contains(&record.start_unix_us)));
    }
    Ok(records)
}

/// Waits until there are as many pods as there should be: those that terminate are counted, too.
fn wait_old_gone(cluster: &KubeCluster) -> Result<()> {
    let context = cluster.context();
    let args = ["get", "pods", "-l", &format!("app={SERVICE}"), "-o", "name"];
    wait::until("the old pods to go", PATIENCE, || {
        let pods = context.kubectl(&args)?.lines().count();
        ensure!(pods == PODS, "{pods} pods");
        Ok(())
    })
}
