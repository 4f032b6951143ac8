//! Certificates in a folder: each with its key and the authority's certificate in a folder of its own, as Kubernetes lays
//! Secrets out (`ca.crt`, `tls.crt`, `tls.key`), so that whoever reads them need not know which it is.
//!
//! A holder's folder is a symbolic link to what was written last, so that certificate and key change together, and a reader
//! never finds half of them. Folders are of mode 0700, files of 0600.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use mesh_trust::Issued;

use super::Holder;

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

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    /// Somebody else has put something there, which stays.
    Foreign,
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// A certificate with its key; none where neither is there.
    pub(crate) fn read(&self, holder: Holder) -> Result<Option<Issued>, FolderError> {
        let folder = self.path.join(holder.as_str());
        let certificate = read(&folder.join("tls.crt"))?;
        let key = read(&folder.join("tls.key"))?;
        Ok(match (certificate, key) {
            (None, None) => None,
            // Half of a pair is no certificate, and its holder learns why.
            (certificate, key) => Some(Issued {
                certificate_pem: certificate.unwrap_or_default(),
                key_pem: key.unwrap_or_default(),
            }),
        })
    }

    /// Whether what is there was written here.
    pub(crate) fn is_own(&self, holder: Holder) -> bool {
        fs::read_link(self.path.join(holder.as_str()))
            .is_ok_and(|target| target.to_string_lossy().starts_with(&prefix(holder)))
    }

    /// Puts a pair where there is nothing yet; false where there is something. Of two that try at once one succeeds.
    pub(crate) fn create(&self, holder: Holder, pair: &Issued, authority: &str) -> Result<bool, FolderError> {
        let target = self.write_aside(holder, pair, authority)?;
        let link = self.path.join(holder.as_str());
        match symlink(&target, &link) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.remove_aside(&target);
                Ok(false)
            }
            Err(source) => Err(FolderError { doing: "writing", path: link, source }),
        }
    }

    /// Puts a pair in the place of the one that was written last.
    pub(crate) fn replace(
        &self,
        holder: Holder,
        pair: &Issued,
        authority: &str,
    ) -> Result<Written, FolderError> {
        let link = self.path.join(holder.as_str());
        let before = match fs::read_link(&link) {
            Ok(before) if self.is_own(holder) => Some(before),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            // A folder is no link.
            Ok(_) => return Ok(Written::Foreign),
            Err(error) if error.kind() == ErrorKind::InvalidInput => return Ok(Written::Foreign),
            Err(source) => return Err(FolderError { doing: "reading", path: link, source }),
        };
        let target = self.write_aside(holder, pair, authority)?;
        let staged = self.path.join(format!("{}link", prefix(holder)));
        // One that an earlier process left behind.
        drop(fs::remove_file(&staged));
        symlink(&target, &staged)
            .and_then(|()| fs::rename(&staged, &link))
            .map_err(|source| FolderError { doing: "writing", path: link, source })?;
        if let Some(before) = before.filter(|before| *before != target) {
            self.remove_aside(&before);
        }
        Ok(Written::Yes)
    }

    /// Writes a pair where nobody looks yet; says where, relative to the folder.
    fn write_aside(&self, holder: Holder, pair: &Issued, authority: &str) -> Result<PathBuf, FolderError> {
        let name = PathBuf::from(format!("{}{}", prefix(holder), unique()));
        let folder = self.path.join(&name);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FolderError { doing: "writing", path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed(&folder))?;
        for (file, text) in
            [("ca.crt", authority), ("tls.crt", &pair.certificate_pem), ("tls.key", &pair.key_pem)]
        {
            let path = folder.join(file);
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let written = options.open(&path).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            });
            written.map_err(failed(&path))?;
        }
        Ok(name)
    }

    /// What nobody points at any more. Where it can't be removed it is in nobody's way.
    fn remove_aside(&self, name: &Path) {
        drop(fs::remove_dir_all(self.path.join(name)));
    }
}

/// How the names of the folders begin that hold what was written for a holder.
fn prefix(holder: Holder) -> String {
    format!(".{}-", holder.as_str())
}

fn unique() -> String {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", since_epoch.as_nanos(), std::process::id())
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
    use std::os::unix::fs::PermissionsExt;

    use mesh_trust::Role;

    use super::*;

    const AGENT: Holder = Holder::Process(Role::Agent);

    fn pair(text: &str) -> Issued {
        Issued { certificate_pem: format!("certificate {text}"), key_pem: format!("key {text}") }
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
            assert_eq!(folder.replace(AGENT, &pair(text), "the authority").unwrap(), Written::Yes);
            assert_eq!(folder.read(AGENT).unwrap().unwrap().key_pem, format!("key {text}"));
            assert!(folder.is_own(AGENT));
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
        assert!(folder.create(Holder::Authority, &pair("one"), "").unwrap());
        assert!(!folder.create(Holder::Authority, &pair("two"), "").unwrap());
        assert_eq!(folder.read(Holder::Authority).unwrap().unwrap().key_pem, "key one");
        assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 2);
    }

    #[test]
    fn what_somebody_else_put_there_stays() {
        let (scratch, folder) = scratch();
        let theirs = folder.path.join("agent");
        fs::create_dir_all(&theirs).unwrap();
        fs::write(theirs.join("tls.crt"), "theirs").unwrap();
        assert_eq!(folder.replace(AGENT, &pair("ours"), "").unwrap(), Written::Foreign);
        assert!(!folder.create(AGENT, &pair("ours"), "").unwrap());
        let held = folder.read(AGENT).unwrap().unwrap();
        assert_eq!((held.certificate_pem.as_str(), held.key_pem.as_str()), ("theirs", ""));
        // As a mounted Secret is: a link of somebody else's.
        fs::remove_dir_all(&theirs).unwrap();
        symlink(scratch.path(), &theirs).unwrap();
        assert_eq!(folder.replace(AGENT, &pair("ours"), "").unwrap(), Written::Foreign);
        assert!(!folder.is_own(AGENT));
    }

    #[test]
    fn a_folder_that_cannot_be_written_says_which() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        fs::write(&file, "").unwrap();
        let said = Folder::new(file).replace(AGENT, &pair("x"), "").unwrap_err().to_string();
        assert!(said.contains("/file/"), "{said}");
    }
}
