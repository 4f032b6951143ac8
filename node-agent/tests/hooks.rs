//! The datapath's hooks: the real object in the kernel, real sockets, a network namespace and a cgroup.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::ErrorKind;
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::maps::MapData;
use aya::programs::links::{FdLink, PinnedLink};
use mesh_abi::{
    CLUSTER_DEMOTED, CLUSTER_USABLE, ClusterStates, FLAG_PLAIN_OK, MAX_CLUSTERS, Outcome, STATE_ACTIVE,
    STATE_FREE, STATE_QUARANTINED, STATE_TERMINATING,
};
use node_agent::datapath::actual::Capacity;
use node_agent::datapath::maps::{Datapath, Maps, NAMES};
use node_agent::datapath::programs::{Found, HOOKS, uninstall};

use support::{
    CAPACITY, Dialler, INSTANCE, Service, UNROUTED, World, beat, cells_in_use, counted_sockets, dial,
    outcome, server, shares, with_owners,
};

/// Nothing routes there: what isn't translated fails at once.
const FRONTEND: &str = "10.96.0.1:80";
const FRONTEND_V6: &str = "[fd96::1]:80";

fn demote(maps: &mut Maps, clusters: &[u16]) {
    let mut states = ClusterStates { state: [CLUSTER_USABLE; MAX_CLUSTERS] };
    clusters.iter().for_each(|cluster| states.state[usize::from(*cluster)] = CLUSTER_DEMOTED);
    maps.clusters.write(&states).unwrap();
}

fn passes_untranslated(frontend: &str) -> bool {
    matches!(TcpStream::connect(frontend), Err(error) if error.kind() == ErrorKind::NetworkUnreachable)
}

#[test]
fn ipv4_reaches_the_backend_and_sees_the_frontend() {
    let world = World::new();
    let mut maps = world.attached();
    let backend = server("127.0.1.1:8080");
    assert!(passes_untranslated(FRONTEND));
    Service::new(1, FRONTEND).group(1, 0, 1, &[&backend]).write(&mut maps);
    assert_eq!(dial(FRONTEND, &[&backend]).unwrap(), 0);
    assert_eq!(outcome(&maps, Outcome::Translated), 1);
}

#[test]
fn ipv6_reaches_the_backend_and_sees_the_frontend() {
    let world = World::new();
    let mut maps = world.attached();
    let backend = server("[fd00::1]:8080");
    assert!(passes_untranslated(FRONTEND_V6));
    Service::new(1, FRONTEND_V6).group(1, 0, 1, &[&backend]).write(&mut maps);
    assert_eq!(dial(FRONTEND_V6, &[&backend]).unwrap(), 0);
}

#[test]
fn a_v6_socket_that_dials_v4_mapped_reaches_the_v4_backend() {
    let world = World::new();
    let mut maps = world.attached();
    let backend = server("127.0.1.1:8080");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&backend]).write(&mut maps);
    assert_eq!(dial("[::ffff:10.96.0.1]:80", &[&backend]).unwrap(), 0);
}

#[test]
fn a_backend_of_the_other_family_is_never_given() {
    let world = World::new();
    let mut maps = world.attached();
    let (v4, v6) = (server("127.0.1.1:8080"), server("[fd00::1]:8080"));
    Service::new(1, FRONTEND).group(1, 0, 1, &[&v6]).write(&mut maps);
    Service::new(2, FRONTEND_V6).group(1, 0, 1, &[&v4]).write(&mut maps);
    assert!(passes_untranslated(FRONTEND));
    assert!(passes_untranslated("[::ffff:10.96.0.1]:80"));
    assert!(passes_untranslated(FRONTEND_V6));
    assert_eq!(outcome(&maps, Outcome::NoBackend), 3);
}

#[test]
fn what_is_no_service_is_left_alone() {
    let world = World::new();
    let mut maps = world.attached();
    let (backend, other) = (server("127.0.1.1:8080"), server("127.0.1.2:8080"));
    Service::new(1, FRONTEND).group(1, 0, 1, &[&backend]).write(&mut maps);
    let before = outcome(&maps, Outcome::NotAService);
    assert_eq!(dial("127.0.1.2:8080", &[&backend, &other]).unwrap(), 1);
    assert!(passes_untranslated("10.96.0.1:81"));
    assert_eq!(outcome(&maps, Outcome::NotAService), before + 2);
}

