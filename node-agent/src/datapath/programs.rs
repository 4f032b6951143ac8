//! Brings the programs onto the cgroup and keeps them there: load, pin, adopt, replace, remove.
//!
//! Where the pins are, `pins` says. Every step leaves something that the next start can go on from:
//! new maps are filled before they take the place of the old ones, the old programs keep the old maps until each
//! link is switched in one step, and only then does `CONTROL.object` name the programs that run. A start that
//! finds another name there, or a link missing, loads the programs and switches the links again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::pin::PinError;
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use mesh_abi::LAYOUT;
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::actual::Capacity;
use super::cgroups;
use super::control;
use super::grace::GraceError;
use super::hint::Hint;
use super::hook;
use super::kernel;
use super::links::{Links, detach_all};
use super::maps::{self, MapError, Maps};
use super::pins::{Pinned, Pins, Step};

/// The programs, built by `make ebpf` from `ebpf/programs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/object/mesh.bpf.o");

/// The programs of the object; their links are pinned under the same names.
pub const HOOKS: [&str; 9] = [
    // First, so that no socket takes what nobody would give back.
    "mesh_release",
    "mesh_connect4",
    "mesh_connect6",
    "mesh_peername4",
    "mesh_peername6",
    "mesh_sendmsg4",
    "mesh_sendmsg6",
    "mesh_recvmsg4",
    "mesh_recvmsg6",
];

/// Pairs of an unconnected UDP socket and a backend that are remembered, where nobody says otherwise.
pub(crate) const DEFAULT_REPLIES: u32 = 65_536;

/// The root of a cgroup v2 hierarchy has this inode number (kernfs); a private cgroup namespace shows another.
pub(super) const ROOT_INODE: u64 = 1;

