//! Writes a peer file into a folder that somebody may follow.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mesh_model::name::ClusterName;

use crate::file::PeerFile;

/// Why a peer file was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{} names the same peer; remove it first", path.display())]
    Other { path: PathBuf },
    #[error("writing {}; is its folder there, and may this process write to it?", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Writes `<name>.yaml`, which is the old file or the new one at every moment. Returns where it is.
///
/// # Errors
/// Another file names the peer, or the folder can't be written.
pub fn write(folder: &Path, file: &PeerFile) -> Result<PathBuf, WriteError> {
    let others = ["yml", "json"].map(|extension| folder.join(format!("{}.{extension}", file.name)));
    if let Some(path) = others.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(WriteError::Other { path });
    }
    let path = folder.join(format!("{}.yaml", file.name));
    replace(folder, &path, file).map_err(|source| WriteError::Write { path: path.clone(), source })?;
    Ok(path)
}

/// Removes the file of a peer, whichever of its names it has. False where there is none.
///
/// # Errors
/// The folder can't be written.
pub fn remove(folder: &Path, name: &ClusterName) -> Result<bool, WriteError> {
    let mut removed = false;
    for extension in ["yaml", "yml", "json"] {
        let path = folder.join(format!("{name}.{extension}"));
        match fs::remove_file(&path) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(WriteError::Write { path, source }),
        }
    }
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| WriteError::Write { path: folder.into(), source })?;
    Ok(removed)
}

fn replace(folder: &Path, path: &Path, file: &PeerFile) -> io::Result<()> {
    // Whose name begins with a dot is no peer file.
    let temporary = folder.join(format!(".{}.yaml.new", file.name));
    let mut to = File::create(&temporary)?;
    to.write_all(file.text().as_bytes())?;
    to.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}
