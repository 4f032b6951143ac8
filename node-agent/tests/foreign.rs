//! Programs of somebody else at our hooks: what the agent sees of them, and what it says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends there")]

mod support;

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_abi::FLAG_CANARY;
use mesh_admin::Hook;
use mesh_admin::api::{Event, HookPrograms, Runs};
use mesh_runtime::{Condition, Readiness};
use node_agent::admin::events::Events;
use node_agent::datapath::canary::{Canary, Seen};
use node_agent::datapath::hook_order::Foreign;
use node_agent::datapath::maps::Maps;
use node_agent::datapath::packetless::Dialled;
use node_agent::datapath::programs::Installation;
use node_agent::hooks::watch::{Outputs, Watch};
use node_agent::metrics::Metrics;
use support::foreign::Program;
use support::{Below, Service, World, dial, server};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const CANARY: &str = "127.255.67.77:9";
const DEADLINE: Duration = Duration::from_secs(20);

fn canary(world: &World) -> Canary {
    let (links, maps) = (world.installation().links(), world.installation().pinned_maps());
    Canary { exe: env!("CARGO_BIN_EXE_node-agent").into(), cgroup: world.cgroup.clone(), links, maps }
}

/// The agent's cgroup below the one of the programs, with this thread in it until it is dropped.
fn agent_below(world: &World) -> Below {
    let below = Below::new(world, "agent");
    below.enter();
    below
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn look(world: &World) -> Seen {
    block_on(canary(world).probe())
}

fn foreign(world: &World) -> Vec<Foreign> {
    look(world).order.expect("the kernel says what runs").foreign
}

/// `BPF_F_PREORDER` and `BPF_F_BEFORE`.
const FIRST: u64 = 1 << 6 | 1 << 3;

/// Whether links can choose their place; says so where they can't.
fn links_can_choose(test: &str) -> bool {
    let features = node_agent::features::probe().items;
    let can = ["preorder", "before"];
    let can = can.iter().all(|name| features.iter().any(|feature| feature.name == *name && feature.present));
    if !can {
        println!("NOT RUN: {test}: this kernel lets no link choose its place");
    }
    can
}

#[test]
fn where_the_kernel_lets_one_choose_ours_comes_first() {
    if !links_can_choose("where_the_kernel_lets_one_choose_ours_comes_first") {
        return;
    }
    let world = World::new();
    let own = agent_below(&world);
    let theirs = server("127.0.0.1:0");
    let place = theirs.local_addr().unwrap().to_string();
    let _same = Program::taking(Hook::Connect4, "same", TCP4[0], &place).attach(&world.cgroup, 0);
    let _below = Program::taking(Hook::Connect4, "below", TCP4[0], &place).attach(&own.0, 0);
    let _first = Program::taking(Hook::Connect4, "first", TCP4[0], &place).attach(&world.cgroup, FIRST);
    let mut maps = world.attached();
    let services = Services::write(&mut maps);
    let found = foreign(&world);
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|foreign| !foreign.before), "{found:?}");
    assert_eq!(dial(TCP4[0], &[&services.servers[0]]).unwrap(), 0);
    // On every hook.
    let others = Hook::ALL.map(|hook| Program::passing(hook, "other").attach(&own.0, 0));
    assert!(foreign(&world).iter().all(|foreign| !foreign.before));
    drop(others);
}

#[test]
fn links_behind_others_are_replaced_at_a_start_and_no_connect_fails() {
    if !links_can_choose("links_behind_others_are_replaced_at_a_start_and_no_connect_fails") {
        return;
    }
    let world = World::new();
    let own = agent_below(&world);
    let _other = Program::passing(Hook::Connect4, "other").attach(&own.0, 0);
    let mut maps = world.attached_in_turn();
    let services = Services::write(&mut maps);
    assert!(foreign(&world)[0].before);
    let (installation, done) = (world.installation(), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            let mut dialled = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                TcpStream::connect(TCP4[0]).expect("there is no moment without our program");
                drop(services.servers[0].accept().expect("it gets to our backend"));
                dialled += 1;
            }
            dialled
        });
        assert!(installation.attach(&mut maps).unwrap(), "a link was replaced");
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(dialling.join().unwrap() > 0);
    });
    assert!(!foreign(&world)[0].before);
    assert!(!installation.attach(&mut maps).unwrap(), "nothing is left to do");
    assert_eq!(world.effective(10), 1, "one program of ours at connect4, for the world's cgroup");
    assert_eq!(dial(TCP4[0], &[&services.servers[0]]).unwrap(), 0);
}