/// Why the datapath could not be set up, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    #[error("{path} is no bpf file system; mount one: mount -t bpf bpf {path}", path = .path.display())]
    NoBpffs { path: PathBuf },
    #[error("cgroup v2 is mounted nowhere; mount it, or name its directory with --cgroup-root")]
    NoCgroup2,
    #[error("{path} is no cgroup v2 directory; give --cgroup-root one", path = .path.display())]
    NotACgroup { path: PathBuf },
    #[error(
        "{path} is not the root of the cgroup v2 hierarchy but a private view of it, and would serve this process \
         only; mount the host's, or name a directory with --cgroup-root",
        path = .path.display()
    )]
    PrivateCgroup { path: PathBuf },
    #[error("{action} {path}{hint}", path = .path.display())]
    File { action: &'static str, path: PathBuf, hint: Hint, source: io::Error },
    #[error("creating the maps{hint}")]
    Load { hint: Hint, source: Box<aya::EbpfError> },
    #[error("{action} program {name}{hint}")]
    Program { action: &'static str, name: &'static str, hint: Hint, source: Box<ProgramError> },
    #[error("the built-in object has no program {name}: rebuild it with make ebpf")]
    Missing { name: &'static str },
    #[error("pinning {path}{hint}", path = .path.display())]
    Pin { path: PathBuf, hint: Hint, source: Box<PinError> },
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Unfit(#[from] kernel::Unfit),
    #[error(transparent)]
    Grace(#[from] GraceError),
}

/// One instance's datapath on this node.
#[derive(Clone, Debug)]
pub struct Installation {
    pins: Pins,
    cgroup: PathBuf,
    object: &'static [u8],
    replies: u32,
    /// Whether programs go before those of others where the kernel lets one choose.
    goes_first: bool,
}

/// The maps to use, and what became of earlier ones.
#[derive(Debug)]
pub enum Found {
    /// Maps of an earlier agent, of the wanted sizes: their content counts.
    Adopted(Box<Maps>),
    /// New maps, empty. Fill them from the old ones, if any, then [`Installation::attach`].
    Built { maps: Box<Maps>, old: Option<Box<Maps>> },
}

pub(super) fn program<'a>(
    programs: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Program, ProgramsError> {
    programs.program_mut(name).ok_or(ProgramsError::Missing { name })
}

pub(super) fn program_failed(
    action: &'static str,
    name: &'static str,
) -> impl FnOnce(ProgramError) -> ProgramsError {
    move |source| ProgramsError::Program { action, name, hint: Hint::of(&source), source: Box::new(source) }
}

fn pin_failed(path: PathBuf) -> impl FnOnce(PinError) -> ProgramsError {
    move |source| ProgramsError::Pin { path, hint: Hint::of(&source), source: Box::new(source) }
}

impl Installation {
    /// Checks where programs and maps go.
    ///
    /// # Errors
    /// No bpf file system at `bpffs`, no cgroup v2, or only a private view of it.
    pub fn new(bpffs: &Path, instance: &str, cgroup_root: Option<&Path>) -> Result<Self, ProgramsError> {
        check_bpffs(bpffs)?;
        let cgroup = cgroup(cgroup_root)?;
        let pins = Pins::new(maps::pin_dir(bpffs, instance));
        pins.recover()?;
        Ok(Self { pins, cgroup, object: OBJECT, replies: DEFAULT_REPLIES, goes_first: true })
    }

    /// The same with room for so many pairs of an unconnected UDP socket and a backend.
    #[must_use]
    pub fn with_replies(self, replies: u32) -> Self {
        Self { replies, ..self }
    }

    /// The same with the programs of another object, as another version of the agent has them. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn with_object(self, object: &'static [u8]) -> Self {
        Self { object, ..self }
    }

    /// The same as on a kernel that lets nobody choose a place. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn in_turn(self) -> Self {
        Self { goes_first: false, ..self }
    }

    /// Where the pins of all layouts are.
    pub(crate) fn instance_folder(&self) -> &Path {
        self.pins.folder().parent().unwrap_or(self.pins.folder())
    }

    /// The cgroup whose processes are served.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Where the links of the programs are pinned.
    pub fn links(&self) -> PathBuf {
        self.pins.links()
    }

    /// Where the maps are pinned.
    pub fn pinned_maps(&self) -> PathBuf {
        self.pins.current()
    }

    /// Opens the pinned maps if they have the wanted sizes, else builds new ones beside them.
    pub fn maps(&self, capacity: Capacity) -> Result<Found, ProgramsError> {
        // Maps that an earlier start could not finish filling.
        let staging = self.pins.staging();
        remove_folder(&staging)?;
        let old = match self.pins.maps() {
            Pinned::Nothing => None,
            pinned => {
                if let Pinned::Without(missing) = pinned {
                    self.replace(&missing, capacity)?;
                }
                let maps = Maps::open(&self.pins.current())?;
                if maps.services.capacity() == capacity && maps.replies() == self.replies {
                    return Ok(Found::Adopted(Box::new(maps)));
                }
                Some(Box::new(maps))
            }
        };
        create(&staging)?;
        if let Some(old) = &old {
            for name in ["ORIGINS", "SOCKETS"] {
                self.keep(name, &staging)?;
            }
            if old.replies() == self.replies {
                self.keep("REPLIES", &staging)?;
            }
        }
        self.load(&staging, capacity)?;
        Ok(Found::Built { maps: Box::new(Maps::open(&staging)?), old })
    }

    /// Makes the given maps the pinned ones and the built-in programs the running ones. Does nothing where both
    /// are so already. Nothing is moved or attached before the kernel has taken all programs: what ran goes on
    /// where it refuses one.
    pub fn attach(&self, maps: &mut Maps) -> Result<bool, ProgramsError> {
        let mut control = maps.control.read()?;
        let links = self.link_place();
        links.recover();
        let way = links.way();
        let is_ours = control.layout == LAYOUT && control.object == self.object_id();
        if is_ours && links.serve()? && way.moved.is_empty() {
            self.pins.take_over()?;
            return Ok(false);
        }
        let staging = self.pins.staging();
        let folder = if staging.exists() { staging } else { self.pins.current() };
        let mut programs = self.load_verified(&folder, maps.services.capacity())?;
        self.pins.take_over()?;
        links.attach(&mut programs, &way)?;
        control.layout = LAYOUT;
        control.object = self.object_id();
        maps.control.write(&control)?;
        Ok(true)
    }

    /// Puts the programs before those of others that came before them since, where the kernel lets one choose; what runs
    /// goes on meanwhile. Gives the programs that were moved.
    pub(crate) fn move_ahead(&self) -> Result<Vec<&'static str>, ProgramsError> {
        let links = self.link_place();
        let way = links.way();
        if !way.moved.is_empty() {
            let current = self.pins.current();
            let mut programs = self.load_verified(&current, Maps::open(&current)?.services.capacity())?;
            links.attach(&mut programs, &way)?;
        }
        Ok(way.moved)
    }

    fn link_place(&self) -> Links<'_> {
        let first = if self.goes_first { kernel::first_flags() } else { 0 };
        Links { folder: self.pins.links(), cgroup: &self.cgroup, first }
    }

    /// Loads all programs as far as the kernel takes them.
    fn load_verified(&self, folder: &Path, capacity: Capacity) -> Result<Ebpf, ProgramsError> {
        let mut programs = self.load(folder, capacity)?;
        for name in HOOKS {
            hook::load(program(&mut programs, name)?).map_err(program_failed("loading", name))?;
        }
        Ok(programs)
    }

    /// Pins an old map among the new ones: it has no size or keeps it, and what sockets had dialled stands nowhere
    /// else.
    fn keep(&self, name: &str, staging: &Path) -> Result<(), ProgramsError> {
        let (old, new) = (self.pins.current().join(name), staging.join(name));
        let Ok(map) = MapData::from_pin(old) else { return Ok(()) };
        map.pin(&new).map_err(pin_failed(new))
    }

    /// Builds maps whose pins are missing among the ones that are there. What they remembered is lost.
    fn replace(&self, missing: &[&'static str], capacity: Capacity) -> Result<(), ProgramsError> {
        tracing::error!(
            ?missing,
            "pins of maps are missing: these are built anew, and the programs loaded with them"
        );
        // The programs that run have the lost ones; a kill from here on must not hide that.
        control::forget_programs(&self.pins.current())?;
        self.load(&self.pins.current(), capacity).map(drop)
    }

    /// Takes one step of those in which new maps take the place of others. For tests.
    #[doc(hidden)]
    pub fn take_step(&self, step: Step) -> Result<bool, ProgramsError> {
        self.pins.take(step)
    }

    /// Loads the object's maps, each from its pin in `folder` or newly pinned there, and its programs.
    fn load(&self, folder: &Path, capacity: Capacity) -> Result<Ebpf, ProgramsError> {
        let mptcp = u32::from(kernel::tells_mptcp());
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for name in maps::NAMES {
            loader.map_pin_path(name, folder.join(name));
        }
        loader
            .map_max_entries("SERVICES", capacity.services)
            // Of each service one for each version.
            .map_max_entries("GROUPS", capacity.services.saturating_mul(2))
            .map_max_entries("SLOTS", capacity.slots)
            .map_max_entries("BACKENDS", capacity.backends)
            .map_max_entries("COUNTERS", capacity.counters)
            .map_max_entries("REPLIES", self.replies)
            // Earlier objects have no such word.
            .override_global("MPTCP", &mptcp, false);
        let loaded = loader.load(self.object);
        loaded.map_err(|source| ProgramsError::Load { hint: Hint::of(&source), source: Box::new(source) })
    }

    /// Names the programs: a hash of the object (FNV-1a, 64 bits) that is never 0. Not a secret and not
    /// a defence, only a way to see that an upgrade brought other programs.
    fn object_id(&self) -> u64 {
        let hash = self.object.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash.max(1)
    }
}

