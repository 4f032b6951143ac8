//! Ten thousand hostile connections, of every kind that is known, beside a client that behaves: it hears every change, and the
//! process stays within a bound of memory.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions, WatchOptions};
use mesh_kv::testing::{Etcd, wait_until};
use prost::Message;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::testing::{Certificates, DEADLINE, Replica, client_config};
use super::wire::{WatchAsked, WatchCreateRequest, WatchRequest};

const PREFIX: &str = "clustermesh/v1/";
/// Connections at a time, so that the test's own end stays small, and how often.
const WAVE: usize = 500;
const WAVES: usize = 20;
/// How long a hostile connection is kept up at most; most are closed by the server before.
const STAY: Duration = Duration::from_secs(2);
/// How often what floods is sent.
const ROUNDS: usize = 20;
/// How much the process, which is server and attackers, may grow.
const BOUND_BYTES: usize = 256 << 20;

#[derive(Clone, Copy, Debug)]
enum Attack {
    /// Connects and says nothing.
    Silence,
    /// Says what no TLS client says.
    Noise,
    /// Begins a handshake and goes on a byte at a time.
    SlowHandshake,
    /// Ends in the middle of the handshake.
    HalfOpen,
    /// The connection's preface, and nothing behind it.
    NoSettings,
    OversizedFrame,
    /// Far more streams than there may be.
    Streams,
    /// Opens streams and resets them at once.
    RapidReset,
    Continuations,
    /// Floods that have to be answered, from one who reads nothing.
    Settings,
    Pings,
    /// Watches with a window of nothing.
    ZeroWindow,
    /// The same, a byte at a time.
    TinyWindow,
    ManyWatches,
}

const ALL: [Attack; 14] = [
    Attack::Silence,
    Attack::Noise,
    Attack::SlowHandshake,
    Attack::HalfOpen,
    Attack::NoSettings,
    Attack::OversizedFrame,
    Attack::Streams,
    Attack::RapidReset,
    Attack::Continuations,
    Attack::Settings,
    Attack::Pings,
    Attack::ZeroWindow,
    Attack::TinyWindow,
    Attack::ManyWatches,
];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn window(bytes: u32) -> Vec<u8> {
    let mut setting = vec![0, INITIAL_WINDOW_SIZE];
    setting.extend(bytes.to_be_bytes());
    frame(SETTINGS, 0, 0, &setting)
}

/// Headers of a call, none of them compressed.
fn headers() -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/etcdserverpb.Watch/Watch"),
        (":authority", "hoth"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

fn call(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &headers())
}

/// A request to watch everything from the beginning.
fn watch(stream: u32) -> Vec<u8> {
    let create = WatchCreateRequest {
        key: PREFIX.into(),
        range_end: b"clustermesh/v2"[..].into(),
        start_revision: 2,
        prev_kv: true,
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest { asked: Some(WatchAsked::Create(create)) }.encode_to_vec();
    let mut message = vec![0];
    message.extend(u32::try_from(request.len()).unwrap().to_be_bytes());
    message.extend(request);
    frame(DATA, 0, stream, &message)
}

/// Client streams have odd numbers.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

/// What is sent behind the preface at once, and then again and again.
fn frames(attack: Attack) -> (Vec<u8>, Vec<u8>) {
    let open = |count: u32| -> Vec<u8> {
        streams(count).flat_map(|stream| [call(stream), watch(stream)].concat()).collect()
    };
    let begin = |more: Vec<u8>| [window(1 << 20), more].concat();
    match attack {
        Attack::OversizedFrame => (begin(vec![255, 255, 255, DATA, 0, 0, 0, 0, 1]), vec![7; 16 << 10]),
        Attack::Streams => (begin(streams(600).flat_map(call).collect()), Vec::new()),
        Attack::RapidReset => {
            let reset = |stream| [call(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
            (begin(streams(600).flat_map(reset).collect()), Vec::new())
        }
        Attack::Continuations => {
            let part = frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b'].repeat(1000));
            (begin(frame(HEADERS, 0, 1, &headers())), part)
        }
        Attack::Settings => (begin(Vec::new()), window(1 << 16).repeat(500)),
        Attack::Pings => (begin(Vec::new()), frame(PING, 0, 0, &[1; 8]).repeat(500)),
        Attack::ZeroWindow => ([window(0), open(50)].concat(), Vec::new()),
        Attack::TinyWindow => {
            let more =
                streams(50).flat_map(|stream| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1])).collect();
            ([window(1), open(50)].concat(), more)
        }
        Attack::ManyWatches => {
            let many = watch(1).repeat(300);
            (begin([call(1), many].concat()), Vec::new())
        }
        _ => (Vec::new(), Vec::new()),
    }
}

/// Goes on until the server has closed the connection, or for so long.
async fn insist(mut stream: impl AsyncRead + AsyncWrite + Unpin, first: &[u8], again: &[u8], reads: bool) {
    let work = async {
        if stream.write_all(first).await.is_err() {
            return;
        }
        let mut answer = vec![0; 4096];
        for round in 0.. {
            if round < ROUNDS && !again.is_empty() && stream.write_all(again).await.is_err() {
                return;
            }
            if reads && matches!(stream.read(&mut answer).await, Ok(0) | Err(_)) {
                return;
            }
            if !reads && (again.is_empty() || round >= ROUNDS) {
                return std::future::pending().await;
            }
        }
    };
    let _ = tokio::time::timeout(STAY, work).await;
}

async fn attack(attack: Attack, address: SocketAddr, config: Arc<ClientConfig>) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    // The beginning of a record that says it is longer.
    let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    match attack {
        Attack::Silence => return insist(stream, &[], &[], false).await,
        Attack::Noise => return insist(stream, &[0x5a; 4096], &[0x5a; 4096], true).await,
        Attack::SlowHandshake => {
            let _ = stream.write_all(&hello).await;
            let slow = async {
                while stream.write_all(&[7]).await.is_ok() {
                    tokio::time::sleep(STAY / 20).await;
                }
            };
            let _ = tokio::time::timeout(STAY, slow).await;
            return;
        }
        Attack::HalfOpen => {
            let _ = stream.write_all(&hello).await;
            let _ = stream.shutdown().await;
            return;
        }
        _ => {}
    }
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let Ok(mut stream) = TlsConnector::from(config).connect(name, stream).await else { return };
    let _ = stream.write_all(PREFACE).await;
    let (first, again) = frames(attack);
    let reads = !matches!(attack, Attack::Settings | Attack::Pings | Attack::ZeroWindow | Attack::TinyWindow);
    insist(stream, &first, &again, reads).await;
}

