//! Which files a folder holds, which of them are whole, and which are gone.
//!
//! Level-triggered: each scan looks at everything, so a missed event costs time, never truth. What the kernel
//! announced (`Hints`) only says of which files the writer is known to be done. A file that changed without such
//! a word is read once it has been left alone for a moment. Knows nothing of what is in the files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long a file must be left alone, or be gone, until that counts. Editors replace files in less.
pub(crate) const SETTLE: Duration = Duration::from_millis(200);
/// The same for a folder that is being filled again after it was replaced or empty.
pub(crate) const REFILL: Duration = Duration::from_secs(1);
/// The link that Kubernetes swaps to change a mounted Secret or ConfigMap as a whole.
pub(crate) const DATA_LINK: &str = "..data";

/// What the kernel announced since the last scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    /// Files that were closed after writing, or renamed into place.
    pub(crate) whole: BTreeSet<OsString>,
    /// The data link was swapped: every file is whole.
    pub(crate) all_whole: bool,
}

/// Two times: one for durations, one to compare with those of files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) monotonic: Instant,
    pub(crate) wall: SystemTime,
}

impl Now {
    pub(crate) fn read() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }
}

/// Why nothing is known of the folder. Its files then stay as they were.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    #[error("the folder does not exist; create it, and put at least one manifest into it")]
    Missing,
    #[error("it is not a folder; name one")]
    NotAFolder,
    #[error("the folder cannot be read: {0}; let this process read it")]
    Unreadable(io::Error),
    #[error(
        "the folder holds no *.yaml, *.yml or *.json; to say that there is nothing, write a file with `kind: List`, `apiVersion: v1` and `items: []`"
    )]
    Empty,
    #[error("the mount is incomplete: {DATA_LINK} is gone; mount the volume again")]
    NoDataLink,
}

/// Identifies content without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    pub(crate) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long ago the inode was last changed or renamed; `None` for the future, which a clock step can make.
    fn age(&self, wall: SystemTime) -> Option<Duration> {
        let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let nanoseconds = u32::try_from(self.changed.1).ok()?;
        let changed = Duration::new(u64::try_from(self.changed.0).ok()?, nanoseconds);
        since_epoch.checked_sub(changed)
    }
}

/// A folder's own identity: a recreated or remounted one differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FolderId {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

#[derive(Debug)]
struct Seen {
    fingerprint: Fingerprint,
    /// Since when the fingerprint is known to be this one.
    since: Instant,
    /// The content that was last handed out for reading.
    read: Option<Fingerprint>,
    missing_since: Option<Instant>,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Files to read now.
    pub(crate) read: Vec<OsString>,
    /// Files that are gone for good.
    pub(crate) gone: Vec<OsString>,
    /// Files that need a moment: being written to, or missing.
    pub(crate) pending: usize,
    /// Whether a file that was never read is among the pending ones, or the folder may still be filling up.
    pub(crate) incomplete: bool,
    /// When to look again at the latest.
    pub(crate) again: Option<Instant>,
    /// The folder is another one than before.
    pub(crate) replaced: bool,
}

/// The files of a folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    id: Option<FolderId>,
    files: BTreeMap<OsString, Seen>,
    had_data_link: bool,
    /// Being filled anew: absence counts later.
    refilling: bool,
    /// Since when the set of names is what it is.
    names_since: Option<Instant>,
}

impl Folder {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            id: None,
            files: BTreeMap::new(),
            had_data_link: false,
            refilling: false,
            names_since: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at everything.
    pub(crate) fn scan(&mut self, hints: &Hints, now: Now) -> Result<Scan, Unknown> {
        let listed = self.list();
        if listed.is_err() && self.id.is_some() {
            self.refilling = true;
        }
        let (metadata, present) = listed?;
        let mut scan = Scan { replaced: self.identify(&metadata), ..Scan::default() };
        self.note_names(&present, &metadata, now);
        for (name, fingerprint) in &present {
            self.see(name, *fingerprint, now.monotonic);
        }
        self.choose_whole(hints, now, &present, &mut scan);
        self.choose_gone(now.monotonic, &present, &mut scan);
        self.settle_names(now.monotonic, &mut scan);
        Ok(scan)
    }

    /// The file could not be read after all: look at it again next time.
    pub(crate) fn forget_reading(&mut self, name: &OsStr) {
        if let Some(seen) = self.files.get_mut(name) {
            seen.read = None;
        }
    }

