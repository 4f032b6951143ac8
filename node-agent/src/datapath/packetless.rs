//! Dials frontends as an application would, without sending a packet, and tells by the programs' own counts who met the
//! destination.
//!
//! A hook runs before the kernel does anything with the destination. A TCP socket in repair mode (`TCP_REPAIR`, Linux 3.5,
//! `CAP_NET_ADMIN`) is connected without a SYN and closed without a RST. Connecting a UDP socket sends nothing, nor does an
//! empty datagram with `MSG_PROBE` and `MSG_CONFIRM`.
//!
//! Each program counts what became of what it saw, for each CPU. The dialling thread stays on one, so that between two
//! readings there is its own dial alone, or else it dials again.
#![allow(unsafe_code, reason = "sockets are dialled in ways that std doesn't offer")]

use std::io;
use std::mem::size_of;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use mesh_abi::{OUTCOMES, Outcome};
use mesh_admin::Hook;
use mesh_model::desired::Frontend;
use mesh_model::snapshot::Protocol;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::actual::{CANARY, frontend_of, service_key};
use super::cpus;
use super::inspect::Inspect;
use super::maps::{MapError, Maps};

/// Frontends dialled at most, at each hook; some 30 µs each.
const MOST: usize = 4096;
/// Of datagrams each takes one of the places in which replies are remembered.
const MOST_DATAGRAMS: usize = 256;
/// A dial that others' connects ran into is repeated that often.
const ATTEMPTS: usize = 5;
/// A frontend counts as taken when that many dials in a row say so.
const AGREEING: usize = 2;
/// Frontends that are named.
const EXAMPLES: usize = 8;

/// What dialling the frontends through one hook showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dials {
    pub hook: Hook,
    /// Frontends that were dialled and of which it could be told.
    pub dialled: usize,
    /// Of these, the ones that something else had rewritten before our program saw them, or, at `getpeername`, that were
    /// shown as something else.
    pub taken: usize,
    /// The first of them.
    pub examples: Vec<Frontend>,
}

/// What dialling the frontends showed, or why nothing can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialled {
    pub hooks: Vec<Dials>,
    pub failed: Option<String>,
}

impl Dialled {
    /// Dials through these hooks what the maps pinned in a folder hold.
    pub(super) fn through(hooks: &[Hook], maps: &Path) -> Self {
        if hooks.is_empty() {
            return Self::default();
        }
        match Maps::open(maps).map_err(DialError::Map).and_then(|maps| dial(&maps, hooks)) {
            Ok(hooks) => Self { hooks, failed: None },
            Err(error) => Self { hooks: Vec::new(), failed: Some(mesh_failure::chain(&error)) },
        }
    }

    /// Hooks that lose what is dialled to somebody else.
    pub(crate) fn taken(&self) -> impl Iterator<Item = &Dials> {
        self.hooks.iter().filter(|dials| dials.taken > 0)
    }
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("staying on one CPU to dial the frontends")]
    Pin(#[source] io::Error),
    #[error("dialling a frontend without a packet; it takes CAP_NET_ADMIN")]
    Socket(#[source] io::Error),
}

/// Dials what the maps hold through each of these hooks. Blocks for up to some 100 ms.
///
/// # Errors
/// The maps can't be read, or this thread may not dial in this way.
fn dial(maps: &Maps, hooks: &[Hook]) -> Result<Vec<Dials>, DialError> {
    // A thread of its own, which takes its bond to a CPU with it.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let dialler = Dialler { maps, cpu: stay().map_err(DialError::Pin)? };
            let keys = maps.services.keys_after(None, MOST)?;
            let frontends: Vec<_> =
                keys.iter().filter_map(frontend_of).filter(|key| *key != CANARY).collect();
            hooks
                .iter()
                .filter(|hook| is_dialled(**hook))
                .map(|hook| dialler.through(*hook, &frontends))
                .collect()
        });
        thread.join().expect("dialling does not panic")
    })
}

/// What arrives shows only in a datagram that arrives.
const fn is_dialled(hook: Hook) -> bool {
    !matches!(hook, Hook::RecvMsg4 | Hook::RecvMsg6)
}