/// Bytes of memory that the process has now.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Hears every change, one after the other, as soon as it is written. Gives how many there were, once the token is cancelled.
async fn behave(replica: Client, etcd: Client, over: CancellationToken) -> usize {
    let options = WatchOptions::new().with_prefix();
    let mut stream = replica.watch_client().watch(PREFIX, Some(options)).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    let mut changes = 0;
    while !over.is_cancelled() {
        // Big ones, so that who does not read has something to leave.
        let key = format!("{PREFIX}services/hoth/ns/s{}", changes % 20);
        etcd.kv_client().put(key, format!("{changes} {}", "x".repeat(20_000)), None).await.unwrap();
        let told =
            tokio::time::timeout(DEADLINE, stream.message()).await.expect("a change is heard").unwrap();
        let value = told.unwrap().events()[0].kv().unwrap().value().to_vec();
        assert!(value.starts_with(format!("{changes} ").as_bytes()));
        let found = replica.kv_client().get(PREFIX, Some(GetOptions::new().with_prefix())).await.unwrap();
        assert!(found.count() > 0);
        changes += 1;
    }
    changes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hostile_connections_take_nothing_from_who_behaves() {
    let (dir, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let etcd = Etcd::start(dir.path());
    etcd.ctl(&["put", &format!("{PREFIX}clusters/hoth"), r#"{"incarnation":"one"}"#]);
    let mut replica = Replica::of_hoth(&etcd, &certificates).await;
    replica.reach(2).await;
    let direct = Client::connect([etcd.endpoint().to_string()], None).await.unwrap();
    let over = CancellationToken::new();
    let behaved = tokio::spawn(behave(replica.client(&certificates, "endor"), direct, over.clone()));
    let config = Arc::new(client_config(&certificates.folder("yavin")));
    let (address, before, mut most) = (replica.address, resident(), 0);
    for wave in 0..WAVES {
        let mut attacks = JoinSet::new();
        for number in 0..WAVE {
            let kind = ALL[(wave * WAVE + number) % ALL.len()];
            drop(attacks.spawn(attack(kind, address, Arc::clone(&config))));
        }
        while attacks.join_next().await.is_some() {
            most = most.max(resident());
        }
        let grown = most.saturating_sub(before);
        println!("wave {wave}: {} MiB more at most", grown >> 20);
        assert!(grown < BOUND_BYTES, "{grown} bytes more than before");
    }
    over.cancel();
    let changes = behaved.await.unwrap();
    println!("{changes} changes were heard meanwhile");
    assert!(changes > 0);
    let ended = || replica.metrics().contains("clustermesh_mesh_api_connections 0\n");
    wait_until("all connections to have ended", DEADLINE, ended);
    assert!(replica.metrics().contains("clustermesh_mesh_api_watch_streams 0\n"), "{}", replica.metrics());
}
