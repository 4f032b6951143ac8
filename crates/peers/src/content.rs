//! The text of a peer file, once nobody is writing it any more.

use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use mesh_files::Writers;

use crate::file::{MAX_FILE_BYTES, Problem};

/// How long a file must be left alone where nobody knows who has it open for writing.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);

pub(crate) fn contents(path: &Path) -> Result<String, Problem> {
    let unreadable = |reason: String| Problem::Unreadable { reason };
    let metadata = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    // Opening a pipe would wait for its writer.
    if !metadata.is_file() {
        return Err(unreadable("it is no plain file".into()));
    }
    let file = fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    (&file)
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    if is_being_written(&file, &metadata) {
        return Err(Problem::BeingWritten);
    }
    text(bytes)
}

pub(crate) fn text(bytes: Vec<u8>) -> Result<String, Problem> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Problem::TooBig);
    }
    String::from_utf8(bytes).map_err(|error| Problem::Unreadable { reason: error.to_string() })
}

/// Whether what was read of a file may be half of it. Where the kernel doesn't tell who has it open, it has to be left
/// alone for a moment.
fn is_being_written(file: &fs::File, before: &Metadata) -> bool {
    let Ok(after) = file.metadata() else { return true };
    let content = |it: &Metadata| (it.dev(), it.ino(), it.size(), it.ctime(), it.ctime_nsec());
    let settled = after.modified().is_ok_and(|it| it.elapsed().is_ok_and(|age| age >= SETTLE));
    content(before) != content(&after)
        || match mesh_files::writers(file) {
            Writers::Absent => false,
            Writers::Present => true,
            Writers::Unknown => !settled,
        }
}