#[test]
fn shares_follow_the_weights_of_the_first_tier() {
    let world = World::new();
    let mut maps = world.attached();
    let servers: Vec<_> = (1..=5).map(|last| server(&format!("127.0.1.{last}:80"))).collect();
    let [a, b, c, d, lower] = [0, 1, 2, 3, 4].map(|index| &servers[index]);
    Service::new(1, FRONTEND)
        .group(1, 0, 1, &[a])
        .group(2, 0, 3, &[b, c])
        .group(3, 0, 4, &[d])
        .group(4, 1, 100, &[lower])
        .write(&mut maps);
    let counts = shares(FRONTEND, &[a, b, c, d, lower], 4000);
    // Five standard deviations of a binomial share around what the weights say.
    for (count, wanted) in counts.iter().zip([500_u32, 750, 750, 2000, 0]) {
        let wanted = f64::from(wanted);
        let slack = 5.0 * (wanted * (1.0 - wanted / 4000.0)).sqrt();
        assert!((f64::from(*count) - wanted).abs() <= slack, "{counts:?}");
    }
}

#[test]
fn sixteen_groups_share_evenly() {
    let world = World::new();
    let mut maps = world.attached();
    let servers: Vec<_> = (1..=16).map(|last| server(&format!("127.0.1.{last}:80"))).collect();
    let mut service = Service::new(1, FRONTEND);
    for (cluster, server) in (1..).zip(&servers) {
        service = service.group(cluster, 0, 7, &[server]);
    }
    service.write(&mut maps);
    let counts = shares(FRONTEND, &servers.iter().collect::<Vec<_>>(), 3200);
    assert!(counts.iter().all(|count| (130..=270).contains(count)), "{counts:?}");
}

#[test]
fn a_demoted_cluster_gets_nothing_while_another_is_usable() {
    let world = World::new();
    let mut maps = world.attached();
    let (a, b, c) = (server("127.0.1.1:80"), server("127.0.1.2:80"), server("127.0.1.3:80"));
    let service =
        Service::new(1, FRONTEND).group(1, 0, 10, &[&a]).group(2, 1, 1, &[&b]).group(3, 1, 3, &[&c]);
    service.write(&mut maps);
    assert_eq!(shares(FRONTEND, &[&a, &b, &c], 50), [50, 0, 0]);
    demote(&mut maps, &[1]);
    let counts = shares(FRONTEND, &[&a, &b, &c], 800);
    assert_eq!(counts[0], 0);
    assert!((130..=270).contains(&counts[1]), "{counts:?}");
    demote(&mut maps, &[1, 2]);
    assert_eq!(shares(FRONTEND, &[&a, &b, &c], 50), [0, 0, 50]);
    // All are gone by all we know: fail open, the preferred tier first, and say so.
    demote(&mut maps, &[1, 2, 3]);
    assert_eq!(shares(FRONTEND, &[&a, &b, &c], 50), [50, 0, 0]);
    assert_eq!(maps.services.read_counters(&[service.counter(0)]).unwrap()[0].last_resort, 50);
}

#[test]
fn terminating_then_quarantined_ones_are_the_last_resorts() {
    let world = World::new();
    let mut maps = world.attached();
    let (a, b, c) = (server("127.0.1.1:80"), server("127.0.1.2:80"), server("127.0.1.3:80"));
    let mut service = Service::new(1, FRONTEND)
        .mixed(1, 0, 2, &[(&a, STATE_TERMINATING), (&b, STATE_ACTIVE)])
        .mixed(2, 1, 1, &[(&c, STATE_QUARANTINED)]);
    service.write(&mut maps);
    let servers = [&a, &b, &c];
    assert_eq!(shares(FRONTEND, &servers, 300), [0, 300, 0], "the active one");
    service.set_state(&mut maps, 1, STATE_FREE);
    assert_eq!(shares(FRONTEND, &servers, 50), [50, 0, 0], "then the terminating one");
    service.set_state(&mut maps, 0, STATE_FREE);
    assert_eq!(shares(FRONTEND, &servers, 50), [0, 0, 50], "then the quarantined one");
    assert_eq!(maps.services.read_counters(&[service.counter(1)]).unwrap()[0].last_resort, 50);
    service.set_state(&mut maps, 2, STATE_FREE);
    assert!(passes_untranslated(FRONTEND), "then nothing");
    assert_eq!(outcome(&maps, Outcome::NoBackend), 1);
}

