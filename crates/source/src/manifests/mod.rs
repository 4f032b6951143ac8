//! Follows a folder of Kubernetes manifests.
//!
//! Owns the folder's watch and the passes over it. Nothing is ever deleted because something could not be read:
//! a folder that is missing or empty is unknown, a file that breaks keeps its last good objects.

mod document;
mod fingerprint;
mod folder;
mod listing;
mod reader;
mod scan;
mod watch;

use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::name::NodeName;
use mesh_model::snapshot::ClusterSnapshot;
use tokio::sync::watch as channel;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::memory::{Known, Origins};
use crate::metrics::SourceMetrics;
use crate::status::Status;
use fingerprint::Now;
use folder::EVERYTHING;
use reader::{Pass, Reader};
use scan::Hints;
use watch::{Signal, Watch};

/// Follows a folder of Kubernetes manifests and publishes what they add up to.
#[derive(Debug)]
pub struct Manifests {
    reader: Reader,
    metrics: SourceMetrics,
    known: channel::Sender<Option<Known>>,
    snapshots: channel::Sender<Option<Arc<ClusterSnapshot>>>,
    status: channel::Sender<Arc<Status>>,
    confirmed: channel::Sender<Option<std::time::Instant>>,
}

/// What a file of this text holds, one line for each document, also for those that are refused. For the fuzz targets.
#[doc(hidden)]
pub fn describe(text: &str, json: bool) -> Vec<String> {
    document::documents(text, json).iter().map(|document| format!("{document:?}")).collect()
}

impl Manifests {
    pub fn new(folder: &Path, metrics: SourceMetrics) -> Self {
        let reader = Reader::new(folder, metrics.clone());
        let (snapshots, status) = (channel::Sender::default(), channel::Sender::default());
        let (known, confirmed) = (channel::Sender::default(), channel::Sender::default());
        Self { reader, metrics, known, snapshots, status, confirmed }
    }

    /// The same for the clients of a node: topology hints narrow the local endpoints.
    pub fn seen_from(mut self, node: Option<NodeName>) -> Self {
        self.reader.see_from(node);
        self
    }

    /// Takes ClusterIPs within these ranges only, if there are any.
    pub(crate) fn within(mut self, service_ranges: Vec<IpNet>) -> Self {
        self.reader.confine(service_ranges);
        self
    }

    /// Begins with what a process before this one knew; behind `seen_from`. `publish`: says so before the folder has
    /// been read.
    pub fn remembering(mut self, before: &Known, publish: bool) -> Self {
        self.reader.remember(before);
        if publish {
            self.snapshots.send_replace(Some(before.snapshot.clone()));
        }
        self
    }

    /// What shall outlive this process.
    pub fn known(&self) -> channel::Receiver<Option<Known>> {
        self.known.subscribe()
    }

    /// What the manifests add up to; `None` until the folder has been read once, completely.
    pub fn snapshots(&self) -> channel::Receiver<Option<Arc<ClusterSnapshot>>> {
        self.snapshots.subscribe()
    }

    /// What is wrong in the folder.
    pub fn status(&self) -> channel::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// When the last pass began that found the folder readable; what is published is not older.
    pub fn confirmed(&self) -> channel::Receiver<Option<std::time::Instant>> {
        self.confirmed.subscribe()
    }

    /// Follows the folder until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let signal = Arc::new(Signal::default());
        let mut watch = Watch::new(self.reader.folder(), signal.clone());
        // Whether the last pass has asked for another one.
        let mut expected = false;
        loop {
            let (hints, watch_good) = signal.take();
            if !watch_good {
                watch.drop_it();
            }
            // Before the pass, so that what changes during it is announced.
            let announced = watch.is_alive();
            self.renew(&mut watch);
            let hinted = hints != Hints::default();
            let Some((reader, pass)) = pass(self.reader, hints, &token).await else { return };
            self.reader = reader;
            let unannounced = announced && !expected && pass.moved && !hinted;
            expected = pass.again.is_some();
            let watch_void = pass.replaced || unannounced;
            let again = pass.again.map_or_else(|| Instant::now() + EVERYTHING, Into::into);
            self.publish(pass);
            if watch_void {
                // What the kernel announces, if anything, is of another folder. Look again behind a new watch.
                watch.drop_it();
                continue;
            }
            tokio::select! {
                () = signal.wait() => {}
                () = tokio::time::sleep_until(again.min(Instant::now() + EVERYTHING)) => {}
                () = token.cancelled() => return,
            }
        }
    }

    fn renew(&self, watch: &mut Watch) {
        if !watch.is_alive()
            && let Err(error) = watch.renew()
        {
            tracing::debug!(error = %error, "the folder cannot be watched; it is polled every second");
        }
        self.metrics.notified.set(watch.is_alive().into());
    }

    fn publish(&self, pass: Pass) {
        let snapshot = pass.snapshot.map(Arc::new);
        if snapshot.is_some() || pass.origins.is_some() {
            self.remember(snapshot.clone(), pass.origins.map(Arc::new));
        }
        if let Some(snapshot) = snapshot {
            tracing::debug!(services = snapshot.services.len(), nodes = snapshot.nodes.len(), "new snapshot");
            self.snapshots.send_replace(Some(snapshot));
        }
        // Behind its snapshot: whoever reads that everything is known, and then the snapshot, gets the one that it is of.
        if let Some(status) = pass.status {
            self.status.send_replace(Arc::new(status));
        }
        if let Some(began) = pass.confirmed {
            self.confirmed.send_replace(Some(began));
        }
    }

    fn remember(&self, snapshot: Option<Arc<ClusterSnapshot>>, origins: Option<Arc<Origins>>) {
        self.known.send_modify(|known| {
            let Known { snapshot: old, origins: before, .. } = known.take().unwrap_or_default();
            *known = Some(Known::new(snapshot.unwrap_or(old), origins.unwrap_or(before)));
        });
    }
}

/// One pass, on a thread that may block; `None` when it is time to stop, even if the file system hangs.
async fn pass(mut reader: Reader, hints: Hints, token: &CancellationToken) -> Option<(Reader, Pass)> {
    let passing = tokio::task::spawn_blocking(move || {
        let pass = reader.pass(&hints, Now::read());
        (reader, pass)
    });
    tokio::select! {
        passed = passing => match passed {
            Ok(passed) => Some(passed),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_runtime_stops) => None,
        },
        () = token.cancelled() => None,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
#[path = "content_tests.rs"]
mod content_tests;

#[cfg(test)]
#[path = "writer_tests.rs"]
mod writer_tests;

#[cfg(test)]
#[path = "restart_tests.rs"]
mod restart_tests;

#[cfg(test)]
#[path = "property_tests.rs"]
mod property_tests;
