//! Passes over the folder: reads what changed, lists what all files hold, and says what came of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use mesh_files::Writers;
use mesh_model::name::NodeName;
use mesh_model::snapshot::ClusterSnapshot;
use mesh_model::table::Knowledge;

use super::document::{Document, confine, documents};
use super::fingerprint::{Fingerprint, Now};
use super::folder::{Folder, KEPT_OPEN, Unknown};
use super::listing::{FileReading, Listing};
use super::scan::{Hints, Scan};
use crate::convert::Note;
use crate::memory::{Known, Origins};
use crate::metrics::SourceMetrics;
use crate::objects::{Kind, Objects};
use crate::status::{Problem, Reason, Status};

/// Larger files are refused unread.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// What a pass came to.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// The snapshot, if it is new.
    pub(crate) snapshot: Option<ClusterSnapshot>,
    /// The status, if it is new.
    pub(crate) status: Option<Status>,
    /// When to look again at the latest, if something needs a moment.
    pub(crate) again: Option<Instant>,
    /// The folder is another one than before, so that a watch on it is void.
    pub(crate) replaced: bool,
    /// Whether anything had changed.
    pub(crate) moved: bool,
    /// Which file said what, if that is new.
    pub(crate) origins: Option<Origins>,
    /// When the pass began, if what is published is what the folder says.
    pub(crate) confirmed: Option<Instant>,
}

/// Owns what is known of a folder.
#[derive(Debug)]
pub(crate) struct Reader {
    folder: Folder,
    files: BTreeMap<OsString, FileReading>,
    objects: Objects,
    /// Of the files, as of the last list.
    problems: Vec<Problem>,
    status: Status,
    published: bool,
    /// Whether a process before this one has left what it knew.
    remembers: bool,
    origins: Origins,
    /// Where ClusterIPs lie; none: anywhere.
    service_ranges: Vec<IpNet>,
    metrics: SourceMetrics,
}

impl Reader {
    pub(crate) fn new(folder: &Path, metrics: SourceMetrics) -> Self {
        Self {
            folder: Folder::new(folder),
            files: BTreeMap::new(),
            objects: Objects::default(),
            problems: Vec::new(),
            status: Status::default(),
            published: false,
            remembers: false,
            origins: Origins::new(),
            service_ranges: Vec::new(),
            metrics,
        }
    }

    /// Before the first pass.
    pub(crate) fn see_from(&mut self, node: Option<NodeName>) {
        self.objects = Objects::new(node);
    }

    /// Before the first pass.
    pub(crate) fn confine(&mut self, service_ranges: Vec<IpNet>) {
        self.service_ranges = service_ranges;
    }