#[test]
fn what_a_kill_left_of_a_replacement_is_taken_off() {
    let world = World::new();
    let mut maps = world.attached();
    let left = Program::passing(Hook::Connect4, "left").attach(&world.cgroup, 0);
    left.pin(&world.pin("links", "mesh_connect4_new"));
    assert_eq!(world.effective(10), 2);
    assert!(!world.installation().attach(&mut maps).unwrap(), "all links serve");
    assert_eq!(world.effective(10), 1);
    assert!(!world.pin("links", "mesh_connect4_new").exists());
}

#[test]
fn who_comes_before_us_while_we_run_is_passed_once() {
    if !links_can_choose("who_comes_before_us_while_we_run_is_passed_once") {
        return;
    }
    let world = World::new();
    let _own = agent_below(&world);
    let mut maps = world.attached();
    let services = Services::write(&mut maps);
    let takes =
        |name| Program::taking(Hook::Connect4, name, TCP4[0], "127.0.0.1:1").attach(&world.cgroup, FIRST);
    block_on(async {
        let mut watched = Watched::start_with(&world, world.installation(), false);
        watched.planned.ready();
        watched.until_ready(true).await;
        let first = takes("first");
        let passed = [(Runs::Ours, "mesh_connect4"), (Runs::Behind, "first")];
        watched.until("passed", |hooks| at(hooks, Hook::Connect4) == passed).await;
        assert!(watched.readiness.is_ready(), "{:?}", watched.readiness.missing());
        assert_eq!(dial(TCP4[0], &[&services.servers[0]]).unwrap(), 0);
        let second = takes("second");
        watched.until_ready(false).await;
        let order = [(Runs::Before, "second"), (Runs::Ours, "mesh_connect4"), (Runs::Behind, "first")];
        watched.until("left there", |hooks| at(hooks, Hook::Connect4) == order).await;
        drop((first, second));
        watched.until_ready(true).await;
        watched.stop().await;
    });
}

/// Hook, name, whether it runs before ours, and the cgroup's last name.
fn short(foreign: &[Foreign]) -> Vec<(Hook, &str, bool, &str)> {
    let name = |path: &'_ Path| path.file_name().unwrap().to_str().unwrap().to_owned().leak() as &str;
    let short = |foreign: &'_ Foreign| {
        let program = foreign.name.clone().expect("tests run with CAP_SYS_ADMIN").leak();
        (foreign.hook, program as &str, foreign.before, name(&foreign.cgroup))
    };
    foreign.iter().map(short).collect()
}

#[test]
fn at_each_hook_programs_before_and_behind_ours_are_told_apart() {
    let world = World::new();
    let here = world.cgroup.file_name().unwrap().to_str().unwrap().to_owned();
    let below = Below::new(&world, "pods");
    let first = Hook::ALL.map(|hook| Program::passing(hook, "first").attach(&world.cgroup, 0));
    let maps = world.attached_in_turn();
    let later = Hook::ALL.map(|hook| Program::passing(hook, "later").attach(&world.cgroup, 0));
    let pods = Hook::ALL.map(|hook| Program::passing(hook, "pods_own").attach(&below.0, 0));
    let found = foreign(&world);
    let wanted = Hook::ALL.into_iter().flat_map(|hook| {
        [(hook, "later", false, &*here), (hook, "first", true, &*here), (hook, "pods_own", true, "pods")]
    });
    let mut wanted: Vec<_> = wanted.collect();
    let mut found_short = short(&found);
    wanted.sort();
    found_short.sort();
    assert_eq!(found_short, wanted);
    assert!(found.iter().all(|foreign| foreign.tag.as_ref().is_some_and(|tag| tag.len() == 16)), "{found:?}");
    drop((first, later, pods));
    assert_eq!(foreign(&world), [], "all have gone");
    drop(maps);
}

