//! The story's own watch of a service's EndpointSlices: when it saw how many ready endpoints.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;

use super::shell::PATIENCE;
use crate::kube::provider::Site;
use crate::story::SERVICE;
use crate::wait::{self, unix_us};

/// How many endpoints were ready from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) at_unix_us: u64,
    pub(super) ready: usize,
}

/// The watch of one cluster; its kubectl ends with it.
#[derive(Debug)]
pub(super) struct Watch {
    child: Child,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Watch {
    pub(super) fn start(site: &Site) -> Result<Self> {
        let selector = format!("kubernetes.io/service-name={SERVICE}");
        let mut command =
            site.context.command(&["get", "endpointslices", "-l", &selector, "--watch", "-o", "json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().context("starting kubectl")?;
        let said = BufReader::new(child.stdout.take().context("kubectl has no stdout")?);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let read = move || {
            let mut slices = BTreeMap::new();
            let objects = serde_json::Deserializer::from_reader(said).into_iter::<Value>();
            for object in objects.map_while(Result::ok) {
                let at_unix_us = unix_us();
                let ready = take(&mut slices, &object);
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(Seen { at_unix_us, ready });
            }
        };
        thread::Builder::new().name("slices".into()).spawn(read).context("starting a thread")?;
        Ok(Self { child, seen })
    }

    /// All that was seen, the first time of each number.
    fn history(&self) -> Vec<Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.dedup_by_key(|seen| seen.ready);
        seen
    }

    /// Waits until `ready` endpoints are ready.
    pub(super) fn wait(&self, ready: usize) -> Result<Seen> {
        self.wait_for(&format!("{ready} ready endpoints"), |seen| seen.ready == ready)
    }

    /// Waits until the last number seen is as wanted; gives when it was seen first.
    pub(super) fn wait_for(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Result<Seen> {
        wait::until(what, PATIENCE, || {
            let last = self.history().last().copied().context("no slice was seen")?;
            wanted(&last).then_some(last).with_context(|| format!("there are {}", last.ready))
        })
    }

    /// The first change of the number after a moment.
    pub(super) fn first_change(&self, since_unix_us: u64) -> Result<u64> {
        let history = self.history();
        let first = history.iter().find(|seen| seen.at_unix_us >= since_unix_us);
        Ok(first.context("the EndpointSlices did not change")?.at_unix_us)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Notes one event, and gives the number of ready endpoints of all slices.
fn take(slices: &mut BTreeMap<String, usize>, object: &Value) -> usize {
    let endpoints = object["endpoints"].as_array().into_iter().flatten();
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count();
    slices.insert(object["metadata"]["name"].as_str().unwrap_or_default().to_owned(), ready);
    slices.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_endpoints_are_counted_over_all_slices() {
        let slice = |name: &str, ready: &[bool]| {
            let endpoints: Vec<_> =
                ready.iter().map(|ready| json!({"conditions": {"ready": ready}})).collect();
            json!({"metadata": {"name": name}, "endpoints": endpoints})
        };
        let mut slices = BTreeMap::new();
        assert_eq!(take(&mut slices, &slice("rebel-base-x7", &[true, false, true])), 2);
        assert_eq!(take(&mut slices, &slice("rebel-base-y8", &[true])), 3);
        assert_eq!(take(&mut slices, &json!({"metadata": {"name": "rebel-base-x7"}, "endpoints": null})), 1);
    }
}
