//! Hears from the kernel that something in the folder changed. Only speeds things up: the folder is looked at
//! every second anyway, because watches die with their folder and some file systems announce nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::folder::{DATA_LINK, is_manifest};
use super::scan::Hints;

/// What happened since somebody last asked, coalesced.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    happened: Mutex<Happened>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Happened {
    hints: Hints,
    /// The folder itself was removed or renamed, or the kernel lost count.
    watch_lost: bool,
}

impl Signal {
    /// Waits until something has happened since the last `take`.
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// The hints so far, and whether the watch is still good.
    pub(crate) fn take(&self) -> (Hints, bool) {
        let Happened { hints, watch_lost } = std::mem::take(&mut *self.lock());
        (hints, !watch_lost)
    }

    fn lock(&self) -> MutexGuard<'_, Happened> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, folder: &Path, event: notify::Result<Event>) {
        let Ok(event) = event else {
            self.lock().watch_lost = true;
            return self.wake.notify_one();
        };
        if self.lock().add(folder, &event) {
            self.wake.notify_one();
        }
    }
}

impl Happened {
    /// Notes an event; returns whether it is worth a look.
    fn add(&mut self, folder: &Path, event: &Event) -> bool {
        if event.need_rescan() {
            self.hints.elsewhere = true;
            return true;
        }
        let whole = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => true,
            // Told before, as two.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return false,
            EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => false,
            // Worth no look: its writer is not done.
            EventKind::Modify(ModifyKind::Data(_)) => return self.begin(event),
            _ => return false,
        };
        let Some(path) = event.paths.last().filter(|path| *path != folder) else {
            self.watch_lost |= !event.paths.is_empty();
            self.hints.elsewhere = true;
            return true;
        };
        let Some(name) = path.file_name() else { return false };
        if name == DATA_LINK {
            self.hints.all_whole |= whole;
            self.hints.elsewhere = true;
            return true;
        }
        let manifest = is_manifest(name);
        if whole && manifest {
            self.hints.whole.insert(name.into());
            self.hints.unclosed.remove(name);
        }
        self.hints.elsewhere |= manifest && !whole;
        manifest
    }

    /// Somebody writes to a file; worth no look.
    fn begin(&mut self, event: &Event) -> bool {
        let name = event.paths.last().and_then(|path| path.file_name());
        if let Some(name) = name.filter(|name| is_manifest(name)) {
            self.hints.unclosed.insert(name.into());
            self.hints.whole.remove(name);
        }
        false
    }
}

/// The kernel's watch on a folder.
pub(crate) struct Watch {
    folder: PathBuf,
    signal: Arc<Signal>,
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    pub(crate) fn new(folder: &Path, signal: Arc<Signal>) -> Self {
        Self { folder: folder.into(), signal, watcher: None }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.watcher.is_some()
    }

    /// Forgets the watch: it is on a folder that is no more.
    pub(crate) fn drop_it(&mut self) {
        self.watcher = None;
    }

    /// Watches the folder that now has the name.
    pub(crate) fn renew(&mut self) -> notify::Result<()> {
        let (folder, signal) = (self.folder.clone(), self.signal.clone());
        let mut watcher = notify::recommended_watcher(move |event| signal.note(&folder, event))?;
        watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
        self.watcher = Some(watcher);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, RemoveKind};

    use super::*;

    fn noted(kind: EventKind, path: &str) -> (bool, Happened) {
        let mut happened = Happened::default();
        let event = Event::new(kind).add_path(path.into());
        (happened.add(Path::new("/m"), &event), happened)
    }

    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const MOVED_IN: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));

    #[test]
    fn a_file_is_whole_after_close_or_rename_but_not_while_written() {
        for kind in [CLOSED, MOVED_IN] {
            let (worth, happened) = noted(kind, "/m/a.yaml");
            assert!(worth && happened.hints.whole.contains(std::ffi::OsStr::new("a.yaml")));
        }
        let (worth, happened) = noted(EventKind::Create(CreateKind::File), "/m/a.yaml");
        assert!(worth && happened.hints == Hints { elsewhere: true, ..Hints::default() });
        let (worth, happened) = noted(WRITTEN, "/m/a.yaml");
        assert!(!worth && happened.hints.unclosed.contains(std::ffi::OsStr::new("a.yaml")));
        assert!(!noted(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/m/a.yaml").0);
    }

    #[test]
    fn the_last_of_writing_and_closing_counts() {
        for (kinds, is_whole) in [([WRITTEN, CLOSED], true), ([CLOSED, WRITTEN], false)] {
            let mut happened = Happened::default();
            for kind in kinds {
                happened.add(Path::new("/m"), &Event::new(kind).add_path("/m/a.yaml".into()));
            }
            let Hints { whole, unclosed, .. } = happened.hints;
            assert_eq!((whole.len(), unclosed.len()), (is_whole.into(), (!is_whole).into()));
        }
    }

    #[test]
    fn a_rename_over_a_file_names_that_file_and_nothing_else() {
        let mut happened = Happened::default();
        let event =
            |mode, path: &str| Event::new(EventKind::Modify(ModifyKind::Name(mode))).add_path(path.into());
        let (from, to) = (event(RenameMode::From, "/m/.a.new"), event(RenameMode::To, "/m/a.yaml"));
        let both = event(RenameMode::Both, "/m/.a.new").add_path("/m/a.yaml".into());
        let worth = [from, to, both].map(|event| happened.add(Path::new("/m"), &event));
        assert_eq!(worth, [false, true, false]);
        assert_eq!(happened.hints, Hints { whole: ["a.yaml".into()].into(), ..Hints::default() });
        // A manifest that becomes another one has gone itself.
        assert!(
            happened.add(Path::new("/m"), &event(RenameMode::From, "/m/b.yaml")) && happened.hints.elsewhere
        );
    }

    #[test]
    fn swap_files_wake_nobody() {
        for name in ["/m/.a.yaml.swp", "/m/a.yaml~", "/m/4913", "/m/a.yaml.tmp", "/m/#a.yaml#"] {
            assert!(!noted(CLOSED, name).0, "{name}");
        }
    }

    #[test]
    fn a_swapped_data_link_makes_every_file_whole() {
        assert!(noted(MOVED_IN, "/m/..data").1.hints.all_whole);
    }

    #[test]
    fn the_folders_own_end_loses_the_watch() {
        assert!(noted(EventKind::Remove(RemoveKind::Folder), "/m").1.watch_lost);
    }
}
