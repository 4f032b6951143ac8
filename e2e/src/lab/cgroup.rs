//! Cgroups of a lab: one tree per lab below the cgroup v2 mount, so that whatever the lab started is found and
//! ended through the kernel's own bookkeeping.
//!
//! Never touches the mount's root, nor anything outside [`TREE`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::wait;

/// The folder below the cgroup v2 mount that holds every lab's tree.
pub(crate) const TREE: &str = "clustermesh-lab";

/// Where cgroup v2 is mounted; on hybrid hosts that is not `/sys/fs/cgroup`.
pub(crate) fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find_map(|fields| match fields[..] {
        [_, path, "cgroup2", ..] => Some(PathBuf::from(path)),
        _ => None,
    })
}

/// The folder that holds every lab's tree.
pub fn all_labs() -> Option<PathBuf> {
    mount_point().map(|mount| mount.join(TREE))
}

/// One cgroup of a lab.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The root of a lab's tree.
    pub fn of_lab(id: &str) -> Result<Self> {
        let all = all_labs().context("no cgroup v2 mount in /proc/mounts")?;
        Ok(Self { path: all.join(id) })
    }

    pub(crate) fn child(&self, name: &str) -> Self {
        Self { path: self.path.join(name) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Microseconds of CPU that its processes have used.
    pub(crate) fn cpu_us(&self) -> Result<f64> {
        let path = self.path.join("cpu.stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(line.context("no usage_usec in cpu.stat")?.parse()?)
    }

    pub(super) fn create(&self) -> Result<()> {
        // The end of another lab may take the common folder away between two steps of this.
        let mut made = fs::create_dir_all(&self.path);
        for _ in 0..10 {
            if !matches!(&made, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                break;
            }
            made = fs::create_dir_all(&self.path);
        }
        made.with_context(|| format!("creating cgroup {}", self.path.display()))
    }

    /// Kills every process in the cgroup and below it, and waits until none is left.
    pub(crate) fn kill(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        // One write kills the whole tree, also what forks meanwhile (Linux 5.14).
        let kill = self.path.join("cgroup.kill");
        fs::write(&kill, "1").with_context(|| format!("writing {}", kill.display()))?;
        wait::until("a cgroup's processes to end", Duration::from_secs(10), || {
            let events = fs::read_to_string(self.path.join("cgroup.events"))?;
            ensure!(events.contains("populated 0"), "{} is populated", self.path.display());
            Ok(())
        })
    }

    /// The processes in the cgroup and below it.
    pub(crate) fn all_processes(&self) -> Result<Vec<u32>> {
        processes_in(&self.path).with_context(|| format!("the processes of {}", self.path.display()))
    }

    /// Removes the cgroup and those below it; they must hold no process any more.
    pub(crate) fn remove(&self) -> Result<()> {
        remove_tree(&self.path).with_context(|| format!("removing cgroup {}", self.path.display()))
    }
}

/// The file in a lab's folder that lists its folders in the hierarchies of cgroup v1, where it has some.
pub(crate) const LEGACY: &str = "cgroups-v1";

/// Removes the lab's folders in the hierarchies of cgroup v1; their processes have ended with those of v2.
pub(super) fn remove_legacy(folder: &Path) -> Result<()> {
    let Ok(list) = fs::read_to_string(folder.join(LEGACY)) else { return Ok(()) };
    for path in list.lines().map(Path::new) {
        // A process that has ended leaves v1 a moment after v2.
        let what = format!("cgroup {} to be free", path.display());
        wait::until(&what, Duration::from_secs(10), || Ok(remove_tree(path)?))?;
        // The folder that labs share goes with the last lab; a failure only means that there is another one.
        let _ = path.parent().map(fs::remove_dir);
    }
    Ok(())
}

fn processes_in(path: &Path) -> io::Result<Vec<u32>> {
    let list = fs::read_to_string(path.join("cgroup.procs"))?;
    let mut all: Vec<u32> = list.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.extend(processes_in(&entry.path())?);
        }
    }
    Ok(all)
}

/// Removes a folder of cgroups, those below first.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