#[test]
fn an_active_backend_of_a_lower_tier_beats_a_terminating_one() {
    let world = World::new();
    let mut maps = world.attached();
    let (a, b) = (server("127.0.1.1:80"), server("127.0.1.2:80"));
    Service::new(1, FRONTEND)
        .mixed(1, 0, 1, &[(&a, STATE_TERMINATING)])
        .group(2, 1, 1, &[&b])
        .write(&mut maps);
    assert_eq!(shares(FRONTEND, &[&a, &b], 100), [0, 100]);
}

#[test]
fn a_service_without_groups_is_left_alone() {
    let world = World::new();
    let mut maps = world.attached();
    Service::new(1, FRONTEND).write(&mut maps);
    assert!(passes_untranslated(FRONTEND));
    assert_eq!(outcome(&maps, Outcome::NoBackend), 1);
}

#[test]
fn an_old_heartbeat_yields_only_what_something_else_serves() {
    let world = World::new();
    let mut maps = world.attached();
    let (a, b) = (server("127.0.1.1:80"), server("127.0.1.2:80"));
    let other = "10.96.0.2:80";
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).flags(FLAG_PLAIN_OK).write(&mut maps);
    Service::new(2, other).group(1, 0, 1, &[&b]).write(&mut maps);
    beat(&mut maps, 0);
    assert_eq!(dial(FRONTEND, &[&a, &b]).unwrap(), 0);
    beat(&mut maps, 11_000_000_000);
    assert!(passes_untranslated(FRONTEND));
    assert_eq!(dial(other, &[&a, &b]).unwrap(), 1);
    assert_eq!(outcome(&maps, Outcome::Yielded), 1);
    beat(&mut maps, 0);
    assert_eq!(dial(FRONTEND, &[&a, &b]).unwrap(), 0);
}

#[test]
fn a_limit_of_zero_never_yields() {
    let world = World::new();
    let mut maps = world.attached();
    let a = server("127.0.1.1:80");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).flags(FLAG_PLAIN_OK).write(&mut maps);
    assert_eq!(maps.control.read().unwrap().yield_after_ns, 0);
    assert_eq!(dial(FRONTEND, &[&a]).unwrap(), 0);
}

#[test]
fn connections_are_counted_per_group() {
    let world = World::new();
    let mut maps = world.attached();
    let (a, b) = (server("127.0.1.1:80"), server("127.0.1.2:80"));
    let service = Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).group(2, 0, 1, &[&b]);
    service.write(&mut maps);
    let dialled = shares(FRONTEND, &[&a, &b], 200);
    let ids = [service.counter(0), service.counter(1)];
    let counted = maps.services.read_counters(&ids).unwrap();
    assert_eq!(
        counted.iter().map(|counter| counter.connections).collect::<Vec<_>>(),
        dialled.iter().map(|&count| u64::from(count)).collect::<Vec<_>>()
    );
    assert!(counted.iter().all(|counter| counter.last_resort == 0));
    assert!(maps.services.reset_counters(&ids).is_empty());
    assert!(maps.services.read_counters(&ids).unwrap().iter().all(|counter| counter.connections == 0));
}

/// Ids of maps and links, by which the kernel tells an object from a new one of the same name.
fn ids(world: &World) -> Vec<u32> {
    let maps = NAMES.iter().map(|name| {
        let data = MapData::from_pin(world.pin("maps", name)).unwrap();
        data.info().unwrap().id()
    });
    maps.chain(HOOKS.iter().map(|name| link(&world.pin("links", name)).0)).collect()
}

