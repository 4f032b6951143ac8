//! The servers that are dialled: one that closes what it accepts, one that echoes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// Accepts and closes.
pub(crate) const ACCEPT_PORT: u16 = 8080;
/// Echoes, datagrams too.
pub(crate) const ECHO_PORT: u16 = 8081;

/// Long enough never to be full: a full one would drop SYNs, which come again after a second.
const BACKLOG: i32 = 4096;

/// Serves until it is killed.
pub fn run() -> Result<()> {
    let echo = listen(ECHO_PORT)?;
    thread::spawn(move || {
        for stream in echo.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    // Of one address, so that answers come from where they were asked.
    let address = (super::testbed::backend(0), ECHO_PORT);
    let datagrams = UdpSocket::bind(address).with_context(|| format!("binding {address:?}"))?;
    thread::spawn(move || echo_datagrams(&datagrams));
    let accept = listen(ACCEPT_PORT)?;
    loop {
        // The client has reset it by now, or will.
        let _ = accept.accept();
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listen = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        std::io::Result::Ok(TcpListener::from(socket))
    };
    listen().with_context(|| format!("listening at {address}"))
}

fn answer(mut stream: TcpStream) {
    let mut buffer = [0; 64];
    // Both ends of the connection are ours; its end is the end.
    let _ = stream.set_nodelay(true);
    while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 64];
    loop {
        // Whoever asked and is gone wants no answer.
        let _ = socket.recv_from(&mut buffer).and_then(|(size, from)| socket.send_to(&buffer[..size], from));
    }
}