#[test]
fn a_program_that_takes_anothers_place_is_another() {
    let world = World::new();
    let attached = Program::passing(Hook::Connect4, "one").attach(&world.cgroup, 0);
    let _maps = world.attached_in_turn();
    let before = foreign(&world);
    let other = Program::taking(Hook::Connect4, "two", "10.96.0.1:80", "127.0.0.1:1");
    attached.replace(&other);
    let after = foreign(&world);
    assert_eq!((before[0].name.as_deref(), after[0].name.as_deref()), (Some("one"), Some("two")));
    assert_ne!((before[0].program, &before[0].tag), (after[0].program, &after[0].tag));
}

#[test]
fn without_the_right_to_ask_a_program_has_its_number_alone() {
    let world = World::new();
    let _attached = Program::passing(Hook::SendMsg6, "other").attach(&world.cgroup, 0);
    let _maps = world.attached_in_turn();
    let [found] = &foreign(&world)[..] else { panic!("one is attached") };
    let as_the_chart = without_admin(|| foreign(&world));
    assert_eq!(as_the_chart, [Foreign { name: None, tag: None, ..found.clone() }]);
}

/// Packets that this thread's network namespace has sent, and connections that it has opened.
fn sent() -> Vec<(String, u64)> {
    let (v4, v6) = ("/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6");
    let text = fs::read_to_string(v4).unwrap();
    let lines: Vec<_> = text.lines().map(|line| line.split(' ').collect::<Vec<_>>()).collect();
    let pairs = lines.chunks(2).flat_map(|pair| {
        let name = |field: &str| format!("{}{field}", pair[0][0].trim_end_matches(':'));
        pair[0][1..].iter().map(move |field| name(field)).zip(pair[1][1..].iter().map(ToString::to_string))
    });
    let six = fs::read_to_string(v6).unwrap();
    let six = six.lines().map(|line| {
        let (name, value) = line.split_once(char::is_whitespace).unwrap();
        (name.to_owned(), value.trim().to_owned())
    });
    const COUNTED: [&str; 7] = [
        "IpOutRequests",
        "TcpOutSegs",
        "TcpActiveOpens",
        "TcpOutRsts",
        "UdpOutDatagrams",
        "Ip6OutRequests",
        "Udp6OutDatagrams",
    ];
    let counted = pairs.chain(six).filter(|(name, _)| COUNTED.contains(&name.as_str()));
    counted.map(|(name, value)| (name, value.parse().unwrap())).collect()
}

/// Services of both families and protocols, with servers behind them.
struct Services {
    servers: Vec<TcpListener>,
    _sockets: Vec<UdpSocket>,
}

const TCP4: [&str; 2] = ["10.96.0.1:80", "10.96.0.2:80"];
const TCP6: &str = "[fd00:96::1]:80";
const UDP4: &str = "10.96.0.1:53";
const UDP6: &str = "[fd00:96::1]:53";

impl Services {
    fn write(maps: &mut Maps) -> Self {
        let servers = ["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"].map(server);
        let sockets = ["127.0.0.1:0", "[::1]:0"].map(|address| UdpSocket::bind(address).unwrap());
        Service::new(1, CANARY).flags(FLAG_CANARY).write(maps);
        for (id, (frontend, server)) in (2..).zip([TCP4[0], TCP4[1], TCP6].into_iter().zip(&servers)) {
            Service::new(id, frontend).group(1, 0, 1, &[server]).write(maps);
        }
        for (id, (frontend, socket)) in (5..).zip([UDP4, UDP6].into_iter().zip(&sockets)) {
            Service::udp(id, frontend).group(1, 0, 1, &[socket]).write(maps);
        }
        Self { servers: servers.into(), _sockets: sockets.into() }
    }
}

