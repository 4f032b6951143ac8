//! A path to a server that can be slow, or cut.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::endpoint::Endpoint;

/// Forwards connections to a server. What the server sends arrives late by a delay; nothing is held up by what was
/// sent before it.
pub struct Proxy {
    address: SocketAddr,
    path: Arc<Mutex<Path>>,
}

#[derive(Default)]
struct Path {
    delay: Duration,
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 as long as the test lives.
    pub fn start(server: &Endpoint) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (path, server) = (Arc::<Mutex<Path>>::default(), server.authority());
        let shared = Arc::clone(&path);
        thread::spawn(move || {
            listener.incoming().map_while(Result::ok).for_each(|client| accept(client, &server, &shared));
        });
        Self { address, path }
    }

    pub fn endpoint(&self) -> Endpoint {
        format!("http://{}", self.address).parse().unwrap()
    }

    /// How late the server's bytes arrive from now on.
    pub fn delay(&self, delay: Duration) {
        self.path.lock().unwrap().delay = delay;
    }

    /// Ends all connections, and new ones at once.
    pub fn cut(&self) {
        let mut path = self.path.lock().unwrap();
        path.is_cut = true;
        for stream in path.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The opposite of [`Proxy::cut`].
    pub fn heal(&self) {
        self.path.lock().unwrap().is_cut = false;
    }
}

fn accept(client: TcpStream, server: &str, path: &Arc<Mutex<Path>>) {
    if path.lock().unwrap().is_cut {
        return;
    }
    // A server that doesn't listen: the client's connection ends, too.
    let Ok(upstream) = TcpStream::connect(server) else { return };
    for stream in [&client, &upstream] {
        stream.set_nodelay(true).unwrap();
        path.lock().unwrap().open.push(stream.try_clone().unwrap());
    }
    let (from_client, to_client) = (client.try_clone().unwrap(), client);
    let (from_server, to_server) = (upstream.try_clone().unwrap(), upstream);
    let path = Arc::clone(path);
    carry(from_client, to_server, || Duration::ZERO);
    carry(from_server, to_client, move || path.lock().unwrap().delay);
}

/// Carries bytes from one socket to another, each by its delay later.
fn carry(mut from: TcpStream, to: TcpStream, delay: impl Fn() -> Duration + Send + 'static) {
    let (sender, late) = channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + delay(), buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || deliver(&late, to));
}

fn deliver(late: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, bytes) in late {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
