//! A lab's directory: its id, its lock, what lies below it, and the removal of everything that carries the id.
//!
//! Everything that a lab makes (namespaces, cgroups, the bpffs mount, files, processes) is named after the id or lies
//! below the folder or the lab's cgroup. Teardown therefore needs no list of what was made: it looks for what carries the id, and
//! works just as well on the leftovers of an owner that was killed. The owner holds a lock on a file in the folder;
//! a lab whose lock is free has no owner.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::cgroup::{self, Cgroup};
use super::disk;
use super::interrupt;

/// Where `ip netns` keeps its names.
pub(super) const NETNS: &str = "/run/netns";
/// The prefix of every lab's id.
const PREFIX: &str = "cm";

/// Every lab of this process, so that a signal finds them; `None` once it has ended them.
static OPEN: Mutex<Option<Vec<Weak<LabDir>>>> = Mutex::new(Some(Vec::new()));

/// The folder that holds every lab's folder.
pub fn all_labs() -> PathBuf {
    std::env::temp_dir().join("clustermesh-lab")
}

/// The directory of one lab, with what belongs to it: its id, its cgroup, its bpffs mount.
#[derive(Debug)]
pub struct LabDir {
    id: String,
    path: PathBuf,
    /// Whether processes outlive the owner.
    kept: bool,
    /// Whether somebody else built it: then it stays when this owner leaves.
    adopted: bool,
    /// A thread that makes something holds it for reading; teardown takes it for writing and sets it: nothing appears
    /// behind teardown's back.
    closed: RwLock<bool>,
    /// Held, never read: dropping it tells others that this lab has no owner.
    _lock: File,
}

impl LabDir {
    /// Claims a free id and makes the folder, the cgroup and the bpffs mount. `kept` says whether the lab may be
    /// left to itself at the end: then its processes do not die with their parent.
    pub fn claim(kept: bool) -> Result<Arc<Self>> {
        interrupt::watch();
        let lab_dir = Self::register(kept)?;
        if let Err(error) = lab_dir.furnish() {
            lab_dir.tear_down();
            return Err(error);
        }
        Ok(lab_dir)
    }

    /// Under the lock of [`OPEN`] from the first folder on: a signal finds all of it or nothing.
    fn register(kept: bool) -> Result<Arc<Self>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let labs = open.as_mut().context("the process is about to end")?;
        let (id, path, lock) = claim_folder()?;
        let lab_dir =
            Arc::new(Self { id, path, kept, adopted: false, closed: RwLock::new(false), _lock: lock });
        labs.push(Arc::downgrade(&lab_dir));
        Ok(lab_dir)
    }

    /// Becomes the owner of a kept lab, for a while: nobody cleans it up meanwhile, and it stays afterwards.
    pub(crate) fn adopt(id: &str) -> Result<Arc<Self>> {
        let path = all_labs().join(id);
        let lock = File::options().write(true).open(path.join("owner"));
        let lock = lock.with_context(|| format!("there is no lab {id}"))?;
        lock.try_lock().with_context(|| format!("lab {id} has another owner"))?;
        let (id, closed) = (id.to_owned(), RwLock::new(false));
        Ok(Arc::new(Self { id, path, kept: true, adopted: true, closed, _lock: lock }))
    }

    fn furnish(&self) -> Result<()> {
        let _open = self.open()?;
        for name in ["bpf", "log", "run", "data"] {
            fs::create_dir_all(self.path.join(name)).with_context(|| format!("creating folder {name}"))?;
        }
        self.cgroup()?.create()?;
        let bpf = self.bpffs();
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting a bpf file system at {}", bpf.display()))
    }

    /// The permission to make something that carries the id; fails once the lab is being torn down. Never ask for
    /// a second one while holding the first: teardown may have come to wait between the two.
    pub(crate) fn open(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            bail!("lab {} is being torn down", self.id);
        }
        Ok(closed)
    }

    /// Makes a folder of the lab.
    pub(crate) fn make_folder(&self, path: &Path) -> Result<()> {
        let _open = self.open()?;
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))
    }

    /// Makes a cgroup of the lab.
    pub(crate) fn make_cgroup(&self, cgroup: &Cgroup) -> Result<()> {
        let _open = self.open()?;
        cgroup.create()
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn kept(&self) -> bool {
        self.kept
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.path.join("bpf")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path.join("run")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path.join("state")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path.join("log").join(format!("{name}.log"))
    }

    pub(crate) fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::of_lab(&self.id)
    }

    /// The name of a namespace of this lab.
    pub(crate) fn netns(&self, label: &str) -> String {
        format!("{}.{label}", self.id)
    }

    /// Ends everything that carries the id. Says on stderr what it could not end.
    pub fn tear_down(&self) {
        let mut closed = self.closed.write().unwrap_or_else(PoisonError::into_inner);
        if !*closed {
            *closed = true;
            sweep(&self.id, &self.path);
        }
    }
}

impl Drop for LabDir {
    fn drop(&mut self) {
        if !self.adopted {
            self.tear_down();
        }
    }
}