/// Number of frontends that were dialled, and the ones that were taken.
fn dialled(seen: &Seen, hook: Hook) -> (usize, Vec<String>) {
    assert_eq!(seen.dialled.failed, None);
    let dials = seen.dialled.hooks.iter().find(|dials| dials.hook == hook);
    let dials = dials.unwrap_or_else(|| panic!("{hook} is not dialled: {:?}", seen.dialled));
    assert_eq!(dials.taken, dials.examples.len());
    (dials.dialled, dials.examples.iter().map(ToString::to_string).collect())
}

#[test]
fn what_is_taken_is_told_through_each_hook_without_a_packet() {
    let world = World::new();
    let own = agent_below(&world);
    let mut maps = world.attached_in_turn();
    let _services = Services::write(&mut maps);
    for (hook, takes, count, taken) in [
        (Hook::Connect4, TCP4[1], 3, "10.96.0.2:80/TCP"),
        (Hook::Connect4, UDP4, 3, "10.96.0.1:53/UDP"),
        (Hook::Connect6, TCP6, 5, "[fd00:96::1]:80/TCP"),
        (Hook::Connect6, UDP6, 5, "[fd00:96::1]:53/UDP"),
        (Hook::Connect6, "[::ffff:10.96.0.1]:80", 5, "10.96.0.1:80/TCP"),
        (Hook::SendMsg4, UDP4, 1, "10.96.0.1:53/UDP"),
        (Hook::SendMsg6, UDP6, 1, "[fd00:96::1]:53/UDP"),
    ] {
        let to = if takes.starts_with('[') { "[::1]:1" } else { "127.0.0.1:1" };
        let other = Program::taking(hook, "other", takes, to);
        let attached = other.attach(&own.0, 0);
        let before = sent();
        let seen = look(&world);
        let after = sent();
        assert!(seen.proof.is_ok(), "the canary is well all the same");
        assert_eq!(dialled(&seen, hook), (count, vec![taken.to_owned()]), "{hook} {takes}");
        // The canary's own dials reach loopback no further than a refusal.
        assert_eq!(after, before, "{hook}: something was sent");
        attached.replace(&Program::passing(hook, "harmless"));
        assert_eq!(dialled(&look(&world), hook), (count, vec![]), "{hook}");
    }
}

#[test]
fn dialling_takes_no_more_rights_than_the_chart_gives() {
    let world = World::new();
    let own = agent_below(&world);
    let mut maps = world.attached_in_turn();
    let _services = Services::write(&mut maps);
    let _other = Program::taking(Hook::Connect4, "other", TCP4[0], "127.0.0.1:1").attach(&own.0, 0);
    let seen = without_admin(|| look(&world));
    assert_eq!(dialled(&seen, Hook::Connect4), (3, vec!["10.96.0.1:80/TCP".to_owned()]));
}

#[test]
fn from_outside_a_child_dials_the_frontends_too() {
    let world = World::new();
    let _other = Program::taking(Hook::Connect4, "other", TCP4[0], "127.0.0.1:1").attach(&world.cgroup, 0);
    let mut maps = world.attached_in_turn();
    let _services = Services::write(&mut maps);
    world.leave();
    assert_eq!(dialled(&look(&world), Hook::Connect4), (3, vec!["10.96.0.1:80/TCP".to_owned()]));
}

#[test]
fn a_program_behind_ours_takes_nothing_and_is_not_asked() {
    let world = World::new();
    let _own = agent_below(&world);
    let mut maps = world.attached_in_turn();
    let services = Services::write(&mut maps);
    let _other = Program::taking(Hook::Connect4, "other", TCP4[0], "127.0.0.1:1").attach(&world.cgroup, 0);
    let seen = look(&world);
    assert_eq!(seen.dialled, Dialled::default());
    assert_eq!(dial(TCP4[0], &[&services.servers[0]]).unwrap(), 0, "an application gets to our backend");
}

#[test]
fn what_getpeername_shows_is_held_against_what_was_dialled() {
    let world = World::new();
    let own = agent_below(&world);
    let mut maps = world.attached_in_turn();
    let services = Services::write(&mut maps);
    let backend = services.servers[1].local_addr().unwrap().to_string();
    let other = Program::taking(Hook::GetPeerName4, "other", &backend, "127.0.0.9:9");
    let _other = other.attach(&own.0, 0);
    assert_eq!(dialled(&look(&world), Hook::GetPeerName4), (3, vec!["10.96.0.2:80/TCP".to_owned()]));
}

