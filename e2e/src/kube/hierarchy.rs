//! The cgroup hierarchies of a node: version 2, and where the machine has them (hybrid) those of version 1.
//!
//! In each, the lab lives below the cgroup of its own process, so that this one's limits and accounting hold.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::lab::cgroup::{self, LEGACY, TREE};

/// One mounted hierarchy of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Legacy {
    mount: PathBuf,
    /// The options of `mount -o`: `cpu,cpuacct`, or `none,name=systemd`.
    options: String,
    /// The lab's folder.
    lab: PathBuf,
}

/// All hierarchies of one lab.
#[derive(Clone, Debug)]
pub(super) struct Hierarchies {
    unified: PathBuf,
    legacy: Vec<Legacy>,
}

impl Hierarchies {
    /// Reads what is mounted, and where the calling process is in it.
    pub(super) fn of_lab(id: &str) -> Result<Self> {
        let unified = cgroup::mount_point().context("no cgroup v2 mount in /proc/mounts")?;
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let legacy = parse(&read("/proc/mounts")?, &read("/proc/self/cgroup")?, id);
        Ok(Self { unified, legacy })
    }

    /// Makes the lab's folders, and writes them down for whoever removes them.
    pub(super) fn make(&self, lab_dir: &Path) -> Result<()> {
        let list: String = self.legacy.iter().map(|one| format!("{}\n", one.lab.display())).collect();
        fs::write(lab_dir.join(LEGACY), list).context("writing the list of cgroups")?;
        self.legacy.iter().try_for_each(|one| make(&one.lab))
    }

    /// A node's folders of version 1.
    pub(super) fn node_folders(&self, name: &str) -> Vec<PathBuf> {
        self.legacy.iter().map(|one| one.lab.join(name)).collect()
    }

    /// Makes a node's folders of version 1 and gives them.
    pub(super) fn make_node(&self, name: &str) -> Result<Vec<PathBuf>> {
        let folders = self.node_folders(name);
        folders.iter().try_for_each(|folder| make(folder))?;
        Ok(folders)
    }

    /// Lets the folders below `node` have controllers, where version 2 is all that there is.
    pub(super) fn delegate(&self, node: &Path) {
        if !self.legacy.is_empty() {
            return;
        }
        let above: Vec<_> = node.ancestors().take_while(|path| path.starts_with(&self.unified)).collect();
        for folder in above.into_iter().skip(1).collect::<Vec<_>>().into_iter().rev() {
            // Of a controller that the machine's root does not offer the kubelet will complain by name.
            for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
                let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }

    /// A node's mounts: lines of mount point, type and options.
    pub(super) fn mounts(&self) -> String {
        let legacy =
            self.legacy.iter().map(|one| format!("{} cgroup {}\n", one.mount.display(), one.options));
        legacy.chain([format!("{} cgroup2 rw\n", self.unified.display())]).collect()
    }
}

/// Makes a folder below one that is set up, and sets it up: a new cpuset has no processor and no memory.
fn make(path: &Path) -> Result<()> {
    let parent = path.parent().context("a cgroup without a parent")?;
    if !parent.exists() {
        make(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("creating cgroup {}", path.display()));
        }
        _ => {}
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let Ok(value) = fs::read(parent.join(file)) else { continue };
        fs::write(path.join(file), value).with_context(|| format!("writing {file} of {}", path.display()))?;
    }
    Ok(())
}

/// The hierarchies of version 1 in the mount table, with the lab's folder below the process' own.
fn parse(mounts: &str, own: &str, id: &str) -> Vec<Legacy> {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let legacy = fields.filter_map(|fields| match fields[..] {
        [_, mount, "cgroup", options, ..] => {
            let (options, place) = own.lines().find_map(|line| place_in(line, options))?;
            let lab = Path::new(mount).join(place.trim_start_matches('/')).join(TREE).join(id);
            Some(Legacy { mount: mount.into(), options, lab })
        }
        _ => None,
    });
    legacy.collect()
}

/// The mount options, and where the process is, if a line of /proc/self/cgroup is about the hierarchy that is mounted with
/// `options`.
fn place_in(line: &str, options: &str) -> Option<(String, String)> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, place) = (parts.next()?, parts.next()?);
    let mounted: Vec<_> = options.split(',').collect();
    let all = !controllers.is_empty() && controllers.split(',').all(|name| mounted.contains(&name));
    let named = controllers.starts_with("name=");
    let wanted = if named { format!("none,{controllers}") } else { controllers.to_owned() };
    all.then(|| (wanted, place.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_machines_have_a_folder_per_hierarchy() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/\n";
        let seen: Vec<_> = parse(mounts, own, "cm1")
            .into_iter()
            .map(|one| (one.options, one.lab.display().to_string()))
            .collect();
        let expected = [
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/clustermesh-lab/cm1"),
            ("memory", "/sys/fs/cgroup/memory/a/b/clustermesh-lab/cm1"),
            ("none,name=systemd", "/sys/fs/cgroup/systemd/clustermesh-lab/cm1"),
        ];
        assert_eq!(seen, expected.map(|(options, lab)| (options.to_owned(), lab.to_owned())));
    }

    #[test]
    fn pure_version_2_has_none() {
        assert_eq!(parse("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "0::/user.slice\n", "cm1"), []);
    }
}
