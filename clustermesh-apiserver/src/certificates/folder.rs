//! Certificates in a folder: each with its key and the authority's certificate in a folder of its own, as Kubernetes lays
//! Secrets out (`ca.crt`, `tls.crt`, `tls.key`), so that whoever reads them need not know which it is.
//!
//! A holder's folder is a group of files, so that certificate and key change together, and a reader never finds half of them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use mesh_files::{Group, Replaced};

use super::Holder;
use super::store::{Entry, Held, Written};

/// Why a certificate can't be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}: check that this process may read and write {}", path.display(), parent(path))]
pub(crate) struct FolderError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn parent(path: &Path) -> String {
    path.parent().unwrap_or(path).display().to_string()
}

/// The certificates below a folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// A certificate with its key; none where neither is there.
    pub(super) fn read(&self, holder: Holder) -> Result<Option<Held>, FolderError> {
        let link = self.path.join(holder.as_str());
        // What the link leads to now: all files of one writing.
        let folder = fs::canonicalize(&link).unwrap_or(link);
        let entry = Entry::read(|name| read(&folder.join(name)))?;
        Ok(entry.map(|entry| Held { entry, is_own: self.group(holder).is_own(), secret: None }))
    }

    /// Puts an entry where there is nothing yet; false where there is something. Of two that try at once one succeeds.
    pub(super) fn create(&self, holder: Holder, entry: &Entry) -> Result<bool, FolderError> {
        self.write(|| self.group(holder).create(entry.files()), holder)
    }

    /// Puts an entry in the place of the one that was written last.
    pub(super) fn replace(&self, holder: Holder, entry: &Entry) -> Result<Written, FolderError> {
        let replaced = self.write(|| self.group(holder).replace(entry.files()), holder)?;
        Ok(if replaced == Replaced::Yes { Written::Yes } else { Written::Foreign })
    }

    fn write<T>(&self, write: impl FnOnce() -> io::Result<T>, holder: Holder) -> Result<T, FolderError> {
        let failed = |source| FolderError { doing: "writing", path: self.path.join(holder.as_str()), source };
        mesh_files::make_folder(&self.path).and_then(|()| write()).map_err(failed)
    }

    fn group(&self, holder: Holder) -> Group {
        Group::new(self.path.join(holder.as_str()))
    }
}

fn read(path: &Path) -> Result<Option<String>, FolderError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // No PEM, which whoever reads it will say.
        Err(error) if error.kind() == ErrorKind::InvalidData => Ok(Some(String::new())),
        Err(source) => Err(FolderError { doing: "reading", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use mesh_trust::{Issued, Role};

    use super::*;

    const AGENT: Holder = Holder::Process(Role::Agent);

    fn pair(text: &str) -> Entry {
        let pair = Issued { certificate_pem: format!("certificate {text}"), key_pem: format!("key {text}") };
        Entry::new(pair, "the authority")
    }

    fn scratch() -> (tempfile::TempDir, Folder) {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::new(scratch.path().join("certificates"));
        (scratch, folder)
    }

    #[test]
    fn a_pair_is_read_as_it_was_written_and_leaves_nothing_of_the_one_before() {
        let (_scratch, folder) = scratch();
        assert!(folder.read(AGENT).unwrap().is_none());
        for text in ["one", "two"] {
            assert_eq!(folder.replace(AGENT, &pair(text)).unwrap(), Written::Yes);
            assert_eq!(folder.read(AGENT).unwrap().unwrap().entry.pair.key_pem, format!("key {text}"));
            assert!(folder.read(AGENT).unwrap().unwrap().is_own);
        }
        let inside = folder.path.join("agent");
        assert_eq!(fs::read_to_string(inside.join("ca.crt")).unwrap(), "the authority");
        assert_eq!(fs::metadata(&inside).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(inside.join("tls.key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 2, "a link and its target");
    }

    #[test]
    fn of_two_that_create_one_succeeds() {
        let (_scratch, folder) = scratch();
        assert!(folder.create(Holder::Authority, &pair("one")).unwrap());
        assert!(!folder.create(Holder::Authority, &pair("two")).unwrap());
        assert_eq!(folder.read(Holder::Authority).unwrap().unwrap().entry.pair.key_pem, "key one");
        assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 2);
    }

    #[test]
    fn what_somebody_else_put_there_stays() {
        let (scratch, folder) = scratch();
        let theirs = folder.path.join("agent");
        fs::create_dir_all(&theirs).unwrap();
        fs::write(theirs.join("tls.crt"), "theirs").unwrap();
        assert_eq!(folder.replace(AGENT, &pair("ours")).unwrap(), Written::Foreign);
        assert!(!folder.create(AGENT, &pair("ours")).unwrap());
        let held = folder.read(AGENT).unwrap().unwrap();
        assert!(!held.is_own);
        let held = held.entry.pair;
        assert_eq!((held.certificate_pem.as_str(), held.key_pem.as_str()), ("theirs", ""));
        // As a mounted Secret is: a link of somebody else's.
        fs::remove_dir_all(&theirs).unwrap();
        symlink(scratch.path(), &theirs).unwrap();
        assert_eq!(folder.replace(AGENT, &pair("ours")).unwrap(), Written::Foreign);
        assert!(!folder.group(AGENT).is_own());
    }

    #[test]
    fn a_folder_that_cannot_be_written_says_which() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        fs::write(&file, "").unwrap();
        let said = Folder::new(file).replace(AGENT, &pair("x")).unwrap_err().to_string();
        assert!(said.contains("/file/"), "{said}");
    }
}
