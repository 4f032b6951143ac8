//! The links that keep our programs on their cgroup: pinned, one for each hook, under the program's name.
//!
//! There is no moment in which a hook has none of ours: a link is switched to another program in one step, and one that
//! takes another's place is attached and pinned before the other goes. Never decides what is loaded.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::Ebpf;

use super::hook;
use super::programs::{HOOKS, ProgramsError, failed, program, program_failed, refused};
use super::{cgroups, hook_order};
use super::{sys, sys_cgroup};

/// Behind the name of a link that is about to take another's place.
const NEW: &str = "_new";

/// Where links go.
#[derive(Debug)]
pub(super) struct Links<'a> {
    pub(super) folder: PathBuf,
    /// What the programs are attached to.
    pub(super) cgroup: &'a Path,
    /// Flags that put a new link before all others; 0 where the kernel takes none.
    pub(super) first: u32,
}

/// How a program came to run.
enum Attached {
    /// In the place of another.
    Instead,
    Anew,
}

/// How programs get onto their hooks.
#[derive(Clone, Debug, Default)]
pub(super) struct Way {
    /// Flags of new links: `BPF_F_PREORDER` and `BPF_F_BEFORE`, or none.
    pub(super) flags: u32,
    /// Programs whose link is replaced, because it has a place behind others.
    pub(super) moved: Vec<&'static str>,
}

impl Links<'_> {
    /// How new links get their place now: before all others where the kernel lets one choose, and instead of links that
    /// have one behind others. Behind other layouts of the own instance, which know more as long as they are there.
    pub(super) fn way(&self) -> Way {
        let flags = if other_links(&self.folder) > 0 { 0 } else { self.first };
        if flags == 0 {
            return Way::default();
        }
        // Where this can't be told, something is missing, and is attached first.
        let order = hook_order::ask(&self.folder, &cgroups::tree(self.cgroup)).unwrap_or_default();
        Way { flags, moved: order.preceded().into_iter().map(hook::program).collect() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether every hook has a pinned link to the wanted cgroup.
    pub(super) fn serve(&self) -> Result<bool, ProgramsError> {
        for name in HOOKS {
            if !self.serves(name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn serves(&self, name: &str) -> Result<bool, ProgramsError> {
        let link = self.path(name);
        let opened = match sys::open_pin(&link) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(refused("opening", link)(error)),
        };
        let cgroup = sys_cgroup::link(opened.as_fd()).map_err(refused("asking about", link))?.cgroup;
        let wanted = fs::metadata(self.cgroup).map_err(failed("reading", self.cgroup))?.ino();
        Ok(cgroup == wanted)
    }

    /// Takes off what a kill has left between attaching and pinning.
    pub(super) fn recover(&self) {
        for name in HOOKS {
            let left = self.path(&format!("{name}{NEW}"));
            if let Ok(link) = sys::open_pin(&left) {
                let _already_gone = sys::detach_link(link.as_fd());
                let _already_gone = fs::remove_file(&left);
            }
        }
    }

    /// Attaches all programs, or none that was not attached before.
    pub(super) fn attach(&self, programs: &mut Ebpf, way: &Way) -> Result<(), ProgramsError> {
        let mut new = Vec::new();
        for name in HOOKS {
            match self.attach_one(programs, name, way) {
                Ok(Attached::Instead) => {}
                Ok(Attached::Anew) => new.push(name),
                Err(error) => {
                    new.into_iter().for_each(|name| self.undo(name));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes a program off again. What fails here is repaired by the next start, like what failed before it.
    fn undo(&self, name: &'static str) {
        let path = self.path(name);
        let detached = sys::open_pin(&path).and_then(|link| sys::detach_link(link.as_fd()));
        if let Err(error) = detached.and_then(|()| fs::remove_file(&path)) {
            tracing::warn!(program = name, %error, "a program stays attached without the others");
        }
    }

    fn attach_one(
        &self,
        programs: &mut Ebpf,
        name: &'static str,
        way: &Way,
    ) -> Result<Attached, ProgramsError> {
        let program = program(programs, name)?.fd().map_err(program_failed("using", name))?.as_fd();
        let path = self.path(name);
        if !self.serves(name)? {
            // A link to another cgroup gives way only once there is a new one.
            self.replace(program, name, way.flags)?;
            return Ok(Attached::Anew);
        }
        if way.moved.contains(&name) {
            self.replace(program, name, way.flags)?;
        } else {
            let link = sys::open_pin(&path).map_err(refused("opening", &path))?;
            sys::update_link(link.as_fd(), program).map_err(refused("switching", &path))?;
        }
        Ok(Attached::Instead)
    }

    /// Attaches a program by a new link, whose pin takes the place of an old one.
    fn replace(&self, program: BorrowedFd<'_>, name: &'static str, flags: u32) -> Result<(), ProgramsError> {
        let (path, new) = (self.path(name), self.path(&format!("{name}{NEW}")));
        let cgroup = File::open(self.cgroup).map_err(failed("opening", self.cgroup))?;
        let attach = |flags| sys_cgroup::attach(program, cgroup.as_fd(), hook::attach_type(name), flags);
        let link = match attach(flags) {
            // In the place that there is for everybody.
            Err(error) if flags != 0 && error.raw_os_error() == Some(libc::EINVAL) => attach(0),
            attached => attached,
        };
        let link = link.map_err(refused("attaching to", self.cgroup))?;
        let old = sys::open_pin(&path).ok();
        sys::pin(link.as_fd(), &new).map_err(refused("pinning", &new))?;
        fs::rename(&new, &path).map_err(failed("pinning", &path))?;
        if let Some(old) = old {
            let _already_gone = sys::detach_link(old.as_fd());
        }
        Ok(())
    }
}

/// Links of other layouts, which serve until their content is in the own maps.
fn other_links(folder: &Path) -> usize {
    let instance = folder.parent().and_then(Path::parent).unwrap_or(folder);
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let others = entries(instance).map(|layout| layout.path().join("links")).filter(|links| links != folder);
    others.map(|links| entries(&links).count()).sum()
}

/// Detaches the links pinned in a folder. What can't be detached (the cgroup is gone, or the kernel is older than
/// 5.9) goes with its pin all the same, a little later.
pub(super) fn detach_all(links: &Path) {
    let mut pins: Vec<_> =
        fs::read_dir(links).into_iter().flatten().flatten().map(|pin| pin.path()).collect();
    // What translates goes before what shows it: or else what is translated in between shows its backend.
    pins.sort_by_key(|pin| !pin.file_name().is_some_and(|name| translates(&name.to_string_lossy())));
    for link in pins.iter().filter_map(|pin| sys::open_pin(pin).ok()) {
        let _already_gone = sys::detach_link(link.as_fd());
    }
}

fn translates(hook: &str) -> bool {
    ["mesh_connect", "mesh_sendmsg"].iter().any(|translating| hook.starts_with(translating))
}