    fn list(&mut self) -> Result<(Metadata, BTreeMap<OsString, Fingerprint>), Unknown> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Unknown::Missing,
            io::ErrorKind::NotADirectory => Unknown::NotAFolder,
            _ => Unknown::Unreadable(error),
        };
        let metadata = std::fs::metadata(&self.path).map_err(unreadable)?;
        let (mut present, mut has_data_link) = (BTreeMap::new(), false);
        for entry in std::fs::read_dir(&self.path).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            has_data_link |= name == DATA_LINK;
            if !is_manifest(&name) {
                continue;
            }
            // A dangling link counts as absent, a special file as none of ours.
            let found = std::fs::metadata(self.path.join(&name)).ok().filter(Metadata::is_file);
            if let Some(found) = found {
                present.insert(name, Fingerprint::of(&found));
            }
        }
        if self.had_data_link && !has_data_link {
            return Err(Unknown::NoDataLink);
        }
        if present.is_empty() {
            return Err(Unknown::Empty);
        }
        self.had_data_link = has_data_link;
        Ok((metadata, present))
    }

    fn identify(&mut self, metadata: &Metadata) -> bool {
        let id = FolderId { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() };
        let replaced = self.id.is_some_and(|old| old != id);
        self.refilling |= replaced;
        self.id = Some(id);
        replaced
    }

    fn note_names(&mut self, present: &BTreeMap<OsString, Fingerprint>, folder: &Metadata, now: Now) {
        let Some(_) = self.names_since else {
            // The first scan ever: an old folder is taken as it is.
            let age = Fingerprint::of(folder).age(now.wall).unwrap_or_default();
            self.names_since = Some(now.monotonic.checked_sub(age).unwrap_or(now.monotonic));
            return;
        };
        let same =
            present.keys().all(|name| self.files.get(name).is_some_and(|seen| seen.missing_since.is_none()))
                && self
                    .files
                    .iter()
                    .all(|(name, seen)| seen.missing_since.is_some() || present.contains_key(name));
        if !same {
            self.names_since = Some(now.monotonic);
        }
    }

    fn see(&mut self, name: &OsStr, fingerprint: Fingerprint, now: Instant) {
        let new = || Seen { fingerprint, since: now, read: None, missing_since: None };
        let seen = self.files.entry(name.into()).or_insert_with(new);
        seen.missing_since = None;
        if seen.fingerprint != fingerprint {
            (seen.fingerprint, seen.since) = (fingerprint, now);
        }
    }

    /// Files whose content changed and that nobody is writing any more.
    fn choose_whole(
        &mut self,
        hints: &Hints,
        now: Now,
        present: &BTreeMap<OsString, Fingerprint>,
        scan: &mut Scan,
    ) {
        for name in present.keys() {
            let seen = self.files.get_mut(name).expect("every present file has just been seen");
            if seen.read == Some(seen.fingerprint) {
                continue;
            }
            let age = seen.fingerprint.age(now.wall).unwrap_or_default();
            let left_alone = age.max(now.monotonic.duration_since(seen.since));
            if hints.all_whole || hints.whole.contains(name) || left_alone >= SETTLE {
                seen.read = Some(seen.fingerprint);
                scan.read.push(name.clone());
            } else {
                scan.wait(now.monotonic + SETTLE.saturating_sub(left_alone));
                scan.incomplete |= seen.read.is_none();
            }
        }
    }

    /// Files that have been missing for long enough.
    fn choose_gone(&mut self, now: Instant, present: &BTreeMap<OsString, Fingerprint>, scan: &mut Scan) {
        let names_since = self.names_since.unwrap_or(now);
        for (name, seen) in self.files.iter_mut().filter(|(name, _)| !present.contains_key(*name)) {
            let since = *seen.missing_since.get_or_insert(now);
            let due = if self.refilling { since.max(names_since) + REFILL } else { since + SETTLE };
            if due <= now {
                scan.gone.push(name.clone());
            } else {
                scan.wait(due);
            }
        }
        for name in &scan.gone {
            self.files.remove(name);
        }
    }

    fn settle_names(&mut self, now: Instant, scan: &mut Scan) {
        let since = self.names_since.unwrap_or(now);
        let age = now.duration_since(since);
        if self.refilling && age >= REFILL {
            self.refilling = false;
        }
        if age < SETTLE {
            scan.incomplete = true;
            let due = since + SETTLE;
            scan.again = Some(scan.again.map_or(due, |again| again.min(due)));
        }
    }
}

impl Scan {
    fn wait(&mut self, due: Instant) {
        self.pending += 1;
        self.again = Some(self.again.map_or(due, |again| again.min(due)));
    }
}

/// Whether a name is a manifest's: `*.yaml`, `*.yml` or `*.json`, and not hidden. Editors' swap, backup and
/// temporary files are none.
pub(crate) fn is_manifest(name: &OsStr) -> bool {
    let path = Path::new(name);
    let hidden = name.as_encoded_bytes().starts_with(b".");
    !hidden && path.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json")
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
