//! From the change of an EndpointSlice in one cluster to the map write on a node of the other, beside what a bare watch
//! of the same API server takes to hear of it.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Course;
use super::mesh::{self, READER, WRITER};
use super::object;
use super::watch::Watch;
use crate::bench::journal::Journal;
use crate::bench::row::{Goal, Row};
use crate::bench::stats::{median, percentile};
use crate::wait::unix_us;

/// Services of the same names in both clusters; the endpoints are the writer's.
const SERVICES: usize = 10;
/// For one change.
const PATIENCE: Duration = Duration::from_secs(20);
/// For everything to be known.
const SETTLED: Duration = Duration::from_secs(60);

/// The time of each change, in milliseconds.
#[derive(Debug, Default)]
struct Seen {
    /// From the request to the map write.
    written: Vec<f64>,
    /// From the request to the bare watch.
    watched: Vec<f64>,
    /// From the bare watch to the map write; negative where the mesh was faster.
    between: Vec<f64>,
}

pub(crate) fn measure(course: &Course) -> Result<Vec<Row>> {
    let mut lab = mesh::bring_up(&mesh::spec(course))?;
    let (writer, reader) = (mesh::cluster(&lab, WRITER)?, mesh::cluster(&lab, READER)?);
    let id = writer.address_plan().index();
    for cluster in [reader, writer] {
        let services = (0..SERVICES).map(|number| object::service(number, true)).collect();
        mesh::door(cluster).with(async move |api| {
            api.change(object::namespace()).await?;
            api.change_all("Services", services).await
        })?;
    }
    let door = mesh::door(writer);
    let slices = (0..SERVICES).map(|number| object::new_slice(id, number)).collect();
    door.with(async move |api| api.change_all("EndpointSlices", slices).await)?;
    mesh::wait_backends(reader, SERVICES * object::ENDPOINTS, SETTLED)?;
    let watch = Watch::start(&door, PATIENCE)?;
    let journal = Journal::follow(mesh::last_agent(reader)?.socket, unix_us())?;
    let changes = course.effort.times(500);
    let seen = door.with(async move |api| {
        let mut seen = Seen::default();
        for change in 1..=changes {
            let (number, generation) = (change % SERVICES, change.div_ceil(SERVICES));
            let put_unix_us = unix_us();
            let version = api.change(object::changed_slice(id, number, generation)).await?;
            let (written_unix_us, _) = journal.written(&object::full_name(number), PATIENCE)?;
            let watched_unix_us = watch.seen(&version, PATIENCE)?;
            ensure!(written_unix_us >= put_unix_us, "a slice's change was written before it was made");
            seen.written.push(ms(put_unix_us, written_unix_us));
            seen.watched.push(ms(put_unix_us, watched_unix_us));
            seen.between.push(ms(watched_unix_us, written_unix_us));
        }
        Ok(seen)
    })?;
    lab.check()?;
    Ok(rows(&seen))
}

/// Milliseconds between two times.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn ms(from_unix_us: u64, to_unix_us: u64) -> f64 {
    (to_unix_us as f64 - from_unix_us as f64) / 1000.0
}

fn rows(seen: &Seen) -> Vec<Row> {
    let p99 = |values: &[f64]| percentile(values, 0.99);
    let above = p99(&seen.written) - p99(&seen.watched);
    vec![
        Row::new("kube_propagation_median_ms", median(&seen.written), "ms", Goal::AtMost(10.0)),
        Row::shown("kube_propagation_p99_ms", p99(&seen.written), "ms"),
        Row::shown("kube_watch_median_ms", median(&seen.watched), "ms"),
        Row::shown("kube_watch_p99_ms", p99(&seen.watched), "ms"),
        Row::new("kube_propagation_p99_above_watch_ms", above, "ms", Goal::AtMost(25.0)),
        Row::shown("kube_watch_to_write_median_ms", median(&seen.between), "ms"),
        Row::shown("kube_watch_to_write_p99_ms", p99(&seen.between), "ms"),
    ]
}
