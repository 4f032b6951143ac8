//! When a folder of peer files has to be read again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Folders that inotify does not report on, or that were replaced, are read this often.
const POLL: Duration = Duration::from_secs(2);

/// Waits for changes of a folder. Best effort: what it misses, polling finds.
#[derive(Debug)]
pub struct FolderWatch {
    folder: PathBuf,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
}

impl FolderWatch {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), changed: Arc::default(), watcher: None }
    }

    /// To be called before each reading. A watch ends with the folder it was set on; setting it anew costs nothing.
    pub fn renew(&mut self) {
        self.watcher = self.watch().or(self.watcher.take());
    }

    /// Ends when the folder may be another than at the last [`Self::renew`], at the latest after `again`.
    pub async fn changed(&self, again: Option<Duration>) {
        drop(tokio::time::timeout(again.unwrap_or(POLL).min(POLL), self.changed.notified()).await);
    }

    fn watch(&self) -> Option<RecommendedWatcher> {
        let changed = self.changed.clone();
        // Reading the files makes events of its own.
        let matters = |kind: EventKind| {
            !kind.is_access() || kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| matters(event.kind)) {
                changed.notify_one();
            }
        })
        .ok()?;
        watcher.watch(&self.folder, RecursiveMode::NonRecursive).ok()?;
        Some(watcher)
    }
}
