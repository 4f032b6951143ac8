//! A pod's server: answers every connection, and every DNS question, with its own name, and ends as servers on
//! Kubernetes should.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::dns;

/// How long a client may take over its request, and to close after the answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Serve {
    /// The answer.
    #[arg(long)]
    answer: String,
    /// Where to listen, on all addresses of both families.
    #[arg(long)]
    port: u16,
    /// How long to go on accepting after SIGTERM, in milliseconds with their unit.
    #[arg(long, default_value = "0ms", value_parser = super::client::parse_duration)]
    linger: Duration,
}

impl Serve {
    /// Serves until SIGTERM; then lingers, closes the listener, and ends when every request is answered.
    pub async fn run(self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, self.port)).await;
        let listener = listener.with_context(|| format!("listening at port {}", self.port))?;
        let questions = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, self.port)).await;
        let questions = questions.with_context(|| format!("listening at UDP port {}", self.port))?;
        let requests = TaskTracker::new();
        let linger = async {
            terminate.recv().await;
            sleep(self.linger).await;
        };
        tokio::select! {
            error = accept(&listener, &requests, &self.answer) => match error? {},
            error = answer_questions(&questions, &self.answer) => match error? {},
            () = linger => {}
        }
        drop(listener);
        requests.close();
        requests.wait().await;
        Ok(())
    }
}

async fn accept(listener: &TcpListener, requests: &TaskTracker, answer: &str) -> Result<Infallible> {
    let body = format!("{answer}\n");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let response = head + &body;
    loop {
        let (stream, _) = listener.accept().await.context("accepting")?;
        let response = response.clone();
        requests.spawn(async move {
            // A client that goes away early has no use for an answer; it knows why itself.
            let _ = timeout(PATIENCE, answer_one(stream, response.as_bytes())).await;
        });
    }
}

/// Answers DNS questions until the socket fails. A question that can't be answered is left to the client's timeout.
async fn answer_questions(socket: &UdpSocket, answer: &str) -> Result<Infallible> {
    let mut question = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut question).await.context("receiving")?;
        if let Some(response) = dns::answer(&question[..length], answer) {
            // An unreachable client has no use for an answer.
            let _ = socket.send_to(&response, client).await;
        }
    }
}

async fn answer_one(mut stream: TcpStream, response: &[u8]) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(256);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 16_384 {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(response).await?;
    // The client closes first, so that the address pairs in TIME_WAIT are on the side that picks ports.
    while stream.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}
