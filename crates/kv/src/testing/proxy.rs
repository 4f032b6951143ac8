//! A path to a server that can be slow, frozen or cut.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::etcd_endpoint::EtcdEndpoint;

/// Forwards connections to a server. What the server sends arrives late by a delay; nothing is held up by what was
/// sent before it.
pub struct Proxy {
    address: SocketAddr,
    path: Arc<Path>,
}

#[derive(Default)]
struct Path {
    state: Mutex<State>,
    resumed: Condvar,
}

#[derive(Default)]
struct State {
    delay: Duration,
    is_frozen: bool,
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 as long as the test lives.
    pub fn start(server: &EtcdEndpoint) -> Self {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), server)
    }

    /// The same at a given address. Both sides are in the calling thread's network namespace.
    pub fn listen(address: SocketAddr, server: &EtcdEndpoint) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (path, server) = (Arc::<Path>::default(), server.authority());
        let shared = Arc::clone(&path);
        thread::spawn(move || {
            listener.incoming().map_while(Result::ok).for_each(|client| accept(client, &server, &shared));
        });
        Self { address, path }
    }

    pub fn endpoint(&self) -> EtcdEndpoint {
        format!("http://{}", self.address).parse().unwrap()
    }

    /// How late the server's bytes arrive from now on.
    pub fn delay(&self, delay: Duration) {
        self.path.state.lock().unwrap().delay = delay;
    }

    /// Holds everything up, in both directions and without a word.
    pub fn freeze(&self) {
        self.path.state.lock().unwrap().is_frozen = true;
    }

    /// The opposite of [`Proxy::freeze`]: what was held up arrives.
    pub fn resume(&self) {
        self.path.state.lock().unwrap().is_frozen = false;
        self.path.resumed.notify_all();
    }

    /// Ends all connections, and new ones at once.
    pub fn cut(&self) {
        let mut state = self.path.state.lock().unwrap();
        state.is_cut = true;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The opposite of [`Proxy::cut`].
    pub fn heal(&self) {
        self.path.state.lock().unwrap().is_cut = false;
    }
}

impl Path {
    fn pass(&self) {
        let state = self.state.lock().unwrap();
        drop(self.resumed.wait_while(state, |state| state.is_frozen).unwrap());
    }
}

fn accept(client: TcpStream, server: &str, path: &Arc<Path>) {
    if path.state.lock().unwrap().is_cut {
        return;
    }
    // A server that doesn't listen: the client's connection ends, too.
    let Ok(upstream) = TcpStream::connect(server) else { return };
    for stream in [&client, &upstream] {
        stream.set_nodelay(true).unwrap();
        path.state.lock().unwrap().open.push(stream.try_clone().unwrap());
    }
    let (from_client, to_client) = (client.try_clone().unwrap(), client);
    let (from_server, to_server) = (upstream.try_clone().unwrap(), upstream);
    let late = Arc::clone(path);
    carry(from_client, to_server, path, || Duration::ZERO);
    carry(from_server, to_client, path, move || late.state.lock().unwrap().delay);
}

/// Carries bytes from one socket to another, each by its delay later.
fn carry(
    mut from: TcpStream,
    to: TcpStream,
    path: &Arc<Path>,
    delay: impl Fn() -> Duration + Send + 'static,
) {
    let (sender, late) = channel();
    let path = Arc::clone(path);
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + delay(), buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || deliver(&late, to, &path));
}

fn deliver(late: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream, path: &Path) {
    for (due, bytes) in late {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        path.pass();
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
