//! Files that appear whole: one by itself, or several that belong together. For their owner alone (0600, folders 0700).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Puts a file in the place of what has its name; whoever opens it finds the old one or the new one, also after a power cut.
///
/// # Errors
/// The folder can't be written, the disk is full, or a folder has that name. The old file stands.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.tmp"));
    // One that an earlier process left behind.
    remove(&aside)?;
    write_new(&aside, content)?;
    fs::rename(&aside, path)?;
    sync(parent(path))
}

/// Makes a folder, and those above it, where there is none.
///
/// # Errors
/// It can't be made there.
pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Files that change together: a folder that is a symbolic link to what was written last.
#[derive(Clone, Debug)]
pub struct Group {
    link: PathBuf,
}

/// What becomes of a group's replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    Yes,
    /// Somebody else has put something there, which stays.
    Foreign,
}

impl Group {
    /// The folder's path; nothing is made yet.
    pub fn new(link: PathBuf) -> Self {
        Self { link }
    }

    /// Whether what is there was written by a group.
    pub fn is_own(&self) -> bool {
        fs::read_link(&self.link).is_ok_and(|target| target.to_string_lossy().starts_with(&self.prefix()))
    }

    /// Puts files where there is nothing yet; false where there is something. Of two that try at once one succeeds.
    ///
    /// # Errors
    /// They can't be written there.
    pub fn create<'a>(&self, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> io::Result<bool> {
        let target = self.write_aside(files)?;
        match symlink(&target, &self.link) {
            Ok(()) => sync(parent(&self.link)).map(|()| true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.remove_aside(&target);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Puts files in the place of those that were written last, if they were written by a group.
    ///
    /// # Errors
    /// They can't be written there. Those that were there stay.
    pub fn replace<'a>(&self, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> io::Result<Replaced> {
        let before = match fs::read_link(&self.link) {
            Ok(before) if self.is_own() => Some(before),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            // A folder is no link.
            Ok(_) => return Ok(Replaced::Foreign),
            Err(error) if error.kind() == ErrorKind::InvalidInput => return Ok(Replaced::Foreign),
            Err(error) => return Err(error),
        };
        let target = self.write_aside(files)?;
        let staged = self.link.with_file_name(format!("{}link", self.prefix()));
        remove(&staged)?;
        symlink(&target, &staged)?;
        fs::rename(&staged, &self.link)?;
        sync(parent(&self.link))?;
        if let Some(before) = before.filter(|before| *before != target) {
            self.remove_aside(&before);
        }
        Ok(Replaced::Yes)
    }

    /// Writes files where nobody looks yet; says where, relative to the link's folder.
    fn write_aside<'a>(&self, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> io::Result<PathBuf> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{}{}-{}", self.prefix(), since_epoch.as_nanos(), std::process::id());
        let folder = self.link.with_file_name(&name);
        make_folder(&folder)?;
        for (file, content) in files {
            write_new(&folder.join(file), content)?;
        }
        sync(&folder)?;
        Ok(name.into())
    }

    /// What nobody points at any more. Where it can't be removed it is in nobody's way.
    fn remove_aside(&self, name: &Path) {
        drop(fs::remove_dir_all(self.link.with_file_name(name)));
    }

    /// How the names of the folders begin that hold what was written.
    fn prefix(&self) -> String {
        format!(".{}-", self.link.file_name().unwrap_or_default().to_string_lossy())
    }
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_for_its_owner_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a.yaml");
        fs::write(scratch.path().join(".a.yaml.tmp"), "left behind").unwrap();
        for text in ["one", "two"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_group_changes_together_and_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        let link = scratch.path().join("tls");
        let group = Group::new(link.clone());
        for text in ["one", "two"] {
            let files = [("tls.crt", text.as_bytes()), ("tls.key", text.as_bytes())];
            assert_eq!(group.replace(files).unwrap(), Replaced::Yes);
            assert_eq!(fs::read_to_string(link.join("tls.crt")).unwrap(), text);
            assert!(group.is_own());
        }
        assert_eq!((mode(&link), mode(&link.join("tls.key"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2, "a link and its target");
        assert!(!group.create([("tls.crt", &b"three"[..])]).unwrap());
        assert_eq!(fs::read_to_string(link.join("tls.crt")).unwrap(), "two");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_somebody_else_put_there_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let group = Group::new(scratch.path().join("tls"));
        fs::create_dir(scratch.path().join("tls")).unwrap();
        assert_eq!(group.replace([("a", &b"ours"[..])]).unwrap(), Replaced::Foreign);
        fs::remove_dir(scratch.path().join("tls")).unwrap();
        symlink("/elsewhere", scratch.path().join("tls")).unwrap();
        assert_eq!(group.replace([("a", &b"ours"[..])]).unwrap(), Replaced::Foreign);
        assert!(!group.is_own());
    }
}
