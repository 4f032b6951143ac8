//! A world of its own for each test of the hooks: a network namespace without any way out, a bpf file system
//! that vanishes with the thread, and a fresh cgroup that the test process is in while the test runs.
//!
//! Tests that need it fail with a clear message where it can't be had; none is skipped.

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod foreign;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use clap::Parser;
use mesh_abi::{
    BackendEntry, Control, Group, LAYOUT, MAX_GROUPS, Outcome, PROTOCOL_TCP, PROTOCOL_UDP, STATE_ACTIVE,
    ServiceEntry, ServiceKey, SlotEntry, Stamp,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use node_agent::admin::events::Events;
use node_agent::config::DatapathArgs;
use node_agent::datapath::actual::Capacity;
use node_agent::datapath::maps::{Datapath, Maps};
use node_agent::datapath::programs::{Found, Installation};
use node_agent::install::{Installed, install_with};

/// The instance whose pins the tests make.
pub(crate) const INSTANCE: &str = "hooks";
/// Small, so that building them takes no time.
pub(crate) const CAPACITY: Capacity = Capacity { services: 64, slots: 1024, backends: 256, counters: 64 };

pub(crate) const REPLIES: u32 = 64;

/// The cgroup is the process's, so one test runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a test runs in; gone when dropped.
pub(crate) struct World {
    pub(crate) bpffs: PathBuf,
    pub(crate) cgroup: PathBuf,
    home: PathBuf,
    _scratch: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    pub(crate) fn new() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        unshare(flags).expect("these tests need root: they make namespaces, cgroups and load eBPF programs");
        set_up_network();
        let scratch = tempfile::tempdir().unwrap();
        let bpffs = scratch.path().join("bpf");
        fs::create_dir(&bpffs).unwrap();
        mount_bpffs(&bpffs);
        let home = own_cgroup();
        let cgroup = cgroup_root().join(format!("clustermesh-hooks-{}", std::process::id()));
        fs::create_dir(&cgroup).expect("these tests need a writable cgroup v2");
        enter(&cgroup);
        Self { bpffs, cgroup, home, _scratch: scratch, _turn: turn }
    }

    pub(crate) fn installation(&self) -> Installation {
        Installation::new(&self.bpffs, INSTANCE, Some(&self.cgroup)).unwrap().with_replies(REPLIES)
    }

    /// Builds the maps, and attaches the programs to them.
    pub(crate) fn attached(&self) -> Box<Maps> {
        self.attached_with(CAPACITY)
    }

    /// As on a kernel that lets nobody choose a place among the programs of others.
    pub(crate) fn attached_in_turn(&self) -> Box<Maps> {
        self.attached_by(&self.installation().in_turn(), CAPACITY)
    }

    /// The same with maps of other sizes.
    pub(crate) fn attached_with(&self, capacity: Capacity) -> Box<Maps> {
        self.attached_by(&self.installation(), capacity)
    }

    fn attached_by(&self, installation: &Installation, capacity: Capacity) -> Box<Maps> {
        let Found::Built { mut maps, old: None } = installation.maps(capacity).unwrap() else {
            panic!("a new world holds maps already")
        };
        assert!(installation.attach(&mut maps).unwrap());
        Maps::open_pinned(&self.bpffs, INSTANCE).map(Box::new).unwrap()
    }

    /// As an agent with these flags beside the usual ones installs it.
    pub(crate) fn installed(&self, flags: &str) -> Installed {
        self.installed_with(CAPACITY, flags)
    }

    /// The same with maps of other sizes.
    pub(crate) fn installed_with(&self, capacity: Capacity, flags: &str) -> Installed {
        #[derive(Parser)]
        struct Args {
            #[command(flatten)]
            datapath: DatapathArgs,
        }
        let Capacity { services, slots, backends, counters } = capacity;
        let args = format!(
            "test --node-name n --max-services {services} --max-slots {slots} --max-backends {backends} \
             --max-counters {counters} {flags}"
        );
        let args = Args::parse_from(args.split_whitespace()).datapath;
        install_with(self.installation(), &args, &Events::default()).unwrap()
    }

    /// Leaves the programs' cgroup.
    pub(crate) fn leave(&self) {
        enter(&self.home);
    }

    /// Takes a program off its cgroup as somebody else could; its pin stays.
    pub(crate) fn detach(&self, program: &str) {
        const OBJ_GET: i32 = 7;
        const LINK_DETACH: i32 = 34;
        let path = std::ffi::CString::new(self.pin("links", program).to_str().unwrap()).unwrap();
        let link = u64::try_from(bpf(OBJ_GET, &mut [path.as_ptr() as u64, 0])).unwrap();
        bpf(LINK_DETACH, &mut [link, 0]);
    }

    /// How many programs run for the world's cgroup at a hook of this attach type.
    pub(crate) fn effective(&self, attach_type: u64) -> u64 {
        const PROG_QUERY: i32 = 16;
        const EFFECTIVE: u64 = 1;
        let cgroup = fs::File::open(&self.cgroup).unwrap();
        let target = u64::try_from(cgroup.as_raw_fd()).unwrap();
        let mut attr = [target | attach_type << 32, EFFECTIVE, 0, 0, 0, 0, 0, 0];
        bpf(PROG_QUERY, &mut attr);
        attr[3]
    }

    pub(crate) fn pin(&self, kind: &str, name: &str) -> PathBuf {
        self.bpffs.join("clustermesh").join(INSTANCE).join(format!("v{LAYOUT}")).join(kind).join(name)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        enter(&self.home);
        // Children that were in it may still be on their way out.
        let gone = wait_until(Duration::from_secs(5), || fs::remove_dir(&self.cgroup).is_ok());
        if !gone && !std::thread::panicking() {
            panic!("cgroup {} could not be removed", self.cgroup.display());
        }
    }
}

