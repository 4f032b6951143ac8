//! Which programs run at the hooks of the pods, and in which order: what the kernel itself says (`BPF_PROG_QUERY`), for
//! each cgroup from the programs' own one downwards. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use mesh_admin::Hook;

use super::hook;
use super::programs::HOOKS;
use super::sys;
use super::sys_cgroup;

/// Why the programs do not run for every cgroup, or why that can't be told.
#[derive(Debug, thiserror::Error)]
pub enum HookOrderError {
    #[error("opening the link of program {hook} at {path}", path = .path.display())]
    Link { hook: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "program {hook} is attached no more: somebody detached it, or its cgroup is gone; restart the agent, which \
         attaches it again"
    )]
    Detached { hook: &'static str },
    #[error(
        "program {hook} (id {program}) does not run for cgroup {cgroup}: somebody replaced or detached it; restart the \
         agent, which attaches it again",
        cgroup = .cgroup.display()
    )]
    NotRun { hook: &'static str, program: u32, cgroup: PathBuf },
    #[error("asking the kernel for the programs of cgroup {cgroup}; it takes CAP_NET_ADMIN and CAP_BPF", cgroup = .cgroup.display())]
    Ask { cgroup: PathBuf, source: io::Error },
}

/// What runs at our hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The ids of our own programs.
    pub ours: BTreeMap<Hook, u32>,
    /// Sorted.
    pub foreign: Vec<Foreign>,
}

impl Order {
    /// Hooks at which programs of others run before ours.
    pub(crate) fn preceded(&self) -> Vec<Hook> {
        let is_preceded =
            |hook: &Hook| self.foreign.iter().any(|foreign| foreign.before && foreign.hook == *hook);
        Hook::ALL.into_iter().filter(is_preceded).collect()
    }
}

/// A program of somebody else at one of our hooks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Foreign {
    pub hook: Hook,
    pub program: u32,
    /// Whether it runs before ours, and so can take a destination away from it.
    pub before: bool,
    /// The highest cgroup for which it runs: where it is attached, or the programs' own where that is further up.
    pub cgroup: PathBuf,
    /// Told only to those with `CAP_SYS_ADMIN`.
    pub name: Option<String>,
    /// The hash of its instructions, told to the same.
    pub tag: Option<String>,
}

/// One of our programs, as its pinned link shows it.
#[derive(Clone, Copy, Debug)]
struct Ours {
    name: &'static str,
    program: u32,
    attach_type: u32,
}

/// What has been met so far, with the highest cgroup of each.
type Met = BTreeMap<(Hook, u32, bool), PathBuf>;

/// Asks for all of these cgroups, which begin with the programs' own one; `links` is where our links are pinned.
///
/// # Errors
/// One of our programs does not run for one of them.
pub(crate) fn ask(links: &Path, cgroups: &[PathBuf]) -> Result<Order, HookOrderError> {
    let ours = HOOKS.into_iter().map(|name| ours(links, name)).collect::<Result<Vec<_>, _>>()?;
    let mut met = Met::new();
    for cgroup in cgroups {
        look(cgroup, &ours, &mut met)?;
    }
    let other_layouts = other_layouts(links);
    met.retain(|(_, program, _), _| !other_layouts.contains(program));
    let ids = ours.iter().filter_map(|ours| Some((hook::of(ours.name)?, ours.program)));
    Ok(Order { ours: ids.collect(), foreign: met.into_iter().map(foreign).collect() })
}

/// Looks at one cgroup. What vanishes meanwhile is left out.
fn look(cgroup: &Path, ours: &[Ours], met: &mut Met) -> Result<(), HookOrderError> {
    let failed = |source| HookOrderError::Ask { cgroup: cgroup.into(), source };
    let opened = match File::open(cgroup) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for ours in ours {
        let programs = match sys_cgroup::effective(opened.as_fd(), ours.attach_type) {
            Ok(programs) => programs,
            Err(_) if !cgroup.exists() => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let Some(place) = programs.iter().position(|program| *program == ours.program) else {
            // A cgroup on its way out has lost its programs already.
            if !cgroup.exists() {
                return Ok(());
            }
            let (hook, program) = (ours.name, ours.program);
            return Err(HookOrderError::NotRun { hook, program, cgroup: cgroup.into() });
        };
        let Some(hook) = hook::of(ours.name) else { continue };
        for (index, program) in programs.into_iter().enumerate().filter(|(index, _)| *index != place) {
            met.entry((hook, program, index < place)).or_insert_with(|| cgroup.into());
        }
    }
    Ok(())
}

fn foreign(((hook, program, before), cgroup): ((Hook, u32, bool), PathBuf)) -> Foreign {
    let (name, tag) = sys_cgroup::program(program).ok().unzip();
    Foreign { hook, program, before, cgroup, name, tag }
}

fn ours(links: &Path, name: &'static str) -> Result<Ours, HookOrderError> {
    let path = links.join(name);
    let link = sys::open_pin(&path).and_then(|link| sys_cgroup::link(link.as_fd()));
    let link = link.map_err(|source| HookOrderError::Link { hook: name, path, source })?;
    if link.cgroup == 0 {
        return Err(HookOrderError::Detached { hook: name });
    }
    Ok(Ours { name, program: link.program, attach_type: link.attach_type })
}

/// The programs of this instance's other layouts, which serve until their content is in the own maps.
fn other_layouts(links: &Path) -> BTreeSet<u32> {
    let instance = links.parent().and_then(Path::parent).unwrap_or(links);
    let folders = entries(instance).map(|layout| layout.join("links"));
    let pins =
        folders.filter(|folder| folder != links).flat_map(|folder| entries(&folder).collect::<Vec<_>>());
    let program = |pin: PathBuf| {
        let link = sys::open_pin(&pin).and_then(|link| sys_cgroup::link(link.as_fd()));
        link.ok().map(|link| link.program)
    };
    pins.filter_map(program).collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