/// A pinned link's id and its program's.
fn link(path: &PathBuf) -> (u32, u32) {
    let link: FdLink = PinnedLink::from_pin(path).unwrap().into();
    let info = link.info().unwrap();
    (info.id(), info.program_id())
}

#[test]
fn a_restarted_agent_adopts_maps_links_and_programs() {
    let world = World::new();
    let mut maps = world.attached();
    let a = server("127.0.1.1:80");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).write(&mut maps);
    let (before, program) = (ids(&world), link(&world.pin("links", "mesh_connect4")));
    drop(maps);
    let installation = world.installation();
    let Found::Adopted(mut maps) = installation.maps(CAPACITY).unwrap() else { panic!("built new maps") };
    assert!(!installation.attach(&mut maps).unwrap(), "nothing was there to do");
    assert_eq!(ids(&world), before);
    assert_eq!(link(&world.pin("links", "mesh_connect4")), program);
    assert_eq!(maps.services.contents().unwrap().services.len(), 1);
    assert_eq!(dial(FRONTEND, &[&a]).unwrap(), 0);
}

#[test]
fn other_programs_take_the_links_over_without_new_links() {
    let world = World::new();
    let mut maps = world.attached();
    let (before, program) = (ids(&world), link(&world.pin("links", "mesh_connect4")).1);
    let mut control = maps.control.read().unwrap();
    control.object ^= 1;
    maps.control.write(&control).unwrap();
    assert!(world.installation().attach(&mut maps).unwrap());
    assert_eq!(ids(&world), before);
    assert_ne!(link(&world.pin("links", "mesh_connect4")).1, program);
}

#[test]
fn a_missing_link_is_attached_again() {
    let world = World::new();
    let mut maps = world.attached();
    let a = server("127.0.1.1:80");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).write(&mut maps);
    std::fs::remove_file(world.pin("links", "mesh_connect4")).unwrap();
    // The kernel takes the program off a little later, in a worker of its own.
    let gone = support::wait_until(std::time::Duration::from_secs(30), || {
        let gone = passes_untranslated(FRONTEND);
        while a.accept().is_ok() {}
        gone
    });
    assert!(gone, "a program without a link still translates");
    assert!(world.installation().attach(&mut maps).unwrap());
    assert_eq!(dial(FRONTEND, &[&a]).unwrap(), 0);
}

#[test]
fn changed_sizes_build_maps_beside_the_old_and_then_swap() {
    let world = World::new();
    let mut maps = world.attached();
    let (a, b) = (server("127.0.1.1:80"), server("127.0.1.2:80"));
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).write(&mut maps);
    let held = dial_and_hold(&a);
    let installation = world.installation();
    let capacity = Capacity { services: 128, ..CAPACITY };
    let Found::Built { maps: mut new, old: Some(old) } = installation.maps(capacity).unwrap() else {
        panic!("adopted maps of another size")
    };
    assert_eq!(old.services.contents().unwrap().services.len(), 1);
    assert_eq!(dial(FRONTEND, &[&a, &b]).unwrap(), 0, "the old maps serve meanwhile");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&b]).write(&mut new);
    assert_eq!(dial(FRONTEND, &[&a, &b]).unwrap(), 0, "until the swap");
    assert!(installation.attach(&mut new).unwrap());
    assert_eq!(dial(FRONTEND, &[&a, &b]).unwrap(), 1, "the new maps serve");
    assert_eq!(
        held.peer_addr().unwrap(),
        FRONTEND.parse().unwrap(),
        "what was dialled before is still shown"
    );
    let Found::Adopted(again) = installation.maps(capacity).unwrap() else { panic!("not pinned") };
    assert_eq!(again.services.capacity(), capacity);
    assert!(!world.pin("maps_new", "").exists());
}

fn dial_and_hold(server: &std::net::TcpListener) -> TcpStream {
    let held = TcpStream::connect(FRONTEND).unwrap();
    assert!(support::wait_until(std::time::Duration::from_secs(5), || server.accept().is_ok()));
    held
}

