//! MPTCP: its subflows are what connects, and another socket is what the application asks and closes.
//!
//! Where the kernel has no MPTCP, the tests show that it refuses the socket; `make test-kernels` runs them on kernels that
//! have it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

use support::{Service, World, cells_in_use, server};

const FRONTEND: &str = "10.96.0.1:80";

/// A socket as `mptcpize` makes them; nothing where the kernel has no MPTCP.
fn mptcp(domain: Domain) -> Option<Socket> {
    let made = Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP));
    match made {
        Ok(socket) => Some(socket),
        Err(error) => {
            let refusals = [libc::EPROTONOSUPPORT, libc::ENOPROTOOPT, libc::EINVAL];
            assert!(error.raw_os_error().is_some_and(|code| refusals.contains(&code)), "{error}");
            println!("NOT RUN: this kernel has no MPTCP");
            None
        }
    }
}

/// Whether this kernel tells to which MPTCP socket a subflow belongs.
fn told() -> bool {
    node_agent::features::probe().items.iter().any(|feature| feature.name == "mptcp" && feature.present)
}

fn connects(domain: Domain, frontend: &str, backend: &str) {
    let world = World::new();
    let mut maps = world.attached();
    let backend = server(backend);
    Service::new(1, frontend).group(1, 0, 1, &[&backend]).write(&mut maps);
    let Some(socket) = mptcp(domain) else { return };
    let frontend: SocketAddr = frontend.parse().unwrap();
    socket.connect(&frontend.into()).unwrap();
    assert!(support::wait_until(std::time::Duration::from_secs(5), || backend.accept().is_ok()));
    if !told() {
        println!("NOT RUN: this kernel can't tell an MPTCP socket by its subflow");
        return;
    }
    assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(frontend));
    assert_eq!(cells_in_use(&world), 0, "a subflow has a cell, which nobody would give back");
}

#[test]
fn an_mptcp_socket_sees_the_frontend_and_takes_no_cell() {
    connects(Domain::IPV4, FRONTEND, "127.0.1.1:8080");
}

#[test]
fn an_mptcp_socket_of_ipv6_does_too() {
    connects(Domain::IPV6, "[fd96::1]:80", "[fd00::1]:8080");
}