/// Ends every lab of this process, and lets it have no other.
pub(super) fn tear_down_all() {
    let labs = OPEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    for lab_dir in labs.iter().flatten().filter_map(Weak::upgrade) {
        lab_dir.tear_down();
    }
}

/// Returns only while no signal is ending this process; otherwise the process ends under the caller. Whoever is about to
/// report a failure or to leave asks first: the failure may be the teardown's, and leaving would cut it short.
pub(crate) fn stand_aside() {
    let ending = || OPEN.lock().unwrap_or_else(PoisonError::into_inner).is_none();
    while ending() {
        std::thread::park();
    }
}

fn claim_folder() -> Result<(String, PathBuf, File)> {
    let all = all_labs();
    let pid = std::process::id();
    for number in 0..10_000 {
        let id = format!("{PREFIX}{pid}-{number}");
        let folder = all.join(&id);
        match claim_as(&all, &id) {
            Ok(lock) => return Ok((id, folder, lock)),
            // Taken; or the last of the other labs took the common folder with it just now.
            Err(_) if folder.exists() || !all.exists() => {}
            Err(error) => return Err(error).with_context(|| format!("creating {}", folder.display())),
        }
    }
    bail!("no free lab id below {}", all.display())
}

/// The folder appears with its lock already held, so that nobody ever sees it without an owner.
fn claim_as(all: &Path, id: &str) -> io::Result<File> {
    let thread = format!("{:?}", std::thread::current().id());
    let draft = all.join(format!(".new-{id}-{thread}"));
    fs::create_dir_all(&draft)?;
    let lock = File::create(draft.join("owner"))?;
    lock.try_lock()?;
    // Refused where the name is taken, for a lab's folder is never empty.
    fs::rename(&draft, all.join(id)).inspect_err(|_| drop(fs::remove_dir_all(&draft)))?;
    Ok(lock)
}

/// Ends what is left of labs without an owner, and gives their ids.
pub fn clean() -> Result<Vec<String>> {
    clean_those(|_| true)
}

/// [`clean`], for labs whose folder is wanted.
pub(crate) fn clean_those(wanted: impl Fn(&Path) -> bool) -> Result<Vec<String>> {
    let mut cleaned = Vec::new();
    for (id, folder) in labs_on_disk()?.into_iter().filter(|(_, folder)| wanted(folder)) {
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join("owner"));
        let lock = match lock {
            // Its owner took it away just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lock => lock.with_context(|| format!("opening the lock of lab {id}"))?,
        };
        if lock.try_lock().is_ok() {
            sweep(&id, &folder);
            cleaned.push(id);
        }
    }
    Ok(cleaned)
}

/// [`clean`], for a command line.
pub fn clean_and_say() -> Result<()> {
    say_cleaned(&clean()?);
    Ok(())
}

pub fn say_cleaned(cleaned: &[String]) {
    match cleaned.len() {
        0 => println!("no leftovers"),
        _ => cleaned.iter().for_each(|id| println!("removed lab {id}")),
    }
}

/// Id and folder of every lab that has left something.
pub(crate) fn labs_on_disk() -> Result<Vec<(String, PathBuf)>> {
    let all = all_labs();
    let entries = match fs::read_dir(&all) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", all.display())),
    };
    let mut labs = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().filter(|id| id.starts_with(PREFIX)) {
            labs.push((id.to_owned(), entry.path()));
        }
    }
    labs.sort();
    Ok(labs)
}

/// Processes first, for they hold the rest; the folder with the lock last, for it is how others find the lab.
fn sweep(id: &str, folder: &Path) {
    let mut failures = Vec::new();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{error:#}"));
        }
    };
    match Cgroup::of_lab(id) {
        Ok(tree) => {
            note(tree.kill());
            note(cgroup::remove_legacy(folder));
            note(remove_namespaces(id));
            disk::mounts_below(folder).iter().for_each(|point| note(unmount(point)));
            note(tree.remove());
        }
        Err(error) => note(Err(error)),
    }
    // Anything that could not be ended now is left for the next clean-up.
    if failures.is_empty() {
        let removed = fs::remove_dir_all(folder);
        failures.extend(removed.err().map(|error| format!("removing {}: {error}", folder.display())));
    }
    // The folders that labs share go with the last lab; a failure only means that there is another one.
    let _ = cgroup::all_labs().map(fs::remove_dir);
    let _ = fs::remove_dir(all_labs());
    for failure in failures {
        eprintln!("lab {id}: {failure}");
    }
}

fn remove_namespaces(id: &str) -> Result<()> {
    let prefix = format!("{id}.");
    let entries = match fs::read_dir(NETNS) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("reading {NETNS}")),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            remove_namespace(&entry.path())?;
        }
    }
    Ok(())
}

/// As `ip netns delete`, but without a process, so that teardown takes no time.
pub(super) fn remove_namespace(path: &Path) -> Result<()> {
    unmount(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing namespace {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn unmount(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // Not a mount point, or not there: what was wanted.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("unmounting {}", path.display())),
    }
}
