//! Programs of somebody else, as another socket balancer attaches them: made of instructions here, so that no compiler is
//! needed.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use mesh_admin::Hook;

const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const LINK_DETACH: i32 = 34;

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const KIND: u64 = 18;
/// Where `struct bpf_sock_addr` has what is dialled.
const IP4: i16 = 4;
const IP6: i16 = 8;
const PORT: i16 = 24;

/// `enum bpf_attach_type`.
fn attach_type(hook: Hook) -> u64 {
    match hook {
        Hook::Connect4 => 10,
        Hook::Connect6 => 11,
        Hook::SendMsg4 => 14,
        Hook::SendMsg6 => 15,
        Hook::RecvMsg4 => 19,
        Hook::RecvMsg6 => 20,
        Hook::GetPeerName4 => 29,
        Hook::GetPeerName6 => 30,
    }
}

/// A program that is not ours.
pub(crate) struct Program {
    hook: Hook,
    fd: OwnedFd,
}

/// One that is attached; detached when dropped.
pub(crate) struct Attached {
    link: OwnedFd,
}

impl Program {
    /// Lets everything pass.
    pub(crate) fn passing(hook: Hook, name: &str) -> Self {
        Self::load(hook, name, &[])
    }

    /// Replaces one address and port by another of the same family, as a balancer does.
    pub(crate) fn taking(hook: Hook, name: &str, from: &str, to: &str) -> Self {
        let (from, to) = (words(from), words(to));
        let mut code = Vec::new();
        let last = 2 * from.len() + 2 * to.len();
        for (at, (offset, word)) in from.iter().enumerate() {
            // Over what is left of the pairs, to the end.
            let behind = i16::try_from(last - 2 * at - 2).unwrap();
            code.push(instruction(0x61, 2, 1, *offset, 0)); // r2 = *(u32 *)(r1 + offset)
            code.push(instruction(0x56, 2, 0, behind, *word)); // if w2 != word goto the end
        }
        for (offset, word) in &to {
            code.push(instruction(0xb4, 2, 0, 0, *word)); // w2 = word
            code.push(instruction(0x63, 1, 2, *offset, 0)); // *(u32 *)(r1 + offset) = r2
        }
        Self::load(hook, name, &code)
    }

    fn load(hook: Hook, name: &str, code: &[u64]) -> Self {
        let end = [instruction(0xb7, 0, 0, 0, 1), instruction(0x95, 0, 0, 0, 0)]; // return 1
        let code = [code, &end].concat();
        let mut named = [0_u8; 16];
        named[..name.len()].copy_from_slice(name.as_bytes());
        let [low, high] = [0, 8].map(|at| u64::from_ne_bytes(named[at..at + 8].try_into().unwrap()));
        let licence = c"GPL";
        let (count, first) = (u64::try_from(code.len()).unwrap(), code.as_ptr() as u64);
        let mut attr =
            [KIND | count << 32, first, licence.as_ptr() as u64, 0, 0, 0, low, high, attach_type(hook) << 32];
        Self { hook, fd: owned(super::bpf(PROG_LOAD, &mut attr)) }
    }

    /// Attaches it behind what is there, or with flags of the kernel's where it chooses.
    pub(crate) fn attach(&self, cgroup: &Path, flags: u64) -> Attached {
        let cgroup = File::open(cgroup).unwrap();
        let mut attr = [number(&self.fd) | number(&cgroup) << 32, attach_type(self.hook) | flags << 32, 0, 0];
        Attached { link: owned(super::bpf(LINK_CREATE, &mut attr)) }
    }
}

impl Attached {
    /// Pins the link, so that it outlives this process.
    pub(crate) fn pin(&self, path: &Path) {
        const OBJ_PIN: i32 = 6;
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        super::bpf(OBJ_PIN, &mut [path.as_ptr() as u64, number(&self.link)]);
    }

    /// Runs another program from now on.
    pub(crate) fn replace(&self, by: &Program) {
        super::bpf(LINK_UPDATE, &mut [number(&self.link) | number(&by.fd) << 32, 0]);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // At once: closing leaves it to a worker of the kernel's.
        super::bpf(LINK_DETACH, &mut [number(&self.link), 0]);
    }
}

/// What an address and a port are in the context: offset and value of each word.
fn words(address: &str) -> Vec<(i16, i32)> {
    let address: SocketAddr = address.parse().unwrap();
    let mut words = match address {
        SocketAddr::V4(address) => vec![(IP4, i32::from_ne_bytes(address.ip().octets()))],
        SocketAddr::V6(address) => {
            let octets = address.ip().octets();
            let word = |at: usize| i32::from_ne_bytes(octets[4 * at..4 * at + 4].try_into().unwrap());
            (0..4).map(|at| (IP6 + 4 * i16::try_from(at).unwrap(), word(at))).collect()
        }
    };
    words.push((PORT, i32::from(address.port().to_be())));
    words
}

/// Operation, destination and source registers, offset, immediate.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    let ([low, high], [a, b, c, d]) = (offset.to_le_bytes(), immediate.to_le_bytes());
    u64::from_le_bytes([code, source << 4 | destination, low, high, a, b, c, d])
}

fn number(fd: &impl AsRawFd) -> u64 {
    u64::try_from(fd.as_raw_fd()).unwrap()
}

#[allow(unsafe_code, reason = "std takes no other descriptors")]
fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}
