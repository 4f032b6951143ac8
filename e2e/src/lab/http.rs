//! GET requests to the lab's processes: over unix sockets, and over TCP inside a namespace.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long a single answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Door {
    Unix(PathBuf),
    /// The calling thread must be in the right namespace.
    Tcp(SocketAddr),
}

/// The body of a successful answer.
pub fn fetch(door: &Door, path: &str) -> Result<String> {
    runtime()?.block_on(async {
        let answer = tokio::time::timeout(PATIENCE, async {
            let response = request(door, path).await?;
            let status = response.status();
            let body = response.into_body().collect().await.context("reading the answer")?.to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            ensure!(status.is_success(), "GET {path}: {status}: {}", text.trim());
            Ok(text)
        });
        answer.await.with_context(|| format!("GET {path}: no answer within {PATIENCE:?}"))?
    })
}

/// The value of a series among metrics in their text format.
pub(crate) fn series(metrics: &str, series: &str) -> Result<f64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = value.with_context(|| format!("there is no series {series}"))?;
    value.parse().with_context(|| format!("{series} is {value}"))
}

/// Hands every line of an endless answer to `take`, until the server ends it or `take` says `false`.
pub(crate) fn follow(door: &Door, path: &str, mut take: impl FnMut(&str) -> bool) -> Result<()> {
    runtime()?.block_on(async {
        let mut body = request(door, path).await?.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.context("reading the stream")?;
            pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                if !take(String::from_utf8_lossy(&line).trim()) {
                    return Ok(());
                }
            }
        }
        bail!("the server ended the stream {path}")
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")
}

async fn request(door: &Door, path: &str) -> Result<Response<Incoming>> {
    match door {
        Door::Unix(socket) => {
            let stream = UnixStream::connect(socket).await;
            exchange(stream.with_context(|| format!("connecting to {}", socket.display()))?, path).await
        }
        Door::Tcp(address) => {
            let stream = TcpStream::connect(address).await;
            exchange(stream.with_context(|| format!("connecting to {address}"))?, path).await
        }
    }
}

async fn exchange<S>(stream: S, path: &str) -> Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.context("beginning HTTP")?;
    // It lives as long as the runtime of the one request; its errors reach the request too.
    drop(tokio::spawn(connection));
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new());
    sender.send_request(request.context("building a request")?).await.context("sending the request")
}
