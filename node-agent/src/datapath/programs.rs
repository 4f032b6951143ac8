//! Brings the programs onto the cgroup and keeps them there: load, pin, adopt, replace, remove.
//!
//! Pins below `<bpffs>/clustermesh/<instance>/v<layout>/`: `maps/` and `links/`, and `maps_new/` while maps of
//! another size are being filled. Every step leaves something that the next start can go on from:
//! new maps are filled before they take the place of the old ones, the old programs keep the old maps until each
//! link is switched in one step, and only then does `CONTROL.object` name the programs that run. A start that
//! finds another name there, or a link missing, loads the programs and switches the links again.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::ProgramError;
use aya::{Ebpf, EbpfLoader};
use mesh_abi::LAYOUT;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::actual::Capacity;
use super::hook;
use super::maps::{self, MapError, Maps};
use super::sys;

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
pub const DEFAULT_REPLIES: u32 = 65_536;

/// The root of a cgroup v2 hierarchy has this inode number (kernfs); a private cgroup namespace shows another.
const ROOT_INODE: u64 = 1;

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
    #[error("{action} {path}", path = .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "loading the programs; the kernel must be 5.12 or newer, and this process needs CAP_BPF and CAP_NET_ADMIN"
    )]
    Load(#[source] Box<aya::EbpfError>),
    #[error("{action} program {name}")]
    Program { action: &'static str, name: &'static str, source: Box<ProgramError> },
    #[error("the built-in object has no program {name}: rebuild it with make ebpf")]
    Missing { name: &'static str },
    #[error("pinning {path}", path = .path.display())]
    Pin { path: PathBuf, source: Box<aya::pin::PinError> },
    #[error(transparent)]
    Map(#[from] MapError),
}

/// One instance's datapath on this node.
#[derive(Debug)]
pub struct Installation {
    folder: PathBuf,
    cgroup: PathBuf,
    object: &'static [u8],
    replies: u32,
}

/// The maps to use, and what became of earlier ones.
#[derive(Debug)]
pub enum Found {
    /// Maps of an earlier agent, of the wanted sizes: their content counts.
    Adopted(Box<Maps>),
    /// New maps, empty. Fill them from the old ones, if any, then [`Installation::attach`].
    Built { maps: Box<Maps>, old: Option<Box<Maps>> },
}

impl Installation {
    /// Checks where programs and maps go.
    ///
    /// # Errors
    /// No bpf file system at `bpffs`, no cgroup v2, or only a private view of it.
    pub fn new(bpffs: &Path, instance: &str, cgroup_root: Option<&Path>) -> Result<Self, ProgramsError> {
        check_bpffs(bpffs)?;
        let cgroup = cgroup(cgroup_root)?;
        let folder = maps::pin_dir(bpffs, instance);
        for part in ["maps", "links"] {
            create(&folder.join(part))?;
        }
        Ok(Self { folder, cgroup, object: OBJECT, replies: DEFAULT_REPLIES })
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

    /// Where the pins of all layouts are.
    pub(crate) fn instance_folder(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    /// The cgroup whose processes are served.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Opens the pinned maps if they have the wanted sizes, else builds new ones beside them.
    pub fn maps(&self, capacity: Capacity) -> Result<Found, ProgramsError> {
        // Maps that an earlier start could not finish filling.
        remove_folder(&self.folder.join("maps_new"))?;
        let old = match Maps::open(&self.folder.join("maps")) {
            Ok(maps) if maps.capacity() == capacity && maps.replies() == self.replies => {
                return Ok(Found::Adopted(Box::new(maps)));
            }
            Ok(maps) => Some(Box::new(maps)),
            // None were pinned, or not all of them.
            Err(MapError::Open { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let staging = self.folder.join("maps_new");
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
    /// are so already.
    pub fn attach(&self, maps: &mut Maps) -> Result<bool, ProgramsError> {
        self.take_over_new_maps()?;
        let mut control = maps.read_control()?;
        if control.layout == LAYOUT && control.object == self.object_id() && self.links_serve()? {
            return Ok(false);
        }
        let mut programs = self.load(&self.folder.join("maps"), maps.capacity())?;
        for name in HOOKS {
            self.attach_one(&mut programs, name)?;
        }
        control.layout = LAYOUT;
        control.object = self.object_id();
        maps.write_control(&control)?;
        Ok(true)
    }

    /// Pins an old map among the new ones: it has no size or keeps it, and what sockets had dialled stands nowhere
    /// else.
    fn keep(&self, name: &str, staging: &Path) -> Result<(), ProgramsError> {
        let (old, new) = (self.folder.join("maps").join(name), staging.join(name));
        let Ok(map) = MapData::from_pin(old) else { return Ok(()) };
        map.pin(&new).map_err(|source| ProgramsError::Pin { path: new, source: Box::new(source) })
    }

    fn take_over_new_maps(&self) -> Result<(), ProgramsError> {
        let (staging, current) = (self.folder.join("maps_new"), self.folder.join("maps"));
        if !staging.exists() {
            return Ok(());
        }
        // The old maps and the new ones change places in one step (bpffs can since Linux 5.16), so that a crash
        // here loses neither.
        match renameat2(AT_FDCWD, &staging, AT_FDCWD, &current, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => return remove_folder(&staging),
            Err(Errno::EINVAL) => {}
            Err(error) => return Err(failed("moving", &staging)(error.into())),
        }
        remove_folder(&current)?;
        fs::rename(&staging, &current).map_err(failed("moving", &staging))
    }

    /// Whether every hook has a pinned link to the wanted cgroup.
    fn links_serve(&self) -> Result<bool, ProgramsError> {
        for name in HOOKS {
            if !self.serves(&self.link_path(name))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn serves(&self, link: &Path) -> Result<bool, ProgramsError> {
        let opened = match sys::open_pin(link) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("opening", link)(error)),
        };
        let cgroup = sys::link_cgroup(opened.as_fd()).map_err(failed("asking about", link))?;
        let wanted = fs::metadata(&self.cgroup).map_err(failed("reading", &self.cgroup))?.ino();
        Ok(cgroup == wanted)
    }

    /// Switches the pinned link to the new program, or attaches and pins a new one.
    fn attach_one(&self, programs: &mut Ebpf, name: &'static str) -> Result<(), ProgramsError> {
        let program_failed = |action| {
            move |source: ProgramError| ProgramsError::Program { action, name, source: Box::new(source) }
        };
        let program = programs.program_mut(name).ok_or(ProgramsError::Missing { name })?;
        hook::load(program).map_err(program_failed("loading"))?;
        let path = self.link_path(name);
        if self.serves(&path)? {
            let link = sys::open_pin(&path).map_err(failed("opening", &path))?;
            let fd = program.fd().map_err(program_failed("using"))?;
            return sys::update_link(link.as_fd(), fd.as_fd()).map_err(failed("switching", &path));
        }
        let cgroup = File::open(&self.cgroup).map_err(failed("opening", &self.cgroup))?;
        let link = hook::attach(program, &cgroup).map_err(program_failed("attaching"))?;
        // A link to another cgroup gives way only now, so that there is no moment without either.
        remove_file(&path)?;
        link.pin(&path).map_err(|source| ProgramsError::Pin { path, source: Box::new(source) })?;
        Ok(())
    }

    /// Loads the object's maps, each from its pin in `folder` or newly pinned there, and its programs.
    fn load(&self, folder: &Path, capacity: Capacity) -> Result<Ebpf, ProgramsError> {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for name in maps::NAMES {
            loader.map_pin_path(name, folder.join(name));
        }
        loader
            .map_max_entries("SERVICES", capacity.services)
            .map_max_entries("SLOTS", capacity.slots)
            .map_max_entries("BACKENDS", capacity.backends)
            .map_max_entries("COUNTERS", capacity.counters)
            .map_max_entries("REPLIES", self.replies);
        loader.load(self.object).map_err(|source| ProgramsError::Load(Box::new(source)))
    }

    /// Names the programs: a hash of the object (FNV-1a, 64 bits) that is never 0. Not a secret and not
    /// a defence, only a way to see that an upgrade brought other programs.
    fn object_id(&self) -> u64 {
        let hash = self.object.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash.max(1)
    }

    fn link_path(&self, name: &str) -> PathBuf {
        self.folder.join("links").join(name)
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
    for part in ["links", "maps_new", "maps"] {
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

/// Detaches the links pinned in a folder. What can't be detached (the cgroup is gone, or the kernel is older than
/// 5.9) goes with its pin all the same, a little later.
pub(super) fn detach_all(links: &Path) {
    let pins = fs::read_dir(links).into_iter().flatten().flatten();
    for link in pins.filter_map(|pin| sys::open_pin(&pin.path()).ok()) {
        let _already_gone = sys::detach_link(link.as_fd());
    }
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
    let mounted: Vec<_> = cgroup2_mounts(&mounts).collect();
    let is_root = |path: &&PathBuf| fs::metadata(path).is_ok_and(|found| found.ino() == ROOT_INODE);
    if let Some(path) = mounted.iter().find(is_root) {
        return Ok(path.clone());
    }
    let path = mounted.into_iter().next().ok_or(ProgramsError::NoCgroup2)?;
    Err(ProgramsError::PrivateCgroup { path })
}

/// All cgroup v2 mounts: on a hybrid host that is not /sys/fs/cgroup itself, and in a container the runtime's private
/// view comes before the host's root.
fn cgroup2_mounts(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().map(|line| line.split(' ')).filter_map(|mut fields| {
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

pub(super) fn failed(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> ProgramsError {
    let path = path.into();
    move |source| ProgramsError::File { action, path, source }
}

fn create(folder: &Path) -> Result<(), ProgramsError> {
    fs::create_dir_all(folder).map_err(failed("creating", folder))
}

fn remove_file(path: &Path) -> Result<(), ProgramsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a folder and the pins in it; a bpf file system knows no recursive removal of its own.
pub(super) fn remove_folder(folder: &Path) -> Result<(), ProgramsError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_on_unified_and_hybrid_hosts_and_in_containers() {
        let found = |mounts| cgroup2_mounts(mounts).collect::<Vec<_>>();
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
