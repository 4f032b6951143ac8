//! What an agent says of its own work, followed while it is measured.

use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use mesh_admin::api::{Event, PeerState, Writes};

use crate::lab::http::{self, Door};

/// The stream of an agent's events, from some time on.
#[derive(Debug)]
pub(crate) struct Journal {
    events: mpsc::Receiver<Result<Event>>,
}

/// What happened until something had happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Story {
    /// When the first peer was reached.
    pub(crate) connected_unix_us: Option<u64>,
    /// The last map write.
    pub(crate) done_unix_us: u64,
    pub(crate) plans: usize,
    pub(crate) writes: Writes,
}

impl Story {
    /// Elements of all maps.
    pub(crate) fn all_writes(&self) -> usize {
        let Writes { backends, slots, services, deleted_services } = self.writes;
        backends + slots + services + deleted_services
    }

    fn add(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::PeerState { at_unix_us, state: PeerState::Listing, .. } => {
                self.connected_unix_us.get_or_insert(*at_unix_us);
            }
            Event::MapsWritten { done_unix_us, writes, .. } => {
                self.plans += 1;
                self.done_unix_us = *done_unix_us;
                self.writes.backends += writes.backends;
                self.writes.slots += writes.slots;
                self.writes.services += writes.services;
                self.writes.deleted_services += writes.deleted_services;
            }
            Event::ApplyFailed { reason, .. } => bail!("the agent could not write: {reason}"),
            Event::Lagged { lost, .. } => bail!("{lost} events of the agent were lost"),
            Event::PeerState { .. }
            | Event::Adopted { .. }
            | Event::ForeignProgram { .. }
            | Event::FrontendsTaken { .. } => {}
        }
        Ok(())
    }
}

impl Journal {
    /// Follows what happens from now on, and what is remembered since then.
    pub(crate) fn follow(socket: PathBuf, since_unix_us: u64) -> Result<Self> {
        let (sender, events) = mpsc::channel();
        let path = format!("/v1/events?since_unix_us={since_unix_us}");
        let follow = move || {
            let taken = http::follow(&Door::Unix(socket), &path, |line| {
                let event = serde_json::from_str(line).with_context(|| format!("an event: {line}"));
                sender.send(event).is_ok()
            });
            // Nobody listens any more when the agent's end is not of interest.
            let _ = taken.map_err(|error| sender.send(Err(error)));
        };
        thread::Builder::new().name("journal".into()).spawn(follow).context("starting a thread")?;
        Ok(Self { events })
    }

    /// The next event.
    pub(crate) fn next(&self, patience: Duration) -> Result<Event> {
        match self.events.recv_timeout(patience) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => Err(anyhow!("the agent did nothing within {patience:?}")),
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("the agent's events have ended")),
        }
    }

    /// Adds up what happens until `done`.
    pub(crate) fn until(&self, patience: Duration, done: impl Fn(&Story) -> bool) -> Result<Story> {
        let deadline = Instant::now() + patience;
        let mut story = Story::default();
        while !done(&story) {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.next(left).with_context(|| format!("so far {story:?}"))?;
            story.add(&event)?;
        }
        Ok(story)
    }

    /// Waits for the plan that concerns a service; others must not be in it.
    pub(crate) fn written(&self, service: &str, patience: Duration) -> Result<(u64, Writes)> {
        loop {
            let Event::MapsWritten { at_unix_us, services, writes, .. } = self.next(patience)? else {
                continue;
            };
            match services.as_slice() {
                [only] if only.as_str() == service => return Ok((at_unix_us, writes)),
                other => bail!("a change of {service} made the agent write {other:?}"),
            }
        }
    }
}
