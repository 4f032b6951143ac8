//! Asks by taking a read lease (fcntl(2)), which the kernel refuses while a file is open for writing.
//!
//! The lease is given back at once. Whoever opens the file for writing in these microseconds waits for that; whoever
//! opens it without blocking is refused, as fcntl(2) has it.
#![allow(unsafe_code, reason = "nix knows no leases")]

use std::fs::File;
use std::os::fd::AsRawFd;

use libc::{F_RDLCK, F_SETLEASE, F_UNLCK, SIGURG, c_int};
use nix::errno::Errno;
use nix::sys::statfs::{FsType, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, fstatfs};

use crate::Writers;

/// File systems that also refuse a lease because their server has not given one (fs/nfs/nfs4proc.c,
/// fs/smb/client/cifsfs.c).
const REMOTE: [FsType; 4] = [NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, FsType(0xFF53_4D42), FsType(0xFE53_4D42)];

/// `uapi/asm-generic/fcntl.h`; libc has it for Android only.
const F_SETSIG: c_int = 10;

pub(crate) fn writers(file: &File) -> Writers {
    if fstatfs(file).is_ok_and(|found| REMOTE.contains(&found.filesystem_type())) {
        return Writers::Unknown;
    }
    // Who breaks a lease sends its holder SIGIO, which ends a process that does not expect it. SIGURG is ignored by
    // default.
    if ask(file, F_SETSIG, SIGURG).is_err() {
        return Writers::Unknown;
    }
    match ask(file, F_SETLEASE, F_RDLCK) {
        Ok(()) => {
            // Closing the file would give the lease back as well.
            let _ = ask(file, F_SETLEASE, F_UNLCK);
            Writers::Absent
        }
        Err(Errno::EAGAIN) => Writers::Present,
        Err(_) => Writers::Unknown,
    }
}

fn ask(file: &File, command: c_int, argument: c_int) -> Result<(), Errno> {
    // SAFETY: the descriptor is open as long as `file` lives, and these commands take an integer.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), command, argument) }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::os::unix::fs::chown;
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    fn asked(path: &Path) -> Writers {
        writers(&File::open(path).unwrap())
    }

    /// Children of other tests hold copies of this process's files until they execute something.
    fn until_absent(path: &Path) {
        let end = Instant::now() + Duration::from_secs(10);
        while asked(path) != Writers::Absent {
            assert!(Instant::now() < end, "somebody still writes {}", path.display());
            std::thread::yield_now();
        }
    }

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "a: 1").unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_has_a_writer_for_as_long_as_it_is_open_for_writing() {
        let (_dir, path) = file();
        until_absent(&path);
        for options in [
            OpenOptions::new().write(true),
            OpenOptions::new().read(true).write(true),
            OpenOptions::new().append(true),
        ] {
            let mut writer = options.open(&path).unwrap();
            assert_eq!(asked(&path), Writers::Present, "before it writes: {options:?}");
            writer.write_all(b"b").unwrap();
            assert_eq!(asked(&path), Writers::Present, "{options:?}");
            drop(writer);
            until_absent(&path);
        }
    }

    #[test]
    fn readers_and_a_deleted_name_make_no_difference() {
        let (_dir, path) = file();
        let reader = File::open(&path).unwrap();
        until_absent(&path);
        std::fs::remove_file(&path).unwrap();
        assert_ne!(writers(&reader), Writers::Unknown);
    }

    #[test]
    fn another_processs_writer_counts() {
        let (_dir, path) = file();
        let script = r#"exec 3>>"$1"; echo open; read _; exit 0"#;
        let mut writer = Command::new("sh")
            .args(["-c", script, "sh", path.to_str().unwrap()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let out = writer.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said).unwrap();
        assert_eq!(asked(&path), Writers::Present);
        drop(writer.stdin.take());
        assert!(writer.wait().unwrap().success());
        until_absent(&path);
    }

    #[test]
    fn asking_hinders_no_writer_and_ends_no_process() {
        let (_dir, path) = file();
        let asker = {
            let path = path.clone();
            std::thread::spawn(move || (0..20_000).filter(|_| asked(&path) == Writers::Present).count())
        };
        let mut written = 0;
        while !asker.is_finished() {
            std::fs::write(&path, "b: 2").expect("a writer waits at most for a moment");
            written += 1;
        }
        let seen = asker.join().unwrap();
        println!("{written} writes, {seen} of 20000 answers met one");
        assert!(written > 0);
    }

    /// Asks about the file that the environment names, for the test below.
    #[test]
    fn is_asked_by_a_process_without_the_capability() {
        if let Some(path) = std::env::var_os("MESH_FILES_ASKED") {
            println!("answer: {:?}", asked(Path::new(&path)));
        }
    }

    #[test]
    fn about_other_owners_files_a_process_without_the_capability_knows_nothing() {
        let (_dir, path) = file();
        chown(&path, Some(1000), Some(1000)).expect("this test runs as root");
        let test = "lease::tests::is_asked_by_a_process_without_the_capability";
        let output = Command::new("setpriv")
            .args(["--bounding-set", "-lease", "--inh-caps", "-lease"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("MESH_FILES_ASKED", &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("answer: Unknown"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    }
}
