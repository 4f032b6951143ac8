//! Small disks for single components: file systems of their own, that can be filled to the brim and freed.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use super::lab_dir::LabDir;

/// The file that fills a disk.
const BALLAST: &str = "ballast";

/// A file system in memory.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one at a folder of the lab, which need not exist. It goes with the lab.
    pub(super) fn mount(lab_dir: &LabDir, path: &Path, megabytes: u32) -> Result<Self> {
        lab_dir.make_folder(path)?;
        let _open = lab_dir.open()?;
        let size = format!("size={megabytes}m,mode=755");
        mount(Some("lab"), path, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .with_context(|| format!("mounting a disk at {}", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Puts the log of a process there; it must not have one yet.
    pub(super) fn take_log(&self, lab_dir: &LabDir, name: &str) -> Result<()> {
        let (target, link) = (self.path.join("log"), lab_dir.log(name));
        symlink(&target, &link).with_context(|| format!("linking {}", link.display()))
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) -> Result<()> {
        let path = self.path.join(BALLAST);
        let mut ballast = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        for size in [1 << 20, 1 << 12] {
            let block = vec![0; size];
            loop {
                match ballast.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => bail!("filling {}: {error}", path.display()),
                }
            }
        }
        Ok(())
    }

    /// Gives back what [`Disk::fill`] took.
    pub(crate) fn free(&self) -> Result<()> {
        let path = self.path.join(BALLAST);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Removes everything that the component keeps there, its log apart.
    pub(crate) fn wipe(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path).with_context(|| format!("reading {}", self.path.display()))? {
            let entry = entry?;
            if entry.file_name() == "log" {
                continue;
            }
            let path = entry.path();
            let removed =
                if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }
}

/// The mount points below a folder, the deepest first.
pub(super) fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut below: Vec<_> = points.filter(|point| point.starts_with(folder)).collect();
    below.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    below
}
