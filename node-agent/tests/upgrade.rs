//! Upgrades and rollbacks under load, with the objects of earlier versions: no connect fails, and what the layout
//! allows to keep is kept.
//!
//! Of earlier versions the objects and their maps are real. When their agents write and remove pins is this test's doing, and so
//! not shown.
//!
//! The frontend has no route: a connect that is not translated fails at once.

#![allow(clippy::unwrap_used, clippy::panic)]

mod one_backend;
mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramError};
use aya::{Ebpf, EbpfLoader};
use mesh_abi::{
    BackendEntry, CLUSTER_DEMOTED, EarlierCell, EarlierEntry, LAYOUT, Outcome, PROTOCOL_TCP, STATE_ACTIVE,
    ServiceEntry, ServiceKey, SlotEntry, alias_cells,
};
use mesh_model::address::Address;
use node_agent::datapath::actual::Actual;
use node_agent::datapath::apply::apply;
use node_agent::datapath::maps::{Maps, NAMES, instance_dir};
use node_agent::datapath::programs::{Found, HOOKS};
use node_agent::install::Installed;
use socket2::SockRef;

use one_backend::{FRONTEND, frontend, plan};
use support::{Bytes, CAPACITY, INSTANCE, World, outcome, server, wait_until};

/// Connects between two changes.
const BETWEEN: u64 = 200;

const UNMASKED: &str = "the application saw";

/// Dials all the time, from a thread of the test's namespace and cgroup.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Vec<String>>,
}

impl Load {
    fn start(backend: &TcpListener) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let backend = backend.try_clone().unwrap();
        let (stopped, count) = (stop.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                failures.extend(dial(&backend).err());
                count.fetch_add(1, Ordering::Relaxed);
            }
            failures
        });
        Self { stop, done, thread }
    }

    /// Lets some more connects pass.
    fn go_on(&self) {
        let target = self.done.load(Ordering::Relaxed) + BETWEEN;
        let passed = wait_until(Duration::from_secs(60), || self.done.load(Ordering::Relaxed) >= target);
        assert!(passed, "the load does not go on");
    }

    /// How many connects there were and how many of them saw the backend instead of the frontend; none failed.
    fn end(self) -> (u64, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap();
        let done = self.done.load(Ordering::Relaxed);
        let (unmasked, failures): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|seen| seen.starts_with(UNMASKED));
        assert!(failures.is_empty(), "{} of {done} connects: {:?}", failures.len(), failures.first());
        (done, unmasked.len())
    }
}

fn dial(backend: &TcpListener) -> Result<(), String> {
    let connection = TcpStream::connect(FRONTEND).map_err(|error| error.to_string())?;
    SockRef::from(&connection).set_linger(Some(Duration::ZERO)).map_err(|error| error.to_string())?;
    let seen = connection.peer_addr().map_err(|error| error.to_string())?;
    drop(connection);
    while backend.accept().is_ok() {}
    if seen == FRONTEND.parse().unwrap() { Ok(()) } else { Err(format!("{UNMASKED} {seen}")) }
}

/// The object of the version before, which this version's user space can run; where no earlier one has the same
/// layout and programs, the present one under another name: what stands behind an object's end means nothing.
fn previous() -> &'static [u8] {
    let present = manifest("../ebpf/object/mesh.bpf.o");
    let earlier = fs::read(manifest(&format!("tests/fixtures/mesh-v{LAYOUT}.bpf.o"))).unwrap_or_default();
    let runs = |object: &[u8]| {
        let holds = |name: &str| object.windows(name.len()).any(|window| window == name.as_bytes());
        HOOKS.iter().chain(&NAMES).all(|name| holds(name))
    };
    let mut object = if runs(&earlier) { earlier } else { fs::read(present).unwrap() };
    object.push(0);
    object.leak()
}

fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn layouts(world: &World) -> Vec<String> {
    let entries = fs::read_dir(instance_dir(&world.bpffs, INSTANCE)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn programs_of_one_layout_are_swapped_and_swapped_back_without_a_gap() {
    let world = World::new();
    let backend = server("127.0.1.1:8080");
    let earlier = world.installation().with_object(previous());
    let Found::Built { mut maps, old: None } = earlier.maps(CAPACITY).unwrap() else { panic!("a new world") };
    assert!(earlier.attach(&mut maps).unwrap());
    let mut actual = Actual::new(CAPACITY);
    apply(&mut maps.services, &plan(&mut actual, &backend)).unwrap();
    let established = TcpStream::connect(FRONTEND).unwrap();

    let load = Load::start(&backend);
    for turn in 0..10 {
        load.go_on();
        let next =
            if turn % 2 == 0 { world.installation() } else { world.installation().with_object(previous()) };
        let Found::Adopted(mut maps) = next.maps(CAPACITY).unwrap() else { panic!("the maps stay") };
        assert!(next.attach(&mut maps).unwrap(), "turn {turn}: the other object's programs run already");
        assert!(!next.attach(&mut maps).unwrap());
    }
    load.go_on();
    let (connects, unmasked) = load.end();
    assert_eq!(unmasked, 0);
    let connects = connects + 1;

    let group = &actual.held(&frontend()).unwrap().groups[0];
    let maps = Maps::open_pinned(&world.bpffs, INSTANCE).unwrap();
    assert_eq!(
        maps.services.read_counters(&[group.counter]).unwrap()[0].connections,
        connects,
        "counters are kept"
    );
    assert_eq!(outcome(&maps, Outcome::Translated), connects);
    assert_eq!(outcome(&maps, Outcome::NotAService), 0);
    assert_eq!(established.peer_addr().unwrap(), FRONTEND.parse().unwrap(), "connections are kept");
}

#[test]
fn an_upgrade_from_layout_1_moves_its_content_and_removes_its_pins() {
    upgrade_from(1);
}

#[test]
fn an_upgrade_from_the_layout_before_moves_its_content_and_removes_its_pins() {
    upgrade_from(LAYOUT - 1);
}

fn upgrade_from(layout: u32) {
    let world = World::new();
    let backend = server("127.0.1.1:8080");
    let Some(earlier) = Earlier::start(&world, layout, &backend) else {
        println!(
            "NOT RUN: this kernel does not load the programs of layout {layout}: nothing to upgrade from"
        );
        return;
    };
    let load = Load::start(&backend);
    load.go_on();
    let installed = world.installed("");
    assert!(installed.retiring.is_empty());
    assert_eq!(layouts(&world), [format!("v{LAYOUT}")], "the old pins are gone");
    load.go_on();
    // Not a trace of the old programs and maps is needed.
    drop(earlier);
    load.go_on();
    let (_, unmasked) = load.end();
    // What a connection had dialled stands in the old maps: the one under way while they go shows its backend.
    assert!(unmasked <= 1, "{unmasked}");

    let held = installed.actual.held(&frontend()).expect("the content was moved");
    assert_eq!((held.groups.len(), held.groups[0].cluster.value(), held.groups[0].len()), (1, 1, 1));
    let (key, state) = installed.actual.members(&held.groups[0]).next().unwrap();
    let place = SocketAddr::new(Address::from(key.address).into(), key.port);
    assert_eq!((place, state), (backend.local_addr().unwrap(), STATE_ACTIVE));
    assert_eq!(installed.maps.clusters.read().unwrap().state[7], CLUSTER_DEMOTED, "verdicts are moved too");
    assert!(outcome(&installed.maps, Outcome::Translated) > 0, "the new programs translate");
}

#[test]
fn a_rollback_from_a_newer_layout_keeps_its_programs_until_the_own_maps_are_full() {
    let world = World::new();
    let backend = server("127.0.1.1:8080");
    let Installed { mut maps, mut actual, .. } = world.installed("");
    apply(&mut maps.services, &plan(&mut actual, &backend)).unwrap();
    // From here on it is a layout that nobody here knows.
    let instance = instance_dir(&world.bpffs, INSTANCE);
    fs::rename(instance.join(format!("v{LAYOUT}")), instance.join("v4000000000")).unwrap();

    let load = Load::start(&backend);
    load.go_on();
    let mut installed = world.installed("");
    assert_eq!(installed.actual.frontend_count(), 0, "nothing could be read");
    load.go_on();
    let now = Instant::now();
    installed.retiring.pass(false, true, now);
    assert_eq!(layouts(&world).len(), 2);
    load.go_on();
    let plan = plan(&mut installed.actual, &backend);
    apply(&mut installed.maps.services, &plan).unwrap();
    installed.retiring.pass(true, true, now);
    assert_eq!(layouts(&world), [format!("v{LAYOUT}")]);
    drop(maps);
    load.go_on();
    let (_, unmasked) = load.end();
    // What a connection had dialled stands in the old maps: the one under way while they go shows its backend.
    assert!(unmasked <= 1, "{unmasked}");
    let group = &installed.actual.held(&frontend()).unwrap().groups[0];
    assert!(installed.maps.services.read_counters(&[group.counter]).unwrap()[0].connections >= BETWEEN);
}

#[test]
fn a_rollback_to_the_layout_before_and_an_upgrade_after_it_cost_no_connection() {
    let world = World::new();
    let backend = server("127.0.1.1:8080");
    let Installed { installation, mut maps, mut actual, .. } = world.installed("");
    apply(&mut maps.services, &plan(&mut actual, &backend)).unwrap();
    let mut client = TcpStream::connect(FRONTEND).unwrap();
    let (mut served, _) = backend.accept().unwrap();
    served.set_nonblocking(false).unwrap();

    let load = Load::start(&backend);
    load.go_on();
    // As every agent does with the pins of a layout that it does not know: its own programs come beside the others, which
    // serve until the own maps are full.
    let Some(earlier) = Earlier::start(&world, LAYOUT - 1, &backend) else {
        println!(
            "NOT RUN: this kernel does not load the programs of the layout before: nothing to go back to"
        );
        load.end();
        return;
    };
    load.go_on();
    let newer = instance_dir(&world.bpffs, INSTANCE).join(format!("v{LAYOUT}"));
    for part in ["links", "maps"] {
        fs::remove_dir_all(newer.join(part)).unwrap();
        load.go_on();
    }
    fs::remove_dir_all(newer).unwrap();
    drop((installation, maps));
    load.go_on();
    assert_eq!(layouts(&world), [format!("v{}", LAYOUT - 1)], "the earlier programs are alone");
    exchange(&mut client, &mut served);

    let installed = world.installed("");
    assert!(installed.actual.held(&frontend()).is_some(), "the content was moved");
    drop(earlier);
    load.go_on();
    assert_eq!(layouts(&world), [format!("v{LAYOUT}")]);
    exchange(&mut client, &mut served);
    let (_, unmasked) = load.end();
    // One under way in each direction.
    assert!(unmasked <= 2, "{unmasked}");
}

/// A connection that stands carries data in both directions.
fn exchange(client: &mut TcpStream, served: &mut TcpStream) {
    send(client, served);
    send(served, client);
}

fn send(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"ping").unwrap();
    to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut text = [0; 4];
    to.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ping");
}

/// An agent of an earlier layout, as far as its programs can tell.
struct Earlier {
    _programs: Ebpf,
}

impl Earlier {
    /// Nothing where they are more than this kernel's verifier is willing to follow: no agent ever ran them there.
    fn start(world: &World, layout: u32, backend: &TcpListener) -> Option<Self> {
        let folder = instance_dir(&world.bpffs, INSTANCE).join(format!("v{layout}"));
        for part in ["maps", "links"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let object = fs::read(manifest(&format!("tests/fixtures/mesh-v{layout}.bpf.o"))).unwrap();
        let mut programs = load(&object, &folder.join("maps"));
        let cgroup = File::open(&world.cgroup).unwrap();
        for name in ["mesh_connect4", "mesh_connect6", "mesh_peername4", "mesh_peername6"] {
            let program: &mut CgroupSockAddr = programs.program_mut(name).unwrap().try_into().unwrap();
            match program.load() {
                Err(ProgramError::LoadError { io_error, .. })
                    if io_error.raw_os_error() == Some(libc::E2BIG) =>
                {
                    return None;
                }
                loaded => loaded.unwrap(),
            }
            let id = program.attach(&cgroup, CgroupAttachMode::Single).unwrap();
            let link: FdLink = program.take_link(id).unwrap().try_into().unwrap();
            link.pin(folder.join("links").join(name)).unwrap();
        }
        fill(&mut programs, layout, backend);
        Some(Self { _programs: programs })
    }
}

fn load(object: &[u8], pins: &Path) -> Ebpf {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for name in ["SERVICES", "SLOTS", "BACKENDS", "CLUSTERS", "CONTROL", "COUNTERS", "OUTCOMES", "ORIGINS"] {
        loader.map_pin_path(name, pins.join(name));
    }
    for (name, size) in [("SERVICES", 64), ("SLOTS", 1024), ("BACKENDS", 256), ("COUNTERS", 64)] {
        loader.map_max_entries(name, size);
    }
    loader.load(object).unwrap()
}

fn insert<V: mesh_abi::Plain>(map: Map, entries: impl Iterator<Item = (ServiceKey, V)>) {
    let mut services: HashMap<MapData, Bytes<ServiceKey>, Bytes<V>> = map.try_into().unwrap();
    entries.for_each(|(key, value)| services.insert(Bytes(key), Bytes(value), 0).unwrap());
}

/// The entry as layouts up to 6 had it.
fn earlier(entry: &ServiceEntry) -> EarlierEntry {
    let &ServiceEntry { head, key, group_count, flags, groups, tail } = entry;
    EarlierEntry { head, key, group_count, flags, zero: [0; 2], cells: alias_cells(&groups), groups, tail }
}

/// Writes what that version's agent would: entries were what they are, and in layout 1 nothing was around them.
fn fill(programs: &mut Ebpf, layout: u32, backend: &TcpListener) {
    let mut actual = Actual::new(CAPACITY);
    let plan = plan(&mut actual, backend);
    let map = |programs: &mut Ebpf, name| programs.take_map(name).unwrap();
    let mut backends: Array<MapData, Bytes<BackendEntry>> = map(programs, "BACKENDS").try_into().unwrap();
    plan.backends.iter().for_each(|(id, entry)| backends.set(*id, Bytes(*entry), 0).unwrap());
    assert!(plan.backends.iter().all(|(_, entry)| entry.protocol == PROTOCOL_TCP));
    let mut slots: Array<MapData, Bytes<SlotEntry>> = map(programs, "SLOTS").try_into().unwrap();
    plan.slots.iter().for_each(|(index, entry)| slots.set(*index, Bytes(*entry), 0).unwrap());
    match layout {
        1 => {
            let entries = plan.services.iter().map(|(key, entry)| (*key, earlier(entry)));
            insert(map(programs, "SERVICES"), entries);
        }
        _ => {
            let cell = |entry| EarlierCell { lock: Default::default(), current: 0, versions: [entry; 2] };
            let cells = plan.services.iter().map(|(key, entry)| (*key, cell(earlier(entry))));
            insert(map(programs, "SERVICES"), cells);
        }
    }
    let mut clusters: Array<MapData, [u32; mesh_abi::MAX_CLUSTERS]> =
        map(programs, "CLUSTERS").try_into().unwrap();
    let mut states = [0; mesh_abi::MAX_CLUSTERS];
    states[7] = CLUSTER_DEMOTED;
    clusters.set(0, states, 0).unwrap();
}
