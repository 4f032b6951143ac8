//! What outlives a process: one value in one file, which is the old one or the new one at every moment.
//!
//! Owns the file's form (version, checksum, what it is about) and its replacement, on a thread that may wait for the disk. A
//! file that is damaged, cut off, of another version or about something else counts as none: that is ignorance, never
//! emptiness. Never decides what of the value still counts.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// 10,000 Services with 100 endpoints each take some 150 MB.
const MAX_BYTES: u64 = 512 << 20;
/// Between two writes at least, and so many times as long as writing took.
const PAUSE: Duration = Duration::from_secs(1);
const SHARE: u32 = 20;
/// After a write that failed, e.g. because the disk is full.
const RETRY: Duration = Duration::from_secs(30);
/// How long the last write may take when the process stops: the disk may hang.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// For its owner alone, as what the values are made of may be.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Why there is no value, or none was written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is damaged", path.display())]
    Damaged { path: PathBuf },
    #[error("{} does not hold what its version has", path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("{} is of version {found}; this process reads version {known}", path.display())]
    Version { path: PathBuf, found: u32, known: u32 },
    #[error("{} is about {found}, not about {about}", path.display())]
    Foreign { path: PathBuf, found: String, about: String },
    #[error("writing {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Serialize, Deserialize)]
struct Document<A, T> {
    about: A,
    value: T,
}

/// A file that holds a value for the next process.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
    version: u32,
    about: String,
}

impl StateFile {
    /// `version`: of the value's form. `about`: what it says something of; a value about something else counts as none.
    pub fn new(path: PathBuf, version: u32, about: impl Into<String>) -> Self {
        Self { path, version, about: about.into() }
    }

    /// What the last process left; `None` where there is no file.
    ///
    /// # Errors
    /// The file can't be read as a whole, or is of another version or about something else.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        let path = || self.path.clone();
        let bytes = match read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path: path(), source }),
        };
        let body = self.body(&bytes)?;
        let malformed = |source| StateError::Malformed { path: path(), source };
        let document: Document<String, T> = serde_json::from_slice(body).map_err(malformed)?;
        if document.about != self.about {
            let (found, about) = (document.about, self.about.clone());
            return Err(StateError::Foreign { path: path(), found, about });
        }
        Ok(Some(document.value))
    }

    /// What stands behind the first line, which has the version and a checksum.
    fn body<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], StateError> {
        let damaged = || StateError::Damaged { path: self.path.clone() };
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?;
        let (head, body) = (std::str::from_utf8(&bytes[..end]).map_err(|_| damaged())?, &bytes[end + 1..]);
        let (found, sum) = head.split_once(' ').ok_or_else(damaged)?;
        let found = found.parse().map_err(|_| damaged())?;
        if found != self.version {
            return Err(StateError::Version { path: self.path.clone(), found, known: self.version });
        }
        let mut checksum = Checksum::default();
        checksum.add(body);
        if sum == checksum.text() { Ok(body) } else { Err(damaged()) }
    }

    /// Replaces the file; it is the old one or the new one at every moment, also after a power cut.
    ///
    /// # Errors
    /// The disk is full, may not be written, or fails. The old file stands.
    pub fn save<T: Serialize>(&self, value: &T) -> Result<(), StateError> {
        self.replace(value).map_err(|source| StateError::Write { path: self.path.clone(), source })
    }

    fn replace<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
        let temporary = self.path.with_extension("tmp");
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(FILE_MODE).open(&temporary)?;
        // A write that was cut off may have left one.
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        let head = |sum: &Checksum| format!("{} {}\n", self.version, sum.text());
        file.write_all(head(&Checksum::default()).as_bytes())?;
        let mut body = BufWriter::new(Summing { out: &mut file, sum: Checksum::default() });
        serde_json::to_writer(&mut body, &Document { about: &self.about, value })?;
        let sum = body.into_inner().map_err(io::IntoInnerError::into_error)?.sum;
        file.rewind()?;
        file.write_all(head(&sum).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// Writes what comes, and at the end what came last. `failed` is 1 while that does not succeed.
    pub async fn keep<T>(
        self,
        mut values: watch::Receiver<Option<T>>,
        failed: Gauge,
        token: CancellationToken,
    ) where
        T: Clone + Serialize + Send + Sync + 'static,
    {
        loop {
            // What came last is written although the token is cancelled by now.
            let ended = tokio::select! {
                biased;
                changed = values.changed() => changed.is_err(),
                () = token.cancelled() => true,
            };
            if ended {
                return;
            }
            let Some(value) = values.borrow_and_update().clone() else { continue };
            let Some(pause) = self.write(value, &failed, &token).await else { return };
            if failed.get() > 0 {
                values.mark_changed();
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = token.cancelled() => {}
            }
            if token.is_cancelled() && failed.get() > 0 {
                // It would only fail again.
                return;
            }
        }
    }

    /// The pause after it; `None` if there is no time left.
    async fn write<T>(&self, value: T, failed: &Gauge, token: &CancellationToken) -> Option<Duration>
    where
        T: Serialize + Send + Sync + 'static,
    {
        let (file, started) = (self.clone(), Instant::now());
        let writing = tokio::task::spawn_blocking(move || file.save(&value));
        let overdue = async {
            token.cancelled().await;
            tokio::time::sleep(LAST_WRITE).await;
        };
        let written = tokio::select! {
            // A runtime that stops while it writes leaves the old file.
            written = writing => written.unwrap_or(Ok(())),
            () = overdue => return None,
        };
        let before = failed.set(written.is_err().into());
        match written {
            Ok(()) => Some(PAUSE.max(started.elapsed() * SHARE)),
            Err(error) => {
                if before == 0 {
                    let reason = reason(&error);
                    tracing::warn!(
                        error = reason,
                        "what is known can't be kept for the next start; trying again"
                    );
                }
                Some(RETRY)
            }
        }
    }
}

/// An error with its cause.
fn reason(error: &StateError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let size = File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    let fits = u64::try_from(size).is_ok_and(|size| size <= MAX_BYTES);
    if fits { Ok(bytes) } else { Err(io::ErrorKind::FileTooLarge.into()) }
}

/// FNV-1a, against damage, not against malice: who may write here may also write the maps.
struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, step);
    }

    /// Of the same length whatever it is.
    fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// Sums up what it writes.
struct Summing<W> {
    out: W,
    sum: Checksum,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.add(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
#[path = "state_file_tests.rs"]
mod tests;
