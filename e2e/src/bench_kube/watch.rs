//! A bare watch of EndpointSlices: when each version came, and nothing else.

use std::pin::pin;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use kube::core::WatchEvent;

use super::api::{Api, Door};
use super::object;
use crate::wait::unix_us;

/// An event, and its time.
type Seen = (String, u64);

#[derive(Debug)]
pub(crate) struct Watch {
    seen: Receiver<Seen>,
    _thread: JoinHandle<Result<()>>,
}

impl Watch {
    /// Follows what changes from now on. The thread ends with the API server, or at an event that nobody wants.
    pub(crate) fn start(door: &Door, patience: Duration) -> Result<Self> {
        let (ready, wait) = mpsc::channel();
        let (sender, seen) = mpsc::channel();
        let thread = door.beside(async move |api| {
            let followed = follow(&api, &ready, &sender).await;
            followed.inspect_err(|error| eprintln!("bench: the bare watch: {error:#}"))
        })?;
        wait.recv_timeout(patience).context("the bare watch did not begin")?;
        Ok(Self { seen, _thread: thread })
    }

    /// When a version came.
    pub(crate) fn seen(&self, version: &str, patience: Duration) -> Result<u64> {
        loop {
            let (came, at_unix_us) = self
                .seen
                .recv_timeout(patience)
                .with_context(|| format!("version {version} was not seen"))?;
            if came == version {
                return Ok(at_unix_us);
            }
        }
    }
}

async fn follow(api: &Api, ready: &mpsc::Sender<()>, sender: &mpsc::Sender<Seen>) -> Result<()> {
    let mut events = pin!(api.watch(&object::watch_of_slices()).await?);
    // Nobody waits any more: the caller has given up.
    let _ = ready.send(());
    while let Some(event) = events.next().await {
        let at_unix_us = unix_us();
        let sighting = match event.context("an event")? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => object,
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => bail!("{status:?}"),
        };
        if sender.send((sighting.metadata.resource_version, at_unix_us)).is_err() {
            return Ok(());
        }
    }
    // The lab has ended, or whoever waits for a version misses it.
    Ok(())
}
