//! The cgroups from the programs' own one downwards, and where among them this process is.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::programs::ROOT_INODE;

/// A node has a few for each container; whoever makes more than this is looked at in part.
const MOST: usize = 16_384;

/// Where this process is, seen from a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// It is the real root: all processes of the machine are below it, or in it.
    UnderRoot,
    Below,
    /// In this very cgroup: then it may be a private view, which nobody else is below.
    Inside,
    Outside,
}

/// All cgroup v2 mounts: on a hybrid host that is not /sys/fs/cgroup itself, and in a container the runtime's private
/// view comes before the host's root.
pub(super) fn mounts(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().map(|line| line.split(' ')).filter_map(|mut fields| {
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

/// A cgroup and all below it, from the top; what vanishes meanwhile is left out.
pub(super) fn tree(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut next) = (Vec::new(), VecDeque::from([root.to_owned()]));
    while let Some(cgroup) = next.pop_front()
        && found.len() < MOST
    {
        let entries = fs::read_dir(&cgroup).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        next.extend(folders.map(|entry| entry.path()));
        found.push(cgroup);
    }
    found
}

/// Finds this process in a tree. The paths in /proc/self/cgroup are no help: in a cgroup namespace they begin at its
/// border.
pub(super) fn position(tree: &[PathBuf]) -> Position {
    let Some((root, below)) = tree.split_first() else { return Position::Outside };
    if fs::metadata(root).is_ok_and(|found| found.ino() == ROOT_INODE) {
        return Position::UnderRoot;
    }
    let own = std::process::id();
    let is_member = |cgroup: &PathBuf| {
        // Those whose processes' threads are spread over cgroups can't be read; their domain above can.
        fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|members| holds(&members, own))
    };
    if is_member(root) {
        Position::Inside
    } else if below.iter().any(is_member) {
        Position::Below
    } else {
        Position::Outside
    }
}

/// Whether a cgroup.procs lists a process; those of other pid namespaces stand as 0 there.
fn holds(procs: &str, pid: u32) -> bool {
    procs.lines().any(|line| line.trim().parse() == Ok(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_by_its_whole_pid() {
        assert!(holds("1\n17\n", 17));
        for others in ["", "0\n0\n", "1\n170\n7\n"] {
            assert!(!holds(others, 17), "{others:?}");
        }
    }

    #[test]
    fn a_process_is_found_below_inside_or_outside() {
        let folder = tempfile::tempdir().unwrap();
        let (root, pod) = (folder.path().to_owned(), folder.path().join("kubepods.slice/pod"));
        fs::create_dir_all(&pod).unwrap();
        let own = std::process::id().to_string();
        assert_eq!(tree(&root), [root.clone(), root.join("kubepods.slice"), pod.clone()]);
        assert_eq!(position(&tree(&root)), Position::Outside);
        fs::write(pod.join("cgroup.procs"), format!("0\n{own}\n")).unwrap();
        assert_eq!(position(&tree(&root)), Position::Below);
        fs::write(root.join("cgroup.procs"), &own).unwrap();
        assert_eq!(position(&tree(&root)), Position::Inside);
    }

    #[test]
    fn cgroup2_is_found_on_unified_and_hybrid_hosts_and_in_containers() {
        let found = |text| mounts(text).collect::<Vec<_>>();
        let unified = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(found(unified), [PathBuf::from("/sys/fs/cgroup")]);
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(found(hybrid), [PathBuf::from("/sys/fs/cgroup/unified")]);
        let container = "cgroup /sys/fs/cgroup cgroup2 ro 0 0\ncgroup2 /host/cgroup cgroup2 rw 0 0\n";
        assert_eq!(found(container), ["/sys/fs/cgroup", "/host/cgroup"].map(PathBuf::from));
        assert!(found("none /cgroup tmpfs rw 0 0\n").is_empty());
    }
}
