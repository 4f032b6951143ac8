//! The datapath's hooks for UDP: the real object in the kernel, real sockets, a network namespace and a cgroup.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use mesh_abi::Outcome;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use node_agent::datapath::actual::Capacity;
use node_agent::datapath::maps::Maps;
use node_agent::datapath::programs::Found;

use support::{CAPACITY, REPLIES, Service, World, outcome, reconnect, server, wait_until};

const FRONTEND: &str = "10.96.0.53:53";
const OTHER: &str = "10.96.0.54:53";
const FRONTEND_V6: &str = "[fd96::53]:53";
const MAPPED: &str = "[::ffff:10.96.0.53]:53";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A socket that does not wait for ever.
fn socket(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// A socket that both families' packets go through.
fn dual() -> UdpSocket {
    socket("[::]:0")
}

/// Waits for a request, and gives its sender.
fn request(server: &UdpSocket) -> SocketAddr {
    let mut bytes = [0; 16];
    let (length, from) = server.recv_from(&mut bytes).expect("no request came");
    assert_eq!(&bytes[..length], b"question");
    from
}

fn answer(server: &UdpSocket, to: SocketAddr) {
    server.send_to(b"answer", to).unwrap();
}

/// Waits for an answer, and gives its sender as the application sees it.
fn sender(client: &UdpSocket) -> SocketAddr {
    let mut bytes = [0; 16];
    let (length, from) = client.recv_from(&mut bytes).expect("no answer came");
    assert_eq!(&bytes[..length], b"answer");
    from
}

/// One question and answer; gives the sender that the client sees.
fn exchange(client: &UdpSocket, frontend: &str, server: &UdpSocket) -> SocketAddr {
    client.send_to(b"question", address(frontend)).unwrap();
    answer(server, request(server));
    sender(client)
}

/// The same over a connected socket.
fn exchange_connected(client: &UdpSocket, server: &UdpSocket) -> SocketAddr {
    client.send(b"question").unwrap();
    answer(server, request(server));
    sender(client)
}

#[test]
fn an_unconnected_socket_is_answered_by_the_frontend() {
    let world = World::new();
    let mut maps = world.attached();
    let (v4, v6) = (socket("127.0.1.1:5353"), socket("[fd00::1]:5353"));
    Service::udp(1, FRONTEND).group(1, 0, 1, &[&v4]).write(&mut maps);
    Service::udp(2, FRONTEND_V6).group(1, 0, 1, &[&v6]).write(&mut maps);
    let client = socket("0.0.0.0:0");
    for _ in 0..3 {
        assert_eq!(exchange(&client, FRONTEND, &v4), address(FRONTEND));
    }
    assert_eq!(exchange(&dual(), FRONTEND_V6, &v6), address(FRONTEND_V6));
    assert_eq!(exchange(&dual(), MAPPED, &v4), address(MAPPED));
    assert_eq!(outcome(&maps, Outcome::Translated), 5);
    assert_eq!(outcome(&maps, Outcome::OriginLost), 0);
}

#[test]
fn a_connected_socket_is_answered_by_the_frontend() {
    let world = World::new();
    let mut maps = world.attached();
    let (v4, v6) = (socket("127.0.1.1:5353"), socket("[fd00::1]:5353"));
    Service::udp(1, FRONTEND).group(1, 0, 1, &[&v4]).write(&mut maps);
    Service::udp(2, FRONTEND_V6).group(1, 0, 1, &[&v6]).write(&mut maps);
    let cases = [(socket("0.0.0.0:0"), FRONTEND, &v4), (dual(), FRONTEND_V6, &v6), (dual(), MAPPED, &v4)];
    for (client, frontend, server) in cases {
        client.connect(address(frontend)).unwrap();
        assert_eq!(client.peer_addr().unwrap(), address(frontend));
        for _ in 0..3 {
            assert_eq!(exchange_connected(&client, server), address(frontend));
        }
    }
    assert_eq!(outcome(&maps, Outcome::Translated), 3, "a connected socket chooses once");
}

#[test]
fn what_is_no_service_is_left_alone() {
    let world = World::new();
    let mut maps = world.attached();
    let (backend, plain) = (socket("127.0.1.1:5353"), socket("127.0.1.2:5353"));
    // TCP at the very same place is another frontend.
    Service::new(1, "127.0.1.2:5353").group(1, 0, 1, &[&backend]).write(&mut maps);
    Service::udp(2, FRONTEND).group(1, 0, 1, &[&backend]).write(&mut maps);
    let client = socket("0.0.0.0:0");
    assert_eq!(exchange(&client, "127.0.1.2:5353", &plain), address("127.0.1.2:5353"));
    client.connect("127.0.1.2:5353").unwrap();
    assert_eq!(exchange_connected(&client, &plain), address("127.0.1.2:5353"));
    assert_eq!(outcome(&maps, Outcome::Translated), 0);
    assert!(TcpStream::connect(FRONTEND).is_err(), "a UDP service is none of TCP");
    assert_eq!(outcome(&maps, Outcome::Translated), 0);
}

#[test]
fn datagrams_of_one_socket_are_balanced_and_counted() {
    let world = World::new();
    let mut maps = world.attached();
    let (a, b) = (socket("127.0.1.1:5353"), socket("127.0.1.2:5353"));
    let service = Service::udp(1, FRONTEND).group(1, 0, 1, &[&a]).group(2, 0, 3, &[&b]);
    service.write(&mut maps);
    let client = socket("0.0.0.0:0");
    let servers = [&a, &b];
    servers.iter().for_each(|server| server.set_nonblocking(true).unwrap());
    let mut seen = [0, 0];
    for _ in 0..400 {
        client.send_to(b"question", address(FRONTEND)).unwrap();
        let mut got = None;
        let arrived = wait_until(Duration::from_secs(5), || {
            got = servers.iter().position(|server| server.recv_from(&mut [0; 16]).is_ok());
            got.is_some()
        });
        assert!(arrived, "a datagram reached neither backend");
        seen[got.unwrap()] += 1;
    }
    // Five standard deviations around a quarter.
    assert!((57..=143).contains(&seen[0]), "{seen:?}");
    let counted = maps.services.read_counters(&[service.counter(0), service.counter(1)]).unwrap();
    assert_eq!([counted[0].connections, counted[1].connections], seen);
}

#[test]
fn two_services_that_share_a_backend_answer_each_as_itself() {
    let world = World::new();
    let mut maps = world.attached();
    let backend = socket("127.0.1.1:5353");
    Service::udp(1, FRONTEND).group(1, 0, 1, &[&backend]).write(&mut maps);
    Service::udp(2, OTHER).group(1, 0, 1, &[&backend]).write(&mut maps);
    let (one, two) = (socket("0.0.0.0:0"), socket("0.0.0.0:0"));
    one.send_to(b"question", address(FRONTEND)).unwrap();
    let from_one = request(&backend);
    two.send_to(b"question", address(OTHER)).unwrap();
    let from_two = request(&backend);
    answer(&backend, from_two);
    answer(&backend, from_one);
    assert_eq!(sender(&one), address(FRONTEND));
    assert_eq!(sender(&two), address(OTHER));
    // One socket that asks one after the other.
    for frontend in [FRONTEND, OTHER, FRONTEND] {
        assert_eq!(exchange(&one, frontend, &backend), address(frontend));
    }
    // A connected socket that also sends elsewhere.
    two.connect(FRONTEND).unwrap();
    let elsewhere = socket("127.0.1.2:5353");
    Service::udp(2, OTHER).group(1, 0, 1, &[&elsewhere]).write(&mut maps);
    two.send_to(b"question", address(OTHER)).unwrap();
    request(&elsewhere);
    assert_eq!(exchange_connected(&two, &backend), address(FRONTEND));
}

#[test]
fn a_socket_that_connects_again_shows_its_new_peer() {
    let world = World::new();
    let mut maps = world.attached();
    let (backend, plain) = (socket("127.0.1.1:5353"), socket("127.0.1.2:5353"));
    Service::udp(1, FRONTEND).group(1, 0, 1, &[&backend]).write(&mut maps);
    let client = socket("0.0.0.0:0");
    client.connect(FRONTEND).unwrap();
    assert_eq!(exchange_connected(&client, &backend), address(FRONTEND));
    client.connect("127.0.1.2:5353").unwrap();
    assert_eq!(exchange_connected(&client, &plain), address("127.0.1.2:5353"));
    // Dialled directly, the backend's address is nothing to hide.
    reconnect(&client, "127.0.1.1:5353");
    assert_eq!(client.peer_addr().unwrap(), address("127.0.1.1:5353"));
    assert_eq!(exchange_connected(&client, &backend), address("127.0.1.1:5353"));
}

#[test]
fn tcp_connects_by_the_thousand_leave_the_replies_alone() {
    let world = World::new();
    let mut maps = world.attached();
    let (backend, closed) = (socket("127.0.1.1:5353"), server("127.0.1.1:80"));
    Service::udp(1, FRONTEND).group(1, 0, 1, &[&backend]).write(&mut maps);
    Service::new(2, "10.96.0.1:80").group(1, 0, 1, &[&closed]).write(&mut maps);
    drop(closed);
    let client = socket("0.0.0.0:0");
    for _ in 0..60 {
        client.send_to(b"question", address(FRONTEND)).unwrap();
        let from = request(&backend);
        (0..50).for_each(|_| assert!(TcpStream::connect("10.96.0.1:80").is_err()));
        answer(&backend, from);
        assert_eq!(sender(&client), address(FRONTEND));
    }
    let connects = u64::from(REPLIES) * 40;
    assert!(outcome(&maps, Outcome::Translated) > connects, "more connects than replies have room");
}

#[test]
fn a_full_memory_forgets_what_was_used_least_recently() {
    // The kernel's list is in parts, one per CPU, and what nobody pushes out on one CPU stays there.
    stay_on_one_cpu();
    let world = World::new();
    let mut maps = world.attached();
    let backend = socket("127.0.1.1:5353");
    Service::udp(1, FRONTEND).group(1, 0, 1, &[&backend]).write(&mut maps);
    let idle = socket("0.0.0.0:0");
    idle.send_to(b"question", address(FRONTEND)).unwrap();
    let from = request(&backend);
    // The kernel keeps some elements free on each CPU, so a few rounds more than there is room.
    let clients: Vec<_> = (0..REPLIES * 8).map(|_| socket("0.0.0.0:0")).collect();
    clients.iter().for_each(|client| {
        assert_eq!(exchange(client, FRONTEND, &backend), address(FRONTEND));
    });
    answer(&backend, from);
    assert_eq!(sender(&idle), address("127.0.1.1:5353"), "forgotten, and the backend shows");
}

/// Keeps this thread, and with it the programs that its calls run, on one CPU.
fn stay_on_one_cpu() {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(this_thread, &one).unwrap();
}

/// Replaces the programs behind the links, as an upgrade does.
fn upgrade(world: &World, maps: Box<Maps>) -> Box<Maps> {
    drop(maps);
    let installation = world.installation();
    let Found::Adopted(mut maps) = installation.maps(CAPACITY).unwrap() else { panic!("built new maps") };
    let mut control = maps.control.read().unwrap();
    control.object ^= 1;
    maps.control.write(&control).unwrap();
    assert!(installation.attach(&mut maps).unwrap());
    maps
}

#[test]
fn an_upgrade_between_question_and_answer_changes_nothing() {
    let world = World::new();
    let mut maps = world.attached();
    let backend = socket("127.0.1.1:5353");
    Service::udp(1, FRONTEND).group(1, 0, 1, &[&backend]).write(&mut maps);
    let (client, connected) = (socket("0.0.0.0:0"), socket("0.0.0.0:0"));
    connected.connect(FRONTEND).unwrap();
    client.send_to(b"question", address(FRONTEND)).unwrap();
    connected.send(b"question").unwrap();
    let asked = [request(&backend), request(&backend)];
    let _maps = upgrade(&world, maps);
    asked.iter().for_each(|from| answer(&backend, *from));
    assert_eq!(sender(&client), address(FRONTEND));
    assert_eq!(sender(&connected), address(FRONTEND));
    assert_eq!(exchange(&client, FRONTEND, &backend), address(FRONTEND));
    assert_eq!(exchange_connected(&connected, &backend), address(FRONTEND));
}

#[test]
fn maps_of_another_size_keep_what_replies_need() {
    let world = World::new();
    let mut maps = world.attached();
    let backend = socket("127.0.1.1:5353");
    let service = Service::udp(1, FRONTEND).group(1, 0, 1, &[&backend]);
    service.write(&mut maps);
    let client = socket("0.0.0.0:0");
    client.send_to(b"question", address(FRONTEND)).unwrap();
    let from = request(&backend);
    let installation = world.installation();
    let capacity = Capacity { services: 128, ..CAPACITY };
    let Found::Built { maps: mut new, old: Some(_) } = installation.maps(capacity).unwrap() else {
        panic!("adopted maps of another size")
    };
    service.write(&mut new);
    assert!(installation.attach(&mut new).unwrap());
    answer(&backend, from);
    assert_eq!(sender(&client), address(FRONTEND));
    let wider = world.installation().with_replies(REPLIES * 2);
    let Found::Built { maps: new, .. } = wider.maps(capacity).unwrap() else { panic!("adopted") };
    assert_eq!(new.replies(), REPLIES * 2);
}