/// A cgroup below the world's, as the agent's or a pod's.
pub(crate) struct Below(pub(crate) PathBuf);

impl Below {
    pub(crate) fn new(world: &World, name: &str) -> Self {
        let path = world.cgroup.join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn enter(&self) {
        enter(&self.0);
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        enter(self.0.parent().unwrap());
        wait_until(Duration::from_secs(5), || fs::remove_dir(&self.0).is_ok());
    }
}

/// Numbers of capabilities (capabilities(7)).
pub(crate) const NET_ADMIN: u32 = 12;
pub(crate) const PERFMON: u32 = 38;
pub(crate) const BPF: u32 = 39;

/// Takes all other capabilities away from this thread.
#[allow(unsafe_code, reason = "std knows no capabilities")]
pub(crate) fn keep_capabilities(kept: &[u32]) {
    // `_LINUX_CAPABILITY_VERSION_3`, and this thread.
    let header = [0x2008_0522_u32, 0];
    let bits = kept.iter().fold(0_u64, |bits, capability| bits | 1 << capability);
    let [low, high] = [bits as u32, (bits >> 32) as u32];
    // Effective, permitted, inheritable: of the lower half, then of the upper.
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: header and sets are as the call takes them, and outlive it.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const sets) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Polls until the predicate holds or the time is over; says which.
pub(crate) fn wait_until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
}

fn set_up_network() {
    let lines = [
        "link set lo up",
        "addr add fd00::1/128 dev lo nodad",
        "addr add fd00::2/128 dev lo nodad",
        "route add prohibit 198.18.1.0/24",
        "route add unreachable 198.18.2.0/24",
        "route add blackhole 198.18.3.0/24",
    ];
    for line in lines {
        let done = Command::new("ip").args(line.split(' ')).status().expect("these tests need iproute2");
        assert!(done.success(), "ip {line}");
    }
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535").unwrap();
}

fn mount_bpffs(path: &Path) {
    // Nothing that is mounted here shows elsewhere, and all of it goes with the thread.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), None::<&str>)
        .expect("these tests need the bpf file system");
}

fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    PathBuf::from(line.expect("these tests need cgroup v2").split(' ').nth(1).unwrap())
}

#[allow(unsafe_code)]
fn bpf<const N: usize>(command: i32, attr: &mut [u64; N]) -> i64 {
    // SAFETY: the callers' addresses outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of_val(attr)) };
    assert!(result >= 0, "bpf {command}: {}", std::io::Error::last_os_error());
    result
}

fn own_cgroup() -> PathBuf {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup v2 has every process");
    cgroup_root().join(path)
}

fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

/// Where a backend is.
pub(crate) trait Place {
    fn place(&self) -> SocketAddr;
}

impl Place for SocketAddr {
    fn place(&self) -> SocketAddr {
        *self
    }
}

impl Place for TcpListener {
    fn place(&self) -> SocketAddr {
        self.local_addr().unwrap()
    }
}

impl Place for UdpSocket {
    fn place(&self) -> SocketAddr {
        self.local_addr().unwrap()
    }
}

/// A service entry in the making, with its backends and slots.
#[derive(Clone)]
pub(crate) struct Service {
    id: u32,
    key: ServiceKey,
    pub(crate) flags: u8,
    groups: Vec<Group>,
    slots: Vec<(u32, SlotEntry)>,
    backends: Vec<(u32, BackendEntry)>,
    /// First slot, backend id and counter that are the service's own: sixteen of each.
    base: u32,
}

