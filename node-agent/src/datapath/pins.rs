//! The folders of pins below an instance's layout, and how they are put right after a kill or a loss.
//!
//! `maps/` holds the maps that count and `links/` the programs that run. Maps of another size are built and filled in
//! `maps_new/`, then take the place of the others. Where the file system exchanges folders in one step (bpffs since Linux
//! 5.16) that is one step; else the old ones go to `maps_old/` first. Whichever step is the last before a kill, one
//! folder has all the maps of the programs that run, and [`Pins::recover`] finds it.
//!
//! A pin can be lost while programs run: somebody removed it. Maps that only remember are built anew. Without one of those
//! that lead to backends the others are of no use, but the programs still have theirs: the whole folder is set aside, and
//! its programs go on beside new ones until the new maps are full, as those of another layout do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::maps::NAMES;
use super::programs::{ProgramsError, create, failed, remove_folder};

/// Maps without which no backend is found.
const ESSENTIAL: [&str; 4] = ["SERVICES", "GROUPS", "SLOTS", "BACKENDS"];
/// How the folder of programs whose maps are lost is named behind its layout's name.
const DAMAGED: &str = "_damaged";

/// The folder of one layout.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    folder: PathBuf,
}

/// A step on the way on which staged maps take the place of others. Public for tests, which stop after each.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Exchange,
    RemoveStaging,
    SetCurrentAside,
    MoveStaging,
    RemoveOld,
}

impl Step {
    pub const SHORT_WAY: [Self; 2] = [Self::Exchange, Self::RemoveStaging];
    pub const LONG_WAY: [Self; 3] = [Self::SetCurrentAside, Self::MoveStaging, Self::RemoveOld];
}

/// Which pins of maps are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pinned {
    Whole,
    /// None that leads to backends, and no programs that would have them.
    Nothing,
    /// These are missing; the others are worth keeping.
    Without(Vec<&'static str>),
}

impl Pins {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn current(&self) -> PathBuf {
        self.folder.join("maps")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.folder.join("maps_new")
    }

    fn old(&self) -> PathBuf {
        self.folder.join("maps_old")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.folder.join("links")
    }

    /// Puts right what a kill or a loss has left, so that the folders are there to go on with.
    pub(super) fn recover(&self) -> Result<(), ProgramsError> {
        let (current, old) = (self.current(), self.old());
        if old.exists() && !current.exists() {
            rename(&old, &current)?;
        }
        remove_folder(&old)?;
        if self.lacks_essential() && has_entries(&self.links())? {
            self.set_aside()?;
        }
        create(&current)?;
        create(&self.links())
    }

    /// What is there of the maps that count.
    pub(super) fn maps(&self) -> Pinned {
        let missing: Vec<_> = NAMES.into_iter().filter(|name| !self.current().join(name).exists()).collect();
        match missing.len() {
            0 => Pinned::Whole,
            _ if self.lacks_essential() => Pinned::Nothing,
            _ => Pinned::Without(missing),
        }
    }

    /// The staged maps, if there are any, take the place of those that counted.
    pub(super) fn take_over(&self) -> Result<(), ProgramsError> {
        if !self.staging().exists() {
            return Ok(());
        }
        let [exchange, then] = Step::SHORT_WAY;
        if self.take(exchange)? {
            return self.take(then).map(drop);
        }
        Step::LONG_WAY.into_iter().try_for_each(|step| self.take(step).map(drop))
    }

    /// Takes one step; false where the file system doesn't know it.
    pub(super) fn take(&self, step: Step) -> Result<bool, ProgramsError> {
        let (staging, current, old) = (self.staging(), self.current(), self.old());
        match step {
            Step::Exchange => {
                return match renameat2(AT_FDCWD, &staging, AT_FDCWD, &current, RenameFlags::RENAME_EXCHANGE) {
                    Ok(()) => Ok(true),
                    Err(Errno::EINVAL) => Ok(false),
                    Err(error) => Err(failed("moving", &staging)(error.into())),
                };
            }
            Step::RemoveStaging => remove_folder(&staging),
            Step::SetCurrentAside => rename(&current, &old),
            Step::MoveStaging => rename(&staging, &current),
            Step::RemoveOld => remove_folder(&old),
        }?;
        Ok(true)
    }

    fn lacks_essential(&self) -> bool {
        ESSENTIAL.iter().any(|name| !self.current().join(name).exists())
    }

    fn set_aside(&self) -> Result<(), ProgramsError> {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let aside = (0..).map(|number| self.folder.with_file_name(format!("{name}{DAMAGED}_{number}")));
        let aside = aside.into_iter().find(|aside| !aside.exists()).unwrap_or_else(|| self.folder.clone());
        tracing::error!(
            folder = %self.folder.display(),
            aside = %aside.display(),
            "pins of maps are missing: the programs that have these maps go on until new maps are full"
        );
        rename(&self.folder, &aside)
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), ProgramsError> {
    fs::rename(from, to).map_err(failed("moving", from))
}

fn has_entries(folder: &Path) -> Result<bool, ProgramsError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("reading", folder)(error)),
    }
}

/// The layout that a folder's name stands for, and whether its maps are lost.
pub(super) fn layout_of(name: &str) -> Option<(u32, bool)> {
    let rest = name.strip_prefix('v')?;
    let (layout, damaged) = match rest.split_once(DAMAGED) {
        Some((layout, _)) => (layout, true),
        None => (rest, false),
    };
    Some((layout.parse().ok()?, damaged))
}
