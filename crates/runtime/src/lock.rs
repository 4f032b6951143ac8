//! A file that one process at a time holds. The kernel releases it with its holder, however that ends.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "{holder} holds {path}: two processes can't write for one instance; stop it first, or choose another instance",
        path = .path.display()
    )]
    Held { path: PathBuf, holder: String },
    #[error("locking {path}: check that it lies on a local disk and may be written by this process", path = .path.display())]
    File { path: PathBuf, source: io::Error },
}

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at once or not at all. The file stays: whoever removed it would let two processes hold one each.
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::File { path: path.into(), source };
        loop {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held { path: path.into(), holder: holder(&mut file) });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // An uninstall may have removed the file between the two calls: then the lock is on what nobody else sees.
            if is_at(&file, path).map_err(failed)? {
                sign(&mut file).map_err(failed)?;
                return Ok(Self { _file: file });
            }
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says who holds it; in a container the process id is the container's own.
fn sign(file: &mut File) -> io::Result<()> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    file.set_len(0)?;
    write!(file, "process {} of {}", std::process::id(), host.trim())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _unreadable = file.rewind().and_then(|()| file.take(200).read_to_string(&mut text));
    if text.is_empty() { "another process".into() } else { text }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn one_holds_the_lock_and_the_error_names_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.lock");
        let first = Lock::take(&path).expect("free");
        let error = Lock::take(&path).expect_err("held").to_string();
        assert!(error.contains(&format!("process {} of ", std::process::id())), "{error}");
        assert!(error.contains("stop it first"), "{error}");
        drop(first);
        // A child that another test starts has the descriptor, too, until it executes its program.
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = Lock::take(&path) {
            assert!(Instant::now() < deadline, "not free again: {error}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_taken_on_the_new_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.lock");
        let first = Lock::take(&path).expect("free");
        std::fs::remove_file(&path).expect("removes");
        let _second = Lock::take(&path).expect("another file");
        drop(first);
        Lock::take(&path).expect_err("the second holds it");
    }

    #[test]
    fn what_cannot_be_locked_is_named() {
        let error = Lock::take(Path::new("/nowhere/agent.lock")).expect_err("no directory").to_string();
        assert!(error.contains("locking /nowhere/agent.lock"), "{error}");
    }
}
