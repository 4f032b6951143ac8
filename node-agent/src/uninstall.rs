//! Takes an instance off the node for good. Stopping an agent never does this.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};

use crate::config::PinArgs;
use crate::datapath::programs::{self, ProgramsError};

/// Objects that could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error("removing {path}, which holds names and socket", path = .path.display())]
    RunDir { path: PathBuf, source: io::Error },
    #[error("removing {path}, which holds what source and peer files said last", path = .path.display())]
    StateDir { path: PathBuf, source: io::Error },
}

/// Removes links, maps, names and socket, and what is kept on disk, in this order. Returns whether there was anything.
pub fn uninstall(pins: &PinArgs) -> Result<bool, UninstallError> {
    let pinned = programs::uninstall(&pins.bpffs, &pins.instance)?;
    let path = pins.instance_dir();
    let named = remove(&path).map_err(|source| UninstallError::RunDir { path, source })?;
    let path = pins.instance_state_dir();
    let remembered = remove(&path).map_err(|source| UninstallError::StateDir { path, source })?;
    for shared in [pins.bpffs.join("clustermesh"), pins.run_dir.clone(), pins.state_dir.clone()] {
        // Stays while other instances are in it, or where it is mounted.
        let _in_use = fs::remove_dir(shared);
    }
    Ok(pinned || named || remembered)
}

/// Removes a folder with everything in it. Returns whether there was one.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// SIGTERM and SIGINT, which wait from the moment of [`Stop::watch`]. As pid 1 of a container nothing else would end us.
#[derive(Debug)]
pub struct Stop(SigSet);

impl Stop {
    /// Keeps the signals from ending this process.
    pub fn watch() -> Result<Self, Errno> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        signals.thread_block()?;
        Ok(Self(signals))
    }

    /// Returns when one of them has arrived.
    pub fn wait(&self) -> Result<(), Errno> {
        self.0.wait().map(drop)
    }
}