#[test]
fn who_takes_connections_makes_the_node_not_ready_until_it_ends() {
    let world = World::new();
    let own = agent_below(&world);
    let theirs = server("127.0.0.1:0");
    let place = theirs.local_addr().unwrap().to_string();
    let mut maps = world.attached_in_turn();
    let services = Services::write(&mut maps);
    block_on(async {
        let watched = Watched::start(&world);
        watched.planned.ready();
        watched.until_ready(true).await;
        let other = Program::taking(Hook::Connect4, "other", TCP4[0], &place);
        let attached = other.attach(&own.0, 0);
        watched.until_ready(false).await;
        assert!(TcpStream::connect(TCP4[0]).is_ok() && theirs.accept().is_ok(), "an application gets there");
        let [missing] = &watched.readiness.missing()[..] else { panic!("one condition is missing") };
        assert_eq!(missing.condition, "hooks");
        for part in ["1 of 3", "10.96.0.1:80/TCP", "(other)", "hook list"] {
            assert!(missing.reason.contains(part), "{part}: {}", missing.reason);
        }
        assert_eq!(watched.metric("clustermesh_hook_taken_frontends{hook=\"connect4\"}"), "1");
        attached.replace(&Program::passing(Hook::Connect4, "harmless"));
        watched.until_ready(true).await;
        assert_eq!(dial(TCP4[0], &[&services.servers[0]]).unwrap(), 0);
        assert_eq!(watched.taken(), [1, 0]);
        watched.stop().await;
    });
}

#[test]
fn what_may_be_taken_is_told_all_the_same() {
    let world = World::new();
    let own = agent_below(&world);
    let mut maps = world.attached_in_turn();
    let _services = Services::write(&mut maps);
    let _other = Program::taking(Hook::Connect4, "other", TCP4[0], "127.0.0.1:1").attach(&own.0, 0);
    block_on(async {
        let mut watched = Watched::start_with(&world, world.installation().in_turn(), true);
        watched.planned.ready();
        watched.until("dialled", |hooks| hooks.iter().any(|hook| hook.dials.is_some())).await;
        watched.until_ready(true).await;
        assert_eq!(watched.taken(), [1]);
        watched.stop().await;
    });
}

#[test]
fn before_the_first_plan_a_program_before_ours_is_not_trusted() {
    let world = World::new();
    let own = agent_below(&world);
    let mut maps = world.attached_in_turn();
    Service::new(1, CANARY).flags(FLAG_CANARY).write(&mut maps);
    let other = Program::taking(Hook::Connect4, "other", TCP4[0], "127.0.0.1:1");
    let _other = other.attach(&own.0, 0);
    block_on(async {
        let mut watched = Watched::start(&world);
        watched.until("asked", |hooks| at(hooks, Hook::Connect4).len() == 2).await;
        let missing = watched.readiness.missing();
        assert!(missing.iter().any(|missing| missing.reason.contains("first plan")), "{missing:?}");
        let _services = Services::write(&mut maps);
        watched.planned.ready();
        watched.until("dialled", |hooks| hooks[0].dials.as_ref().is_some_and(|dials| dials.taken == 1)).await;
        assert!(!watched.readiness.is_ready());
        watched.stop().await;
    });
}

/// Runs something without `CAP_SYS_ADMIN`, with what the chart gives.
fn without_admin<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            support::keep_capabilities(&[support::NET_ADMIN, support::PERFMON, support::BPF]);
            work()
        });
        thread.join().unwrap()
    })
}

/// Watches the hooks; what it tells is kept.
struct Watched {
    events: Events,
    registry: mesh_runtime::Registry,
    readiness: Readiness,
    hooks: watch::Receiver<Arc<Vec<HookPrograms>>>,
    planned: Condition,
    token: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    fn start(world: &World) -> Self {
        Self::start_with(world, world.installation().in_turn(), false)
    }