#[test]
fn a_start_that_was_cut_off_while_it_filled_new_maps_is_repaired() {
    let world = World::new();
    let mut maps = world.attached();
    let a = server("127.0.1.1:80");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).write(&mut maps);
    let capacity = Capacity { slots: 2048, ..CAPACITY };
    drop(world.installation().maps(capacity).unwrap());
    assert!(world.pin("maps_new", "").exists());
    // The next start wants the old sizes again.
    let Found::Adopted(mut maps) = world.installation().maps(CAPACITY).unwrap() else {
        panic!("built new maps")
    };
    assert!(!world.installation().attach(&mut maps).unwrap());
    assert!(!world.pin("maps_new", "").exists());
    assert_eq!(dial(FRONTEND, &[&a]).unwrap(), 0);
}

#[test]
fn uninstalling_leaves_nothing_and_connects_pass() {
    let world = World::new();
    let mut maps = world.attached();
    let a = server("127.0.1.1:80");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).write(&mut maps);
    assert_eq!(dial(FRONTEND, &[&a]).unwrap(), 0);
    std::fs::create_dir_all(world.bpffs.join("clustermesh").join(INSTANCE).join("v0/maps")).unwrap();
    assert!(uninstall(&world.bpffs, INSTANCE).unwrap());
    assert!(passes_untranslated(FRONTEND));
    assert!(!world.bpffs.join("clustermesh").join(INSTANCE).exists());
    assert!(!uninstall(&world.bpffs, INSTANCE).unwrap(), "the second time nothing is left to do");
}

#[test]
fn a_socket_that_connects_again_shows_its_new_peer() {
    let world = World::new();
    let mut maps = world.attached();
    let (a, b) = (server("127.0.1.1:80"), server("127.0.1.2:80"));
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).write(&mut maps);
    let connection = TcpStream::connect(FRONTEND).unwrap();
    assert_eq!(connection.peer_addr().unwrap(), FRONTEND.parse().unwrap());
    support::reconnect(&connection, "127.0.1.2:80");
    assert_eq!(connection.peer_addr().unwrap(), "127.0.1.2:80".parse().unwrap());
    support::reconnect(&connection, FRONTEND);
    assert_eq!(connection.peer_addr().unwrap(), FRONTEND.parse().unwrap());
    // Dialled directly, the backend's address is nothing to hide.
    support::reconnect(&connection, "127.0.1.1:80");
    assert_eq!(connection.peer_addr().unwrap(), "127.0.1.1:80".parse().unwrap());
    drop((a, b));
}

/// Ends the writer also where the dialling side panics, so that a failure is a failure and does not hang.
struct DoneWhenDropped<'a>(&'a AtomicBool);

impl Drop for DoneWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Dials while a thread of its own rewrites the services' entries, flat out; returns the number of rewrites.
fn rewriting(maps: &mut Maps, services: &[&Service], dialling: impl FnOnce()) -> u64 {
    rewriting_in_turn(maps, &[services], dialling)
}

/// The same with entries of which one list is written after the other.
fn rewriting_in_turn(maps: &mut Maps, turns: &[&[&Service]], dialling: impl FnOnce()) -> u64 {
    let done = AtomicBool::new(false);
    let entry = |service: &&Service| (service.key(), service.entry());
    let mut turns: Vec<Vec<_>> = turns.iter().map(|services| services.iter().map(entry).collect()).collect();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut rewrites, mut generation) = (0, 1_u32);
            while !done.load(Ordering::Relaxed) {
                for entries in &mut turns {
                    generation = generation.wrapping_add(1);
                    for (_, entry) in entries.iter_mut() {
                        entry.head.generation = generation;
                        entry.tail = entry.head;
                    }
                    assert!(maps.services.write_services(entries).is_empty());
                    rewrites += entries.len() as u64;
                }
            }
            rewrites
        });
        let ends = DoneWhenDropped(&done);
        dialling();
        drop(ends);
        writer.join().unwrap()
    })
}

/// Connects that the tests of rewritten entries make: `CONNECTS=10000000` for the long form.
fn connects(default: u64) -> u64 {
    std::env::var("CONNECTS").map_or(default, |text| text.parse().expect("CONNECTS is a number"))
}