impl Service {
    /// A service of that id, which stands below 16.
    pub(crate) fn new(id: u32, frontend: &str) -> Self {
        Self::of(PROTOCOL_TCP, id, frontend)
    }

    /// The same for UDP.
    pub(crate) fn udp(id: u32, frontend: &str) -> Self {
        Self::of(PROTOCOL_UDP, id, frontend)
    }

    fn of(protocol: u8, id: u32, frontend: &str) -> Self {
        let frontend: SocketAddr = frontend.parse().unwrap();
        let key = ServiceKey::new(octets(frontend.ip()), frontend.port(), protocol);
        let (groups, slots, backends) = (Vec::new(), Vec::new(), Vec::new());
        Self { id, key, flags: 0, groups, slots, backends, base: id * 16 }
    }

    /// Adds a group of active backends.
    #[must_use]
    pub(crate) fn group<P: Place>(self, cluster: u16, tier: u8, weight: u32, backends: &[&P]) -> Self {
        let backends: Vec<_> = backends.iter().map(|backend| (*backend, STATE_ACTIVE)).collect();
        self.mixed(cluster, tier, weight, &backends)
    }

    /// Adds a group of backends with their states.
    #[must_use]
    pub(crate) fn mixed<P: Place>(
        mut self,
        cluster: u16,
        tier: u8,
        weight: u32,
        backends: &[(&P, u32)],
    ) -> Self {
        let first = self.base + u32::try_from(self.slots.len()).unwrap();
        let counter = self.base + u32::try_from(self.groups.len()).unwrap();
        for (backend, state) in backends {
            let address = backend.place();
            let id = self.base + u32::try_from(self.backends.len()).unwrap() + 1;
            let (address, port) = (octets(address.ip()), address.port().to_be_bytes());
            let entry = BackendEntry {
                address,
                port,
                cluster,
                protocol: self.key.protocol,
                state: *state,
                ..Default::default()
            };
            self.backends.push((id, entry));
            let slot = self.base + u32::try_from(self.slots.len()).unwrap();
            self.slots.push((slot, SlotEntry { backend: id, service: self.id }));
        }
        let count = u32::try_from(backends.len()).unwrap();
        self.groups.push(Group { cluster, tier, zero: 0, weight, first, count, counter });
        self
    }

    #[must_use]
    pub(crate) fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn key(&self) -> ServiceKey {
        self.key
    }

    /// Index of the counter of the group that was added at `index`.
    pub(crate) fn counter(&self, index: usize) -> u32 {
        self.groups[index].counter
    }

    pub(crate) fn entry(&self) -> ServiceEntry {
        let mut groups = [Group::default(); MAX_GROUPS];
        groups[..self.groups.len()].copy_from_slice(&self.groups);
        let stamp = Stamp { id: self.id, generation: 1 };
        let group_count = u8::try_from(self.groups.len()).unwrap();
        ServiceEntry { head: stamp, key: self.key, group_count, flags: self.flags, groups, tail: stamp }
    }

    /// Writes backends, slots and entry, in the order that is safe for readers.
    pub(crate) fn write(&self, maps: &mut Maps) {
        assert!(maps.services.write_backends(&self.backends).is_empty());
        assert!(maps.services.write_slots(&self.slots).is_empty());
        assert!(maps.services.write_services(&[(self.key, self.entry())]).is_empty());
    }