    fn start_with(world: &World, installation: Installation, allow_taken: bool) -> Self {
        let interval = Duration::from_millis(20);
        let (registry, metrics) = Metrics::register();
        let (events, readiness, token) = (Events::default(), Readiness::default(), CancellationToken::new());
        let (sender, hooks) = watch::channel(Arc::default());
        let outputs = Outputs {
            metrics: metrics.hooks,
            events: events.clone(),
            hooks: sender,
            served: readiness.condition("canary", "waiting"),
            balances: readiness.condition("hooks", "waiting"),
        };
        let planned = readiness.condition("plan", "waiting");
        let watch =
            Watch { canary: canary(world), installation, interval, planned: planned.clone(), allow_taken };
        let task = tokio::spawn(watch.run(outputs, token.clone()));
        Self { events, registry, readiness, hooks, planned, token, task }
    }

    async fn until_ready(&self, ready: bool) {
        let waiting = async {
            while self.readiness.is_ready() != ready {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, waiting).await;
        waited.unwrap_or_else(|_| panic!("ready is not {ready}: {:?}", self.readiness.missing()));
    }

    async fn until(&mut self, what: &str, mut holds: impl FnMut(&[HookPrograms]) -> bool) {
        let waited = tokio::time::timeout(DEADLINE, self.hooks.wait_for(|hooks| holds(hooks))).await;
        drop(waited.unwrap_or_else(|_| panic!("{what}: not in time")).unwrap());
    }

    fn metric(&self, series: &str) -> String {
        let text = self.registry.encode();
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        value.unwrap_or_else(|| panic!("no {series} in {text}")).trim().to_owned()
    }

    /// Each change that was told: name, and whether it was a program that went.
    fn told(&self) -> Vec<(String, bool)> {
        let told = |event: &Arc<Event>| match &**event {
            Event::ForeignProgram { program, gone, .. } => Some((program.name.clone().unwrap(), *gone)),
            _ => None,
        };
        self.events.subscribe(Some(0)).0.iter().filter_map(told).collect()
    }

    /// How many frontends were taken, at each change.
    fn taken(&self) -> Vec<usize> {
        let taken = |event: &Arc<Event>| match &**event {
            Event::FrontendsTaken { dials, .. } => Some(dials.taken),
            _ => None,
        };
        self.events.subscribe(Some(0)).0.iter().filter_map(taken).collect()
    }

    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap();
    }
}

/// Names at a hook, in their order.
fn at(hooks: &[HookPrograms], hook: Hook) -> Vec<(Runs, &str)> {
    let found = hooks.iter().find(|programs| programs.hook == hook);
    let programs = found.map(|programs| programs.programs.as_slice()).unwrap_or_default();
    programs.iter().map(|program| (program.runs, program.name.as_deref().unwrap())).collect()
}

#[test]
fn each_change_is_told_once_while_it_runs() {
    let world = World::new();
    let own = agent_below(&world);
    let mut maps = world.attached_in_turn();
    Service::new(1, CANARY).flags(FLAG_CANARY).write(&mut maps);
    block_on(async {
        let mut watched = Watched::start(&world);
        watched.planned.ready();
        watched.until("asked", |hooks| at(hooks, Hook::Connect4) == [(Runs::Ours, "mesh_connect4")]).await;
        const BEFORE: &str = "clustermesh_hook_foreign_programs{hook=\"connect4\",runs=\"before\"}";
        assert_eq!(watched.metric(BEFORE), "0");
        let other = Program::passing(Hook::Connect4, "other").attach(&own.0, 0);
        let seen = [(Runs::Before, "other"), (Runs::Ours, "mesh_connect4")];
        watched.until("it came", |hooks| at(hooks, Hook::Connect4) == seen).await;
        assert_eq!(watched.metric(BEFORE), "1");
        watched.until_ready(true).await;
        drop(other);
        watched.until("it went", |hooks| at(hooks, Hook::Connect4).len() == 1).await;
        assert_eq!(watched.metric(BEFORE), "0");
        assert_eq!(watched.told(), [("other".to_owned(), false), ("other".to_owned(), true)]);
        watched.stop().await;
    });
    assert_eq!(
        fs::read_to_string(own.0.join("cgroup.procs")).unwrap().trim(),
        std::process::id().to_string()
    );
}