#[test]
fn connects_meet_no_gap_between_the_versions_of_an_entry() {
    let world = World::new();
    // As many buckets as services: all but surely some of them share one.
    let mut maps = world.attached_with(Capacity { services: 8, counters: 256, ..CAPACITY });
    let mut services = Vec::new();
    let mut wanted = Vec::new();
    for (id, (network, answer)) in (1_u8..=8).zip(UNROUTED.iter().cycle()) {
        let frontend = SocketAddrV4::new([10, 96, 0, id].into(), 80);
        let backends: [SocketAddr; 2] = [1, 2].map(|host| format!("{network}.{host}:80").parse().unwrap());
        let service = Service::new(id.into(), &frontend.to_string());
        services.push(service.group(1, 0, 1, &[&backends[0]]).group(2, 0, 1, &[&backends[1]]));
        wanted.push((frontend, *answer));
    }
    services.iter().for_each(|service| service.write(&mut maps));
    let connects = connects(400_000);
    let dialler = Dialler::new();
    let rewrites = rewriting(&mut maps, &services.iter().collect::<Vec<_>>(), || {
        for (number, (frontend, answer)) in (0..connects).zip(wanted.iter().cycle()) {
            let answered = dialler.dial(*frontend);
            assert_eq!(answered, *answer, "{frontend}, connect {number}");
        }
    });
    let retries = outcome(&maps, Outcome::Retried);
    println!("{connects} connects, {rewrites} rewrites, {retries} retries");
    assert!(rewrites > connects / 100, "{rewrites} rewrites");
    assert_eq!(outcome(&maps, Outcome::Translated), connects);
    for service in &services {
        let counted = maps.services.read_counters(&[service.counter(0), service.counter(1)]).unwrap();
        let connections: u64 = counted.iter().map(|counter| counter.connections).sum();
        assert!(connections.abs_diff(connects / 8) <= 1, "{counted:?}");
    }
}

#[test]
fn entries_rewritten_all_the_while_never_lead_astray() {
    let world = World::new();
    let mut maps = world.attached();
    let servers: Vec<_> = (1..=4).map(|last| server(&format!("127.0.1.{last}:80"))).collect();
    let all: Vec<_> = servers.iter().collect();
    let frontends = [FRONTEND, "10.96.0.2:80"];
    let one = Service::new(1, frontends[0]).group(1, 0, 1, &[all[0]]).group(2, 0, 1, &[all[1]]);
    let two = Service::new(2, frontends[1]).group(1, 0, 1, &[all[2]]).group(2, 0, 1, &[all[3]]);
    one.write(&mut maps);
    two.write(&mut maps);
    let rewrites = rewriting(&mut maps, &[&one, &two], || {
        for (index, frontend) in frontends.iter().enumerate().cycle().take(6000) {
            let got = dial(frontend, &all).unwrap();
            assert_eq!(got / 2, index, "{frontend} reached server {got}");
        }
    });
    assert!(rewrites > 1000, "{rewrites} rewrites");
    assert_eq!(outcome(&maps, Outcome::Translated), 6000);
    assert_eq!(outcome(&maps, Outcome::GaveUp), 0);
}

#[test]
fn services_that_grow_and_shrink_all_the_while_never_lead_astray() {
    let world = World::new();
    let mut maps = world.attached();
    let servers: Vec<_> = (1..=8).map(|last| server(&format!("127.0.1.{last}:80"))).collect();
    let all: Vec<_> = servers.iter().collect();
    let frontends = [FRONTEND, "10.96.0.2:80"];
    let of_groups = |id: u32, groups: usize| {
        let first = (id as usize - 1) * 4;
        let service = Service::new(id, frontends[id as usize - 1]);
        (1..)
            .zip(&all[first..first + groups])
            .fold(service, |service, (cluster, server)| service.group(cluster, 0, 1, &[*server]))
    };
    let (two, many) = ([of_groups(1, 2), of_groups(2, 2)], [of_groups(1, 4), of_groups(2, 3)]);
    many.iter().chain(&two).for_each(|service| service.write(&mut maps));
    let connects = connects(6000);
    let turns = [[&two[0], &many[1]], [&many[0], &two[1]], [&many[0], &many[1]], [&two[0], &two[1]]];
    let turns: Vec<&[&Service]> = turns.iter().map(|turn| &turn[..]).collect();
    let rewrites = rewriting_in_turn(&mut maps, &turns, || {
        for number in 0..connects {
            let index = usize::from(number % 2 == 1);
            let got = dial(frontends[index], &all).unwrap();
            assert_eq!(got / 4, index, "{} reached server {got}", frontends[index]);
        }
    });
    assert!(rewrites > 1000, "{rewrites} rewrites");
    assert_eq!(outcome(&maps, Outcome::Translated), connects);
    assert_eq!(outcome(&maps, Outcome::GaveUp), 0);
}