    pub(crate) fn set_state(&mut self, maps: &mut Maps, index: usize, state: u32) {
        self.backends[index].1.state = state;
        assert!(maps.services.write_backends(&self.backends[index..=index]).is_empty());
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A server that accepts nothing by itself: the kernel completes handshakes on its own.
pub(crate) fn server(address: &str) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Dials, and says which of the servers got the connection.
pub(crate) fn dial(frontend: &str, servers: &[&TcpListener]) -> std::io::Result<usize> {
    let connection = TcpStream::connect(frontend)?;
    let dialler = connection.local_addr()?;
    let mut got = None;
    let arrived = wait_until(Duration::from_secs(5), || {
        let accepted =
            servers.iter().position(|server| server.accept().is_ok_and(|(_, from)| same(from, dialler)));
        got = accepted.or(got);
        got.is_some()
    });
    assert!(arrived, "{frontend}: connected to none of the servers");
    // What the application sees is what it dialled.
    assert_eq!(connection.peer_addr()?, frontend.parse().unwrap());
    Ok(got.unwrap())
}

/// A v6 socket that dialled v4-mapped shows a v4-mapped address of its own.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
}

/// Dials that often, and counts which server got how many.
pub(crate) fn shares(frontend: &str, servers: &[&TcpListener], times: u32) -> Vec<u32> {
    let mut counts = vec![0; servers.len()];
    for _ in 0..times {
        counts[dial(frontend, servers).unwrap()] += 1;
    }
    counts
}

pub(crate) fn outcome(maps: &Maps, outcome: Outcome) -> u64 {
    maps.outcomes.read().unwrap()[outcome as usize]
}

/// An agent's heartbeat that is `age_ns` old, with a limit of ten seconds.
pub(crate) fn beat(maps: &mut Maps, age_ns: u64) {
    let heartbeat_ns = node_agent::datapath::sys::monotonic_ns().saturating_sub(age_ns);
    let yield_after_ns = 10_000_000_000;
    maps.control.write(&Control { heartbeat_ns, yield_after_ns, ..maps.control.read().unwrap() }).unwrap();
}

/// An IPv4 socket address as the kernel takes it.
fn sockaddr(family: i32, address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: u16::try_from(family).unwrap(),
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// `connect(2)` of any socket, also of one that is or was connected.
#[allow(unsafe_code, reason = "std can't connect a socket twice")]
fn connect(socket: &impl AsRawFd, to: &libc::sockaddr_in) -> std::io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(to)).unwrap();
    // SAFETY: the address is a valid sockaddr_in of that length, which the kernel only reads.
    let done = unsafe { libc::connect(socket.as_raw_fd(), (&raw const *to).cast(), length) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A TCP socket that dials where no route leads, again and again: a run of the hooks for a microsecond, without
/// a packet. What the kernel answers tells the routes apart: see [`UNROUTED`].
pub(crate) struct Dialler(OwnedFd);

/// Networks whose routes lead nowhere, and what the kernel answers whoever dials there. Without any route it
/// answers ENETUNREACH.
pub(crate) const UNROUTED: [(&str, i32); 3] =
    [("198.18.1", libc::EACCES), ("198.18.2", libc::EHOSTUNREACH), ("198.18.3", libc::EINVAL)];

impl Dialler {
    #[allow(unsafe_code, reason = "std has no socket that is not connected")]
    pub(crate) fn new() -> Self {
        // SAFETY: the call takes no addresses.
        let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the kernel has just given us this descriptor.
        Self(unsafe { OwnedFd::from_raw_fd(socket) })
    }

    /// Dials, and says what the kernel answered.
    pub(crate) fn dial(&self, frontend: SocketAddrV4) -> i32 {
        connect(&self.0, &sockaddr(libc::AF_INET, frontend)).unwrap_err().raw_os_error().unwrap()
    }
}

/// Dissolves a socket's connection (`connect` to AF_UNSPEC) and dials another IPv4 address with it.
pub(crate) fn reconnect(socket: &impl AsRawFd, to: &str) {
    let nowhere = sockaddr(libc::AF_UNSPEC, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    for address in [nowhere, sockaddr(libc::AF_INET, to.parse().unwrap())] {
        connect(socket, &address).unwrap();
    }
}

/// Lets aya read and write what is plain bytes anyway.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Bytes<T>(pub(crate) T);

#[allow(unsafe_code, reason = "aya asks for a promise that mesh-abi has made already")]
// SAFETY: `Plain` promises the same: no padding, no references, every bit pattern valid.
unsafe impl<T: mesh_abi::Plain> aya::Pod for Bytes<T> {}

/// Looks at the owners of all cells, and may change them. On a thread whose stack has room for some copies of them.
pub(crate) fn with_owners<T: Send>(
    world: &World,
    work: impl FnOnce(&mut [u64; mesh_abi::CELLS]) -> T + Send,
) -> T {
    with_sockets(world, |sockets| work(&mut sockets.owners))
}

/// Sockets that are counted as having storage.
pub(crate) fn counted_sockets(world: &World) -> u32 {
    with_sockets(world, |sockets| sockets.stored.iter().sum())
}

fn with_sockets<T: Send>(world: &World, work: impl FnOnce(&mut mesh_abi::Sockets) -> T + Send) -> T {
    let pin = world.pin("maps", "SOCKETS");
    let look = || {
        let map = aya::maps::Map::Array(aya::maps::MapData::from_pin(pin).unwrap());
        let mut sockets: aya::maps::Array<_, Bytes<mesh_abi::Sockets>> = map.try_into().unwrap();
        let mut all = sockets.get(&0, 0).unwrap();
        let before = all.0.owners;
        let result = work(&mut all.0);
        if all.0.owners != before {
            sockets.set(0, all, 0).unwrap();
        }
        result
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, look);
        thread.unwrap().join().unwrap()
    })
}

/// Cells that belong to a socket.
pub(crate) fn cells_in_use(world: &World) -> usize {
    with_owners(world, |owners| owners.iter().filter(|owner| **owner != 0).count())
}
