//! The story's end as JSON, for machines.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::step::Outcomes;

#[derive(Debug, Serialize)]
struct Report<'a> {
    ok: bool,
    steps: Vec<StepReport<'a>>,
}

#[derive(Debug, Serialize)]
struct StepReport<'a> {
    name: &'a str,
    requests: usize,
    errors: usize,
    shares: BTreeMap<&'a str, f64>,
    control_ms: Option<f64>,
    traffic_ms: Option<f64>,
}

impl<'a> StepReport<'a> {
    fn of(step: &'a Outcomes) -> Self {
        Self {
            name: &step.name,
            requests: step.requests,
            errors: step.failed_requests(),
            shares: step.shares.iter().map(|(cluster, share)| (cluster.as_str(), round(*share))).collect(),
            control_ms: step.control.map(milliseconds),
            traffic_ms: step.traffic.map(milliseconds),
        }
    }
}

/// Whole microseconds, as milliseconds.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// Writes the report to a file.
pub(crate) fn write(path: &Path, steps: &[Outcomes]) -> Result<()> {
    let ok = steps.iter().all(|step| step.failures.is_empty());
    let report = Report { ok, steps: steps.iter().map(StepReport::of).collect() };
    let text = serde_json::to_string_pretty(&report).context("rendering the report")? + "\n";
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn round(share: f64) -> f64 {
    (share * 10_000.0).round() / 10_000.0
}
