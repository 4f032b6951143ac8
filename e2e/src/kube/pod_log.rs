//! The log of a pod that calls a service, with a line for every call, followed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::kubectl::Context;
use crate::lab::client::Records;
use crate::wait;

/// A log that is followed; its `kubectl` ends with it.
#[derive(Debug)]
pub(crate) struct PodLog {
    reader: Child,
    pub(crate) records: Records,
}

impl PodLog {
    /// Waits until the pod has called.
    pub(crate) fn follow(context: &Context, pod: &str, patience: Duration) -> Result<Self> {
        let mut command = context.command(&["logs", "--follow", pod]);
        let mut reader = command.stdout(Stdio::piped()).spawn().context("starting kubectl")?;
        let said = BufReader::new(reader.stdout.take().context("kubectl has no stdout")?);
        let log = Self { reader, records: Records::default() };
        let sink = log.records.clone();
        let read = move || {
            for line in said.lines().map_while(Result::ok) {
                // Anything else that a pod says is no record.
                if let Ok(record) = serde_json::from_str(&line) {
                    sink.push(record);
                }
            }
        };
        thread::Builder::new().name("calls".into()).spawn(read).context("starting a thread")?;
        wait::until(&format!("{pod} in {} to call", context.name), patience, || {
            ensure!(log.records.count() > 0, "it has said nothing");
            Ok(())
        })?;
        Ok(log)
    }
}

impl Drop for PodLog {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.reader.kill();
        let _ = self.reader.wait();
    }
}
