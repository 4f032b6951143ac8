//! Readers: connections and streams of watches, which count events and take the time, and as little else as can be: they run
//! beside the server on the same machine.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::servers::Server;
use crate::lab::netns;
use crate::wait::unix_us;

/// What a crowd has heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) events: usize,
    /// From when a change was made, as its record says, until each reader had it.
    pub(super) delays_us: Vec<u32>,
}

/// Readers that are connected.
pub(super) struct Crowd {
    heard: Arc<AtomicUsize>,
    leave: CancellationToken,
    thread: JoinHandle<Result<Heard>>,
}

impl Crowd {
    /// Connects, and opens streams one after the other over the connections; all of them have been answered then.
    pub(super) fn gather(server: &Server, connections: usize, streams: usize) -> Result<Self> {
        let (heard, leave) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (server, counted, token) = (Arc::new(Target::of(server)), heard.clone(), leave.clone());
        let run = move || {
            netns::enter_by_path(&netns::path_of(&server.netns))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let crowd = open(&server, connections, streams, &counted).await?;
                ready.send(())?;
                token.cancelled().await;
                crowd.end().await
            })
        };
        let thread = std::thread::Builder::new().name("readers".into()).spawn(run)?;
        if is_ready.recv().is_err() {
            let ended = thread.join().map_err(|_| anyhow!("the readers panicked"))?;
            ended.context("connecting the readers")?;
            return Err(anyhow!("the readers have ended"));
        }
        Ok(Self { heard, leave, thread })
    }

    /// Ends once so many events were heard, or after so long.
    pub(super) fn leave(self, events: usize, patience: Duration) -> Result<Heard> {
        let deadline = Instant::now() + patience;
        while self.heard.load(Ordering::Relaxed) < events && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.leave.cancel();
        self.thread.join().map_err(|_| anyhow!("the readers panicked"))?
    }
}

struct Target {
    address: std::net::SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    netns: String,
}

impl Target {
    fn of(server: &Server) -> Self {
        Self { address: server.address, tls: server.tls.clone(), netns: server.netns.clone() }
    }
}

struct Open {
    streams: JoinSet<Result<Vec<u32>>>,
    connections: JoinSet<()>,
    stop: CancellationToken,
    /// As long as there is one, its connection stays.
    _senders: Vec<SendRequest<Asking>>,
}

async fn open(target: &Target, connections: usize, streams: usize, heard: &Arc<AtomicUsize>) -> Result<Open> {
    let (mut tasks, mut told) = (JoinSet::new(), JoinSet::new());
    let (mut senders, stop) = (Vec::new(), CancellationToken::new());
    for _ in 0..connections {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(target.tls.clone()).connect(name, stream).await?;
        let builder = Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tasks.spawn(async move { drop(connection.await) });
        senders.push(sender);
    }
    for number in 0..streams {
        let sender = &mut senders[number % connections];
        sender.ready().await?;
        let request = http::Request::post("https://127.0.0.1/etcdserverpb.Watch/Watch")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Asking(Some(watch_everything())))?;
        let response = sender.send_request(request).await?;
        ensure!(response.status() == 200, "{}", response.status());
        let mut body = response.into_body();
        let mut messages = Messages::default();
        messages.next(&mut body).await?.context("the stream ended before the watch was made")?;
        let (heard, stop) = (heard.clone(), stop.clone());
        told.spawn(async move { follow(body, messages, &heard, &stop).await });
    }
    Ok(Open { streams: told, connections: tasks, stop, _senders: senders })
}

impl Open {
    async fn end(mut self) -> Result<Heard> {
        self.stop.cancel();
        let mut heard = Heard::default();
        while let Some(ended) = self.streams.join_next().await {
            heard.delays_us.extend(ended??);
        }
        heard.events = heard.delays_us.len();
        self.connections.shutdown().await;
        Ok(heard)
    }
}

async fn follow(
    mut body: Incoming,
    mut messages: Messages,
    heard: &AtomicUsize,
    stop: &CancellationToken,
) -> Result<Vec<u32>> {
    let mut delays = Vec::new();
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => return Ok(delays),
            message = messages.next(&mut body) => message?.context("the stream ended")?,
        };
        let (now, before) = (unix_us(), delays.len());
        for event in events(&message) {
            let changed = changed_unix_us(event).context("an event without a time")?;
            delays.push(u32::try_from(now.saturating_sub(changed)).unwrap_or(u32::MAX));
        }
        heard.fetch_add(delays.len() - before, Ordering::Relaxed);
    }
}

/// A request's message, and then nothing, without an end.
struct Asking(Option<Bytes>);

impl Body for Asking {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
    }
}

/// A `WatchRequest` of all records, framed.
fn watch_everything() -> Bytes {
    let text = |tag: u8, text: &[u8]| [&[tag << 3 | 2, text.len() as u8], text].concat();
    let create = [text(1, b"clustermesh/v1/"), text(2, b"clustermesh/v10")].concat();
    let request = text(1, &create);
    [&[0, 0, 0, 0, request.len() as u8], &request[..]].concat().into()
}

/// Puts messages together out of what comes.
#[derive(Default)]
struct Messages(BytesMut);

impl Messages {
    async fn next(&mut self, body: &mut Incoming) -> Result<Option<Bytes>> {
        loop {
            if self.0.len() >= 5 {
                let length = u32::from_be_bytes([self.0[1], self.0[2], self.0[3], self.0[4]]) as usize;
                if self.0.len() >= 5 + length {
                    self.0.advance(5);
                    return Ok(Some(self.0.split_to(length).freeze()));
                }
            }
            let Some(frame) = body.frame().await else { return Ok(None) };
            match frame?.into_data() {
                Ok(data) => self.0.extend_from_slice(&data),
                Err(trailers) => return Err(anyhow!("the stream ended: {trailers:?}")),
            }
        }
    }
}

/// The events of a `WatchResponse`: its fields of number 11.
fn events(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            let tag = varint(&mut rest)?;
            match tag & 7 {
                0 => drop(varint(&mut rest)?),
                2 => {
                    let length = usize::try_from(varint(&mut rest)?).ok()?;
                    let (field, behind) = rest.split_at_checked(length)?;
                    rest = behind;
                    if tag >> 3 == 11 {
                        return Some(field);
                    }
                }
                _ => return None,
            }
        }
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 127) << shift;
        if byte & 128 == 0 {
            return Some(value);
        }
    }
    None
}

/// What a slice's record ends with.
fn changed_unix_us(event: &[u8]) -> Option<u64> {
    let end = event.strip_suffix(b"}")?;
    let digits = end.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&end[end.len() - digits..]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_their_times_are_found_in_a_message() {
        let event = |text: &[u8]| [&[11 << 3 | 2, text.len() as u8], text].concat();
        let message = [&[0x0a, 2, 8, 1, 0x10, 0][..], &event(b"a}"), &event(br#"{"x":1700}"#)].concat();
        let found: Vec<&[u8]> = events(&message).collect();
        assert_eq!(found, [&b"a}"[..], br#"{"x":1700}"#]);
        assert_eq!(changed_unix_us(found[1]), Some(1700));
        assert_eq!(changed_unix_us(found[0]), None);
    }
}