    /// Before the first pass, and behind `see_from`.
    pub(crate) fn remember(&mut self, before: &Known) {
        self.objects.remember(&before.snapshot);
        let files = before.origins.iter();
        self.files = files.map(|(name, keys)| (name.into(), FileReading::remembered(keys.clone()))).collect();
        self.remembers = true;
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Looks at the folder once. Every pass may be the first or the thousandth.
    pub(crate) fn pass(&mut self, hints: &Hints, now: Now) -> Pass {
        let started = Instant::now();
        let pass = match self.folder.scan(hints, now) {
            Ok(scan) => {
                let pass = self.known(scan);
                Pass { confirmed: self.published.then_some(started), ..pass }
            }
            Err(unknown) => self.unknown(&unknown),
        };
        self.metrics.passes.inc();
        self.metrics.pass_seconds.observe(started.elapsed().as_secs_f64());
        pass
    }

    fn unknown(&mut self, why: &Unknown) -> Pass {
        self.metrics.failures.inc();
        let problem = self.folder_problem(why.to_string());
        Pass { status: self.new_status(Some(problem)), ..Pass::default() }
    }

    fn folder_problem(&self, message: String) -> Problem {
        let file = self.folder().display().to_string();
        let (place, object) = (String::new(), String::new());
        Problem { file, place, object, reason: Reason::FolderUnknown, message }
    }

    fn known(&mut self, mut scan: Scan) -> Pass {
        let mut different = !scan.gone.is_empty();
        for name in &scan.gone {
            tracing::info!(file = %name.display(), "manifest is gone");
            self.files.remove(name);
        }
        for name in &scan.read {
            different |= match self.read(name) {
                Some(read) => self.replace(name, read),
                None => {
                    // The next scan decides what that means.
                    self.folder.forget_reading(name);
                    scan.incomplete |= !self.files.contains_key(name);
                    false
                }
            };
        }
        for name in &scan.kept_open {
            different |= self.replace(name, Err(held()));
        }
        different |= !scan.incomplete && self.forget_missing();
        let changed = different && self.list();
        let ready = self.published || (!scan.incomplete && (self.remembers || self.says_anything()));
        let nothing = "no file in the folder says anything yet, so nothing is known; correct them";
        let problem = (!scan.incomplete && !ready).then(|| self.folder_problem(nothing.into()));
        let snapshot = ready && (changed || !self.published);
        self.published |= ready;
        self.measure(&scan);
        let origins = if different || snapshot { self.new_origins() } else { None };
        Pass {
            snapshot: snapshot.then(|| self.objects.snapshot().clone()),
            status: self.new_status(problem),
            again: scan.again,
            replaced: scan.replaced,
            moved: !scan.read.is_empty() || !scan.gone.is_empty(),
            origins,
            confirmed: None,
        }
    }

    /// What a file says; none if it went, or somebody has begun to write it, since the scan.
    fn read(&mut self, name: &OsStr) -> Option<Result<Vec<Document>, Note>> {
        self.metrics.files_read.inc();
        match read_file(&self.folder.path().join(name), self.folder.handed_out(name)) {
            Ok(read) => read.map(|read| read.map(|documents| confine(documents, &self.service_ranges))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.folder.forget_reading(name);
                let message = format!("it cannot be read: {error}; let this process read it");
                Some(Err(Note::new(Reason::FileUnreadable, message)))
            }
        }
    }

    /// Returns whether that says anything new.
    fn replace(&mut self, name: &OsStr, read: Result<Vec<Document>, Note>) -> bool {
        let is_new = self.published;
        let new = || FileReading { is_new, ..FileReading::default() };
        self.files.entry(name.into()).or_insert_with(new).replace(read)
    }

    /// Files that are only remembered, and are not there any more; returns whether there were any.
    fn forget_missing(&mut self) -> bool {
        let (before, folder) = (self.files.len(), &self.folder);
        self.files.retain(|name, file| !file.is_remembered || folder.holds(name));
        self.files.len() < before
    }

    /// Which file says what, if that is new and published. What a file of unknown content holds is not known.
    fn new_origins(&mut self) -> Option<Origins> {
        let clear = self.files.iter().filter(|(_, file)| file.ever_clear);
        let origins: Origins = clear
            .filter_map(|(name, file)| Some((name.to_str()?.to_owned(), file.contributed.clone())))
            .collect();
        let new = self.published && origins != self.origins;
        new.then(|| {
            self.origins.clone_from(&origins);
            origins
        })
    }

    fn list(&mut self) -> bool {
        // What is remembered may not be the last that a process read before it was killed.
        let unknown = self.files.values().any(FileReading::may_hold_anything);
        self.objects.has_nameless(Kind::Service, unknown);
        let mut listing = Listing::begin(&mut self.objects);
        for (name, file) in &mut self.files {
            listing.file(&name.to_string_lossy(), file);
        }
        if unknown {
            listing.keep_unconfirmed();
        }
        self.metrics.kept.set(i64::try_from(listing.kept).unwrap_or(i64::MAX));
        let changed;
        (changed, self.problems) = listing.end();
        changed
    }

    /// Whether any file holds a document at all. If none does, that is not yet knowledge of anything.
    fn says_anything(&self) -> bool {
        self.files.values().any(|file| !file.documents.is_empty())
    }

    fn knowledge(&self) -> Knowledge {
        let clear = self.published && self.files.values().all(|file| file.ever_clear);
        if clear { Knowledge::Complete } else { Knowledge::Partial }
    }

    /// Tells what appeared and went, once; returns the status if it is another one.
    fn new_status(&mut self, folder: Option<Problem>) -> Option<Status> {
        let problems = folder.into_iter().chain(self.problems.iter().cloned()).collect();
        let status = Status { knowledge: self.knowledge(), problems };
        if status == self.status {
            return None;
        }
        let turn = status.turn(&self.status, &self.metrics);
        turn.appeared.iter().for_each(tell);
        for Problem { file, object, reason, .. } in &turn.gone {
            tracing::info!(file, object, %reason, "problem with a manifest is gone");
        }
        self.status = status.clone();
        Some(status)
    }

    fn measure(&self, scan: &Scan) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.pending_files.set(gauge(scan.pending));
        self.metrics.count_objects(|kind| self.objects.count(kind));
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.metrics.last_success_seconds.set(i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX));
    }
}

fn tell(problem: &Problem) {
    let Problem { file, place, object, reason, message } = problem;
    if reason.is_fault() {
        tracing::warn!(file, place, object, %reason, error = message, "problem with a manifest");
    } else {
        tracing::info!(file, place, object, %reason, message, "remark on a manifest");
    }
}

fn held() -> Note {
    let message = format!(
        "a process has had it open for writing for {} s, so it is not read; close it, or write another file and rename \
         it into place",
        KEPT_OPEN.as_secs()
    );
    Note::new(Reason::FileOpen, message)
}

/// The documents of a file, or why it says nothing as a whole; none if it is not the file that was seen.
fn read_file(path: &Path, seen: Option<Fingerprint>) -> io::Result<Option<Result<Vec<Document>, Note>>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    (&file).take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    let moved = seen != Some(Fingerprint::of(&file.metadata()?));
    if moved || mesh_files::writers(&file) == Writers::Present {
        return Ok(None);
    }
    Ok(Some(parse(&bytes, path.extension().is_some_and(|extension| extension == "json"))))
}

fn parse(bytes: &[u8], json: bool) -> Result<Vec<Document>, Note> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = format!("it is larger than {} MiB; spread it over several files", MAX_FILE_BYTES >> 20);
        return Err(Note::new(Reason::FileTooLarge, message));
    }
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|_| Note::new(Reason::Syntax, "it is not UTF-8 text; write it as such"))?;
    let documents = documents(text, json);
    if documents.is_empty() {
        let message = "it is empty; write its objects again, or remove it if they shall go";
        return Err(Note::new(Reason::FileEmpty, message));
    }
    Ok(documents)
}
