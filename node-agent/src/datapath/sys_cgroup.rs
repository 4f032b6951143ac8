//! The bpf(2) calls about cgroups: what a link is attached to, and which programs run there. Never decides anything.
#![allow(unsafe_code, reason = "the kernel is called with addresses")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::sys::{address, bpf, owned, raw};

const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;

/// `BPF_F_QUERY_EFFECTIVE`: what runs for a cgroup, its ancestors' programs with it.
const QUERY_EFFECTIVE: u32 = 1;

/// `union bpf_attr` for asking about an object.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info` for a cgroup link.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct CgroupLink {
    kind: u32,
    id: u32,
    pub(super) program: u32,
    zero: u32,
    /// The cgroup's id, which is the inode number of its directory; 0 where the cgroup is gone.
    pub(super) cgroup: u64,
    pub(super) attach_type: u32,
    zero_2: u32,
}

/// `union bpf_attr` for asking which programs are attached (kernel 4.15). It has to be as long as the newest kernel's:
/// that one writes a revision at its end, whatever length it was told.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    zero: u32,
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    revision: u64,
}

/// The beginning of `struct bpf_prog_info`, up to the program's name (kernel 4.15).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    addresses: [u64; 2],
    load_time: u64,
    created_by: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// `union bpf_attr` for attaching a program to a cgroup by a link (kernel 5.7).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LinkAttr {
    program: u32,
    cgroup: u32,
    attach_type: u32,
    flags: u32,
    /// None: the flags speak of all programs of the cgroup.
    relative_to: u64,
    revision: u64,
}

/// `union bpf_attr` for opening a program by its id.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

/// Name and tag of a program. It takes `CAP_SYS_ADMIN`.
pub(super) fn program(id: u32) -> io::Result<(String, String)> {
    // SAFETY: the attribute holds no addresses.
    let program = owned(unsafe { bpf(PROG_GET_FD_BY_ID, &mut IdAttr { id, ..IdAttr::default() }) }?);
    let mut info = ProgramInfo::default();
    let mut attr = InfoAttr {
        fd: raw(program.as_fd()),
        length: u32::try_from(size_of::<ProgramInfo>()).expect("a few bytes"),
        info: address(&raw mut info),
    };
    // SAFETY: the kernel writes at most `length` bytes of `info`; its lengths and addresses, all 0, ask for no more.
    unsafe { bpf(OBJ_GET_INFO, &mut attr) }?;
    let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
    let tag = info.tag.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((String::from_utf8_lossy(name).into_owned(), tag))
}

/// Attaches a program to a cgroup. It shares its hook with others: a cgroup's link always does.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr =
        LinkAttr { program: raw(program), cgroup: raw(cgroup), attach_type, flags, ..LinkAttr::default() };
    // SAFETY: the attribute holds no addresses.
    Ok(owned(unsafe { bpf(LINK_CREATE, &mut attr) }?))
}

/// What a link is attached to.
pub(super) fn link(link: BorrowedFd<'_>) -> io::Result<CgroupLink> {
    let mut info = CgroupLink::default();
    let mut attr = InfoAttr {
        fd: raw(link),
        length: u32::try_from(size_of::<CgroupLink>()).expect("a few bytes"),
        info: address(&raw mut info),
    };
    // SAFETY: the kernel writes at most `length` bytes of `info`.
    unsafe { bpf(OBJ_GET_INFO, &mut attr) }?;
    Ok(info)
}

/// The ids of the programs that run at a hook for the processes of a cgroup, in their order. It takes `CAP_NET_ADMIN`
/// and, where unprivileged bpf(2) is off, `CAP_BPF`; the cgroup only has to be readable.
pub(super) fn effective(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut room = 64;
    loop {
        let mut ids = vec![0_u32; room];
        let mut attr = QueryAttr {
            target_fd: raw(cgroup),
            attach_type,
            query_flags: QUERY_EFFECTIVE,
            program_ids: address(ids.as_mut_ptr()),
            count: u32::try_from(room).expect("room is small"),
            ..QueryAttr::default()
        };
        // SAFETY: there is room for `count` ids, which outlive the call.
        let result = unsafe { bpf(PROG_QUERY, &mut attr) };
        match result {
            Ok(_) => {
                ids.truncate(usize::try_from(attr.count).expect("u32 fits usize"));
                return Ok(ids);
            }
            // How many there are is told nevertheless; more may be attached meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 16 => room *= 4,
            Err(error) => return Err(error),
        }
    }
}
