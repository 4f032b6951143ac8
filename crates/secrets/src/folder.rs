//! A Secret's keys as files: each by itself, or all together.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use mesh_files::{Group, Replaced};

use crate::name::KeyName;

/// How files change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each by itself, in a folder that is the mirror's alone.
    Files,
    /// All together, such as a certificate and its key: the folder is a link that is switched. Without these keys nothing is
    /// written.
    Together(&'static [&'static str]),
}

/// Why a folder does not hold what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("writing {}: check that this process may write there", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is somebody else's: name another folder, or remove it", path.display())]
    Foreign { path: PathBuf },
}

/// What a folder shall hold.
pub(crate) type Files = BTreeMap<KeyName, Vec<u8>>;

/// Makes the folder hold these files and no others; says whether anything was written.
pub(crate) fn write(folder: &Path, layout: &Layout, files: &Files) -> Result<bool, FolderError> {
    match layout {
        // Whoever reads the folder takes what it lacks for gone.
        Layout::Files if !folder.exists() => create_whole(folder, files),
        Layout::Files => write_files(folder, files),
        Layout::Together(_) => write_together(folder, files),
    }
}

/// The folder appears with all its files.
fn create_whole(folder: &Path, files: &Files) -> Result<bool, FolderError> {
    let failed = |source| FolderError::Write { path: folder.to_owned(), source };
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let staged = folder.with_file_name(format!(".{name}.new"));
    match fs::remove_dir_all(&staged) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    write_files(&staged, files)?;
    fs::rename(&staged, folder).map_err(failed)?;
    Ok(true)
}

fn write_files(folder: &Path, files: &Files) -> Result<bool, FolderError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FolderError::Write { path, source }
    };
    mesh_files::make_folder(folder).map_err(failed(folder))?;
    let mut changed = false;
    for (key, content) in files {
        let path = folder.join(key.as_str());
        if !holds(&path, content) {
            mesh_files::replace(&path, content).map_err(failed(&path))?;
            changed = true;
        }
    }
    for path in others(folder, files).map_err(failed(folder))? {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&path)(error)),
            _ => changed = true,
        }
    }
    Ok(changed)
}

/// Files that no key has. What begins with a dot is nobody's file: one that was not finished.
fn others(folder: &Path, files: &Files) -> io::Result<Vec<PathBuf>> {
    let mut others = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let key = name.to_str().and_then(|name| KeyName::new(name).ok());
        let is_wanted = key.is_some_and(|key| files.contains_key(&key));
        let is_hidden = name.to_string_lossy().starts_with('.');
        if !is_wanted && !is_hidden && !entry.file_type()?.is_dir() {
            others.push(entry.path());
        }
    }
    Ok(others)
}

fn write_together(link: &Path, files: &Files) -> Result<bool, FolderError> {
    let failed = |source| FolderError::Write { path: link.to_owned(), source };
    let same = files.iter().all(|(key, content)| holds(&link.join(key.as_str()), content));
    if same && others(link, files).is_ok_and(|others| others.is_empty()) {
        return Ok(false);
    }
    let files = files.iter().map(|(key, content)| (key.as_str(), content.as_slice()));
    match Group::new(link.to_owned()).replace(files).map_err(failed)? {
        Replaced::Yes => Ok(true),
        Replaced::Foreign => Err(FolderError::Foreign { path: link.to_owned() }),
    }
}

fn holds(path: &Path, content: &[u8]) -> bool {
    // A link to a file with the same content may be changed by others.
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
        && fs::read(path).is_ok_and(|found| found == content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        pairs.iter().map(|(key, text)| (KeyName::new(key).unwrap(), text.as_bytes().to_vec())).collect()
    }

    fn listed(folder: &Path) -> Vec<(String, String)> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap())
        };
        let mut listed: Vec<_> = fs::read_dir(folder).unwrap().map(entry).collect();
        listed.sort();
        listed
    }

    #[test]
    fn both_layouts_come_to_hold_what_they_should_and_write_nothing_twice() {
        for layout in [Layout::Files, Layout::Together(&[])] {
            let scratch = tempfile::tempdir().unwrap();
            let folder = scratch.path().join("below/peers");
            for pairs in [&[("a", "1"), ("b", "1")][..], &[("b", "2"), ("c", "1")], &[]] {
                assert!(write(&folder, &layout, &files(pairs)).unwrap(), "{layout:?} {pairs:?}");
                assert!(!write(&folder, &layout, &files(pairs)).unwrap(), "{layout:?} {pairs:?}");
                let expected: Vec<_> =
                    pairs.iter().map(|(key, text)| ((*key).into(), (*text).into())).collect();
                assert_eq!(listed(&folder), expected);
            }
        }
    }

    #[test]
    fn a_folder_appears_with_all_its_files_whatever_an_earlier_process_left() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, staged) = (scratch.path().join("peers"), scratch.path().join(".peers.new"));
        fs::create_dir(&staged).unwrap();
        fs::write(staged.join("half"), "1").unwrap();
        fs::create_dir(staged.join("a")).unwrap();
        write(&folder, &Layout::Files, &files(&[("a", "1"), ("b", "1")])).unwrap();
        assert_eq!(listed(&folder), [("a".into(), "1".into()), ("b".into(), "1".into())]);
        assert!(!staged.exists());
    }

    #[test]
    fn a_folder_that_cannot_be_written_keeps_what_it_has_and_says_which() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("peers");
        write(&folder, &Layout::Files, &files(&[("a", "1")])).unwrap();
        fs::create_dir(folder.join("b")).unwrap();
        let error = write(&folder, &Layout::Files, &files(&[("b", "1")])).unwrap_err();
        assert!(error.to_string().contains("peers/b"), "{error}");
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "1", "deletions come last");
        let error = write(&folder, &Layout::Together(&[]), &files(&[("b", "1")])).unwrap_err();
        assert!(error.to_string().contains("somebody else's"), "{error}");
    }
}
