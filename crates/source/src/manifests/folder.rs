//! Which files a folder holds, which of them are whole, and which are gone.
//!
//! Level-triggered: a scan looks at everything, so a missed event costs time, never truth. Between two of them, a second
//! apart at most, only the files are looked at that the kernel announced, where it announced nothing else. What it
//! announced (`Hints`) also says of which files the writer is known to be done. A file that changed without such a word
//! is read once it has been left alone for a moment. No file is read while somebody has it open for writing;
//! where the kernel doesn't tell that, one that was written to and not closed is left alone for longer. Knows nothing
//! of what is in the files.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use mesh_files::Writers;

use super::fingerprint::{Fingerprint, Now};
use super::scan::{Hints, Scan};

/// How long a file must be left alone, or be gone, until that counts. Editors replace files in less.
pub(crate) const SETTLE: Duration = Duration::from_millis(200);
/// How long a writer may have a file open until that is told, and nobody waits for it any more.
pub(crate) const KEPT_OPEN: Duration = Duration::from_secs(10);
/// How long a file must be left alone that was written to and not closed, where the kernel doesn't tell whether it is
/// open still.
pub(crate) const UNCLOSED: Duration = Duration::from_secs(10);
/// The same for a folder that is being filled again after it was replaced or empty.
pub(crate) const REFILL: Duration = Duration::from_secs(1);
/// Everything is looked at this often, whatever the kernel announces.
pub(crate) const EVERYTHING: Duration = Duration::from_secs(1);
/// The link that Kubernetes swaps to change a mounted Secret or ConfigMap as a whole.
pub(crate) const DATA_LINK: &str = "..data";

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

/// A folder's own identity: a recreated or remounted one differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FolderId {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl FolderId {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() }
    }
}

#[derive(Debug)]
struct Seen {
    fingerprint: Fingerprint,
    /// Since when the fingerprint is known to be this one.
    since: Instant,
    /// The content that was last handed out for reading.
    read: Option<Fingerprint>,
    missing_since: Option<Instant>,
    /// Since when somebody is known to have it open for writing, while it has to be read.
    open_since: Option<Instant>,
    /// It was written to, and not closed since.
    unclosed: bool,
}

/// What has to be done with a file that changed.
enum Next {
    Read,
    /// Its writer is not done; when to look again, if nothing announces that.
    Wait(Option<Instant>),
    /// Its writer has had it open for so long that nobody waits for it.
    KeptOpen,
}

impl Seen {
    fn next(&mut self, writers: Writers, left_alone: Duration, now: Instant) -> Next {
        if writers == Writers::Present {
            let since = *self.open_since.get_or_insert(now);
            return if now.duration_since(since) < KEPT_OPEN { Next::Wait(None) } else { Next::KeptOpen };
        }
        self.open_since = None;
        if writers == Writers::Unknown && self.unclosed && left_alone < UNCLOSED {
            return Next::Wait(Some(now + (UNCLOSED - left_alone)));
        }
        Next::Read
    }
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
    /// When everything was looked at last, if nothing has needed a moment since.
    settled: Option<Instant>,
    /// Who has the file of a path open for writing.
    writers: fn(&Path) -> Writers,
}

impl Folder {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            writers,
            id: None,
            files: BTreeMap::new(),
            had_data_link: false,
            refilling: false,
            names_since: None,
            settled: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a file was there when the folder was last looked at.
    pub(crate) fn holds(&self, name: &OsStr) -> bool {
        self.files.contains_key(name)
    }

    /// Looks at what may have changed.
    pub(crate) fn scan(&mut self, hints: &Hints, now: Now) -> Result<Scan, Unknown> {
        let settled = self.settled.take();
        let recent = settled.filter(|at| now.monotonic.duration_since(*at) < EVERYTHING);
        let (at, scan) = match recent.and_then(|at| Some((at, self.scan_named(hints, now)?))) {
            Some(scanned) => scanned,
            None => (now.monotonic, self.scan_all(hints, now)?),
        };
        self.settled = (scan.is_settled() && !self.refilling).then_some(at);
        Ok(scan)
    }