/// Removes all pins of an instance, of every layout: links first, so that nothing is translated by maps that
/// are going. What is not there is fine. Returns whether there was anything.
pub fn uninstall(bpffs: &Path, instance: &str) -> Result<bool, ProgramsError> {
    check_bpffs(bpffs)?;
    let folder = maps::instance_dir(bpffs, instance);
    let layouts = match fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("reading", &folder)(error)),
    };
    for layout in &layouts {
        detach_all(&layout.join("links"));
    }
    for part in ["links", "maps_new", "maps_old", "maps"] {
        for layout in &layouts {
            remove_folder(&layout.join(part))?;
        }
    }
    for layout in &layouts {
        remove_folder(layout)?;
    }
    remove_folder(&folder)?;
    Ok(true)
}

fn check_bpffs(path: &Path) -> Result<(), ProgramsError> {
    match statfs(path) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => Ok(()),
        _ => Err(ProgramsError::NoBpffs { path: path.into() }),
    }
}

/// The given cgroup v2 directory, or the root from the mount table.
fn cgroup(given: Option<&Path>) -> Result<PathBuf, ProgramsError> {
    if let Some(path) = given {
        let is_cgroup = statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
        return if is_cgroup {
            Ok(path.into())
        } else {
            Err(ProgramsError::NotACgroup { path: path.into() })
        };
    }
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(failed("reading", "/proc/self/mounts"))?;
    let mounted: Vec<_> = cgroups::mounts(&mounts).collect();
    let is_root = |path: &&PathBuf| fs::metadata(path).is_ok_and(|found| found.ino() == ROOT_INODE);
    if let Some(path) = mounted.iter().find(is_root) {
        return Ok(path.clone());
    }
    let path = mounted.into_iter().next().ok_or(ProgramsError::NoCgroup2)?;
    Err(ProgramsError::PrivateCgroup { path })
}

pub(super) fn failed(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> ProgramsError {
    let path = path.into();
    move |source| ProgramsError::File { action, path, hint: Hint::default(), source }
}

/// The same of a bpf(2) call.
pub(super) fn refused(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> ProgramsError {
    let path = path.into();
    move |source| ProgramsError::File { action, path, hint: Hint::of(&source), source }
}

pub(super) fn create(folder: &Path) -> Result<(), ProgramsError> {
    fs::create_dir_all(folder).map_err(failed("creating", folder))
}

/// Removes a folder and the pins in it; a bpf file system knows no recursive removal of its own.
pub(super) fn remove_folder(folder: &Path) -> Result<(), ProgramsError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", folder)(error)),
        _ => Ok(()),
    }
}