/// Keeps this thread on the CPU that it is on. Gives that one's place among a per-CPU map's values.
fn stay() -> io::Result<usize> {
    let cpu = sched_getcpu()?;
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only)?;
    cpus::place(cpu)
}

/// What became of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// Our program saw the frontend.
    Ours,
    /// Our program saw something else than the frontend, or getpeername showed something else.
    Taken,
}

struct Dialler<'m> {
    maps: &'m Maps,
    cpu: usize,
}

impl Dialler<'_> {
    fn through(&self, hook: Hook, frontends: &[Frontend]) -> Result<Dials, DialError> {
        let mut dials = Dials { hook, dialled: 0, taken: 0, examples: Vec::new() };
        let most = if matches!(hook, Hook::SendMsg4 | Hook::SendMsg6) { MOST_DATAGRAMS } else { MOST };
        let dialled = frontends.iter().filter_map(|frontend| Some((frontend, dialled_by(hook, frontend)?)));
        for (frontend, address) in dialled.take(most) {
            match self.judge(hook, frontend, address)? {
                None => continue,
                Some(Met::Ours) => {}
                Some(Met::Taken) => {
                    dials.taken += 1;
                    if dials.examples.len() < EXAMPLES {
                        dials.examples.push(*frontend);
                    }
                }
            }
            dials.dialled += 1;
        }
        Ok(dials)
    }

    /// Nothing where it can't be told.
    fn judge(&self, hook: Hook, frontend: &Frontend, address: SocketAddr) -> Result<Option<Met>, DialError> {
        for _ in 0..AGREEING {
            match self.dial(hook, frontend.protocol, address)? {
                Some(Met::Taken) => {}
                told => return Ok(told),
            }
        }
        // It may have gone from the maps meanwhile.
        let still_there =
            self.maps.services.read_services(&[service_key(frontend)])?.iter().all(Option::is_some);
        Ok(still_there.then_some(Met::Taken))
    }

    fn dial(&self, hook: Hook, protocol: Protocol, to: SocketAddr) -> Result<Option<Met>, DialError> {
        for _ in 0..ATTEMPTS {
            let socket = match Socket::new(to, protocol) {
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(None),
                socket => socket.map_err(DialError::Socket)?,
            };
            let before = self.maps.outcomes.read_of(self.cpu)?;
            let outcome = socket.dial(hook, to);
            let after = self.maps.outcomes.read_of(self.cpu)?;
            let counts = Counts::between(&before, &after);
            match counts.seen() {
                // The kernel refused before any program ran.
                0 => return Ok(None),
                1 if shows_peers(hook) => {
                    return Ok(counts.translated().then(|| socket.shown(to, outcome)).flatten());
                }
                1 if counts.of(Outcome::NotAService) == 1 => return Ok(Some(Met::Taken)),
                1 => return Ok(Some(Met::Ours)),
                // Somebody else's connect ran on this CPU in between.
                _ => {}
            }
        }
        Ok(None)
    }
}

/// What the programs counted.
struct Counts([u64; OUTCOMES]);

impl Counts {
    fn between(before: &[u64; OUTCOMES], after: &[u64; OUTCOMES]) -> Self {
        Self(std::array::from_fn(|index| after[index].wrapping_sub(before[index])))
    }

    const fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize]
    }

    /// Destinations; what is counted in addition left out.
    fn seen(&self) -> u64 {
        self.0.iter().sum::<u64>() - self.of(Outcome::Retried) - self.of(Outcome::OriginLost)
    }

    /// Whether what was dialled became a backend, and that is remembered.
    fn translated(&self) -> bool {
        self.of(Outcome::Translated) == 1 && self.of(Outcome::OriginLost) == 0
    }
}

const fn shows_peers(hook: Hook) -> bool {
    matches!(hook, Hook::GetPeerName4 | Hook::GetPeerName6)
}