#[test]
fn sockets_are_counted_for_as_long_as_they_have_storage() {
    let world = World::new();
    let mut maps = world.attached();
    let a = server("127.0.1.1:80");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).write(&mut maps);
    Service::new(2, "10.96.0.2:80").group(1, 0, 1, &[&a]).write(&mut maps);
    Service::udp(3, FRONTEND).group(1, 0, 1, &[&a]).write(&mut maps);
    with_owners(&world, |owners| owners.fill(u64::MAX));
    let mut held: Vec<_> = (0..20).map(|_| dial_and_hold(&a)).collect();
    assert_eq!(counted_sockets(&world), 20);
    // Each is counted once, whatever it dials.
    support::reconnect(&held[0], "10.96.0.2:80");
    assert_eq!(counted_sockets(&world), 20);
    support::reconnect(&held[0], "127.0.1.1:80");
    assert_eq!(held[0].peer_addr().unwrap(), "127.0.1.1:80".parse().unwrap());
    assert_eq!(counted_sockets(&world), 19);
    held.truncate(10);
    assert_eq!(counted_sockets(&world), 9);
    drop(held);
    assert_eq!(counted_sockets(&world), 0);

    let datagrams = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    datagrams.connect(FRONTEND).unwrap();
    assert_eq!((counted_sockets(&world), datagrams.peer_addr().unwrap()), (1, FRONTEND.parse().unwrap()));
    drop(datagrams);
    assert_eq!(counted_sockets(&world), 0);
}

#[test]
fn a_socket_gives_its_cell_back_when_it_is_closed() {
    let world = World::new();
    let mut maps = world.attached();
    let a = server("127.0.1.1:80");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).write(&mut maps);
    let held = dial_and_hold(&a);
    assert_eq!(cells_in_use(&world), 1);
    // A socket that now dials what is no service has nothing to remember.
    support::reconnect(&held, "127.0.1.1:80");
    assert_eq!(cells_in_use(&world), 0);
    let held: Vec<_> = (0..100).map(|_| dial_and_hold(&a)).collect();
    // Of two that want the same cell, one has none: of a hundred in 65,536, one pair in thirteen runs.
    assert!((95..=100).contains(&cells_in_use(&world)), "{}", cells_in_use(&world));
    drop(held);
    assert_eq!(cells_in_use(&world), 0);
}

#[test]
fn a_socket_whose_cell_is_taken_remembers_all_the_same() {
    let world = World::new();
    let mut maps = world.attached();
    let a = server("127.0.1.1:80");
    Service::new(1, FRONTEND).group(1, 0, 1, &[&a]).write(&mut maps);
    with_owners(&world, |owners| owners.fill(u64::MAX));
    let held = dial_and_hold(&a);
    assert_eq!(held.peer_addr().unwrap(), FRONTEND.parse().unwrap());
    // The cells are free again, and this socket takes one: what it remembers there is what counts.
    with_owners(&world, |owners| owners.fill(0));
    Service::new(2, "10.96.0.2:80").group(1, 0, 1, &[&a]).write(&mut maps);
    support::reconnect(&held, "10.96.0.2:80");
    assert_eq!(cells_in_use(&world), 1);
    assert_eq!(held.peer_addr().unwrap(), "10.96.0.2:80".parse().unwrap());
    support::reconnect(&held, "127.0.1.1:80");
    assert_eq!(held.peer_addr().unwrap(), "127.0.1.1:80".parse().unwrap());
    assert_eq!(outcome(&maps, Outcome::OriginLost), 0);
}