    /// Looks at the files that the kernel announced; none where that is not all that has to be looked at.
    fn scan_named(&mut self, hints: &Hints, now: Now) -> Option<Scan> {
        if !hints.name_everything() || self.had_data_link {
            return None;
        }
        if self.id != Some(FolderId::of(&std::fs::metadata(&self.path).ok()?)) {
            return None;
        }
        let mut named = Vec::with_capacity(hints.whole.len());
        for name in &hints.whole {
            let found = std::fs::metadata(self.path.join(name)).ok()?;
            if !found.is_file() || !self.files.contains_key(name) {
                return None;
            }
            named.push((name, Fingerprint::of(&found)));
        }
        for (name, fingerprint) in named {
            self.see(name, fingerprint, now.monotonic);
        }
        self.note_writers(hints);
        let mut scan = Scan::default();
        self.choose_whole(hints, now, &hints.whole, &mut scan);
        Some(scan)
    }

    /// Looks at everything.
    fn scan_all(&mut self, hints: &Hints, now: Now) -> Result<Scan, Unknown> {
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
        self.note_writers(hints);
        self.choose_whole(hints, now, present.keys(), &mut scan);
        self.choose_gone(now.monotonic, &present, &mut scan);
        self.settle_names(now.monotonic, &mut scan);
        Ok(scan)
    }

    /// The content that was last handed out for reading.
    pub(crate) fn handed_out(&self, name: &OsStr) -> Option<Fingerprint> {
        self.files.get(name)?.read
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
        let (mut present, mut has_data_link, mut wants_data_link) = (BTreeMap::new(), false, false);
        for entry in std::fs::read_dir(&self.path).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            has_data_link |= name == DATA_LINK;
            if !is_manifest(&name) {
                continue;
            }
            let path = self.path.join(&name);
            match std::fs::metadata(&path) {
                Ok(found) if found.is_file() => drop(present.insert(name, Fingerprint::of(&found))),
                // A special file is none of ours.
                Ok(_) => {}
                // A dangling link counts as absent, unless the whole mount dangles.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let target = std::fs::read_link(&path);
                    wants_data_link |= target.is_ok_and(|target| target.starts_with(DATA_LINK));
                }
                // Reading it says why.
                Err(_) => drop(present.insert(name, Fingerprint::unknown())),
            }
        }
        if (self.had_data_link || wants_data_link) && !has_data_link {
            return Err(Unknown::NoDataLink);
        }
        if present.is_empty() {
            return Err(Unknown::Empty);
        }
        self.had_data_link = has_data_link;
        Ok((metadata, present))
    }

    fn identify(&mut self, metadata: &Metadata) -> bool {
        let id = FolderId::of(metadata);
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
        let new = || Seen {
            fingerprint,
            since: now,
            read: None,
            missing_since: None,
            open_since: None,
            unclosed: false,
        };
        let seen = self.files.entry(name.into()).or_insert_with(new);
        seen.missing_since = None;
        if seen.fingerprint != fingerprint {
            (seen.fingerprint, seen.since) = (fingerprint, now);
        }
    }

    fn note_writers(&mut self, hints: &Hints) {
        if hints.all_whole {
            self.files.values_mut().for_each(|seen| seen.unclosed = false);
        }
        for (names, unclosed) in [(&hints.whole, false), (&hints.unclosed, true)] {
            for name in names {
                if let Some(seen) = self.files.get_mut(name) {
                    seen.unclosed = unclosed;
                }
            }
        }
    }

    /// Files whose content changed and that nobody is writing any more.
    fn choose_whole<'a>(
        &mut self,
        hints: &Hints,
        now: Now,
        present: impl IntoIterator<Item = &'a OsString>,
        scan: &mut Scan,
    ) {
        for name in present {
            let seen = self.files.get_mut(name).expect("every present file has just been seen");
            if seen.read == Some(seen.fingerprint) {
                continue;
            }
            let age = seen.fingerprint.age(now.wall).unwrap_or_default();
            let left_alone = age.max(now.monotonic.duration_since(seen.since));
            let settled = hints.all_whole || hints.whole.contains(name) || left_alone >= SETTLE;
            let next = if settled {
                seen.next((self.writers)(&self.path.join(name)), left_alone, now.monotonic)
            } else {
                Next::Wait(Some(now.monotonic + SETTLE.saturating_sub(left_alone)))
            };
            match next {
                Next::Read => {
                    seen.read = Some(seen.fingerprint);
                    scan.read.push(name.clone());
                }
                Next::Wait(due) => {
                    scan.wait(due);
                    scan.incomplete |= seen.read.is_none();
                }
                Next::KeptOpen => scan.kept_open.push(name.clone()),
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
                scan.wait(Some(due));
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

/// A file that can't even be opened has no writer worth waiting for: reading it says why.
fn writers(path: &Path) -> Writers {
    File::open(path).map_or(Writers::Absent, |file| mesh_files::writers(&file))
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