/// What an application dials that passes this hook on its way to the frontend; nothing where none does.
fn dialled_by(hook: Hook, frontend: &Frontend) -> Option<SocketAddr> {
    let (address, port) = (frontend.address, frontend.port);
    // IPv6 sockets dial IPv4 as well, v4-mapped, and pass the hooks of IPv6; their datagrams those of IPv4.
    let by_v6 = || SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(address.octets()), port, 0, 0));
    let by_its_family = || SocketAddr::new(address.into(), port);
    match hook {
        Hook::Connect4 | Hook::GetPeerName4 => address.is_ipv4().then(by_its_family),
        Hook::Connect6 | Hook::GetPeerName6 => Some(by_v6()),
        Hook::SendMsg4 if frontend.protocol == Protocol::Udp => address.is_ipv4().then(by_its_family),
        Hook::SendMsg6 if frontend.protocol == Protocol::Udp => (!address.is_ipv4()).then(by_its_family),
        Hook::SendMsg4 | Hook::SendMsg6 | Hook::RecvMsg4 | Hook::RecvMsg6 => None,
    }
}

/// A socket that sends nothing, whatever is done with it here.
struct Socket(OwnedFd);

impl Socket {
    fn new(to: SocketAddr, protocol: Protocol) -> io::Result<Self> {
        let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let kind = match protocol {
            Protocol::Tcp => libc::SOCK_STREAM,
            Protocol::Udp => libc::SOCK_DGRAM,
        };
        // SAFETY: the call takes no addresses.
        let fd =
            checked(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
        // SAFETY: the kernel has just given us this descriptor.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        if protocol == Protocol::Tcp {
            socket.set(libc::IPPROTO_TCP, libc::TCP_REPAIR, 1)?;
        }
        Ok(socket)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("a few bytes");
        let value: *const libc::c_int = &raw const value;
        // SAFETY: the option takes an int, which outlives the call.
        checked(unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, value.cast(), length) })
            .map(drop)
    }

    /// Without a route this fails, after the hooks.
    fn dial(&self, hook: Hook, to: SocketAddr) -> io::Result<()> {
        let (address, length) = address(to);
        let fd = self.0.as_raw_fd();
        let address: *const libc::sockaddr_in6 = &raw const address;
        if matches!(hook, Hook::SendMsg4 | Hook::SendMsg6) {
            const MSG_PROBE: libc::c_int = 0x10;
            let flags = MSG_PROBE | libc::MSG_CONFIRM;
            // SAFETY: nothing is read from the buffer, whose length is 0; the address outlives the call.
            let sent = unsafe { libc::sendto(fd, std::ptr::null(), 0, flags, address.cast(), length) };
            return if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        }
        // SAFETY: the address is of the length that is given, and outlives the call.
        checked(unsafe { libc::connect(fd, address.cast(), length) }).map(drop)
    }

    /// Whether an application that asks for its peer sees what it dialled; nothing where there is no connection.
    fn shown(&self, dialled: SocketAddr, outcome: io::Result<()>) -> Option<Met> {
        outcome.ok()?;
        let (mut found, mut length) = address(dialled);
        let wanted = found;
        // SAFETY: the address has room for `length` bytes.
        let asked =
            unsafe { libc::getpeername(self.0.as_raw_fd(), (&raw mut found).cast(), &raw mut length) };
        checked(asked).ok()?;
        let same = found.sin6_port == wanted.sin6_port
            && match dialled {
                // Where `struct sockaddr_in` has its address.
                SocketAddr::V4(_) => found.sin6_flowinfo == wanted.sin6_flowinfo,
                SocketAddr::V6(_) => found.sin6_addr.s6_addr == wanted.sin6_addr.s6_addr,
            };
        Some(if same { Met::Ours } else { Met::Taken })
    }
}

/// An address as the kernel takes it, in room for either family.
fn address(of: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    let mut address = libc::sockaddr_in6 {
        sin6_family: 0,
        sin6_port: of.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
        sin6_scope_id: 0,
    };
    let (family, length) = match of {
        SocketAddr::V4(of) => {
            // IPv4's address lies behind the port too.
            address.sin6_flowinfo = u32::from_ne_bytes(of.ip().octets());
            (libc::AF_INET, size_of::<libc::sockaddr_in>())
        }
        SocketAddr::V6(of) => {
            address.sin6_addr.s6_addr = of.ip().octets();
            (libc::AF_INET6, size_of::<libc::sockaddr_in6>())
        }
    };
    address.sin6_family = libc::sa_family_t::try_from(family).expect("families are small");
    (address, libc::socklen_t::try_from(length).expect("a few bytes"))
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
