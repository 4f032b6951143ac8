//! A client that opens connections at a constant rate, however long they take (an open loop), bounded in number
//! and in time. Every connection becomes one line on standard output.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::dns;
use super::record::{Failure, Outcome, Record};
use crate::wait::unix_us;

#[derive(Debug, clap::Args)]
pub struct Load {
    /// Address or name, and port to dial. A name is looked up for every connection.
    #[arg(long)]
    target: String,
    /// How to ask.
    #[arg(long, value_enum, default_value_t)]
    transport: Transport,
    /// New connections per second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How long a connection with its request may take.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    timeout: Duration,
    /// Connections under way at once, at most; beyond, an attempt counts as an error.
    #[arg(long, default_value_t = 1000)]
    in_flight: usize,
    /// When to stop, if nobody says so earlier.
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    duration: Duration,
}

/// How a client asks who is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Transport {
    /// A connection with a request.
    #[default]
    Tcp,
    /// A DNS question, by a socket that may send anywhere.
    Udp,
    /// A DNS question, by a socket that is connected: it hears of refusals.
    ConnectedUdp,
}

/// `10ms`, `2s` or `5m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("{text:?} begins with no number"))?;
    match &text[digits..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => Err(format!("{text:?} ends with none of the units ms, s, m")),
    }
}

impl Load {
    /// Dials until SIGTERM or the duration's end, then waits for what is under way.
    pub async fn run(self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
        let (records, lines) = mpsc::channel(4096);
        let writer = tokio::spawn(write(lines));
        let dials = TaskTracker::new();
        tokio::select! {
            () = self.dial(&dials, &records) => {}
            () = sleep(self.duration) => {}
            _ = terminate.recv() => {}
        }
        dials.close();
        dials.wait().await;
        drop(records);
        writer.await.context("the writer panicked")?
    }

    async fn dial(&self, dials: &TaskTracker, records: &mpsc::Sender<Record>) {
        let room = Arc::new(Semaphore::new(self.in_flight));
        let target: Arc<str> = self.target.as_str().into();
        let mut ticks = interval(Duration::from_secs(1) / self.rate.max(1));
        // Late ticks are made up for: the rate is a promise.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            ticks.tick().await;
            let permit = room.clone().try_acquire_owned();
            let (target, patience, records) = (target.clone(), self.timeout, records.clone());
            let transport = self.transport;
            dials.spawn(async move {
                let record = match permit {
                    Ok(_held) => attempt(&target, transport, patience).await,
                    Err(_) => overload(),
                };
                // Nobody reads any more: the run is over.
                let _ = records.send(record).await;
            });
        }
    }
}

fn overload() -> Record {
    Record { start_unix_us: unix_us(), latency_us: 0, outcome: Outcome::Error(Failure::Overload) }
}

async fn attempt(target: &str, transport: Transport, patience: Duration) -> Record {
    let (start_unix_us, start) = (unix_us(), Instant::now());
    let outcome = match timeout(patience, resolve_and_request(target, transport)).await {
        Ok(Ok(answer)) => Outcome::Answer(answer),
        Ok(Err(failure)) => Outcome::Error(failure),
        Err(_) => Outcome::Error(Failure::Timeout),
    };
    let latency_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    Record { start_unix_us, latency_us, outcome }
}

/// A name is looked up anew each time, as by a client that keeps nothing; an address costs nothing here.
async fn resolve_and_request(target: &str, transport: Transport) -> Result<String, Failure> {
    let mut found = lookup_host(target).await.map_err(|_| Failure::Unresolved)?;
    let address = found.next().ok_or(Failure::Unresolved)?;
    let answer = match transport {
        Transport::Tcp => request(address).await,
        Transport::Udp => ask(address, false).await,
        Transport::ConnectedUdp => ask(address, true).await,
    };
    answer.map_err(|error| Failure::of(&error))
}

async fn request(target: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: rebel-base\r\nconnection: close\r\n\r\n").await?;
    let mut response = Vec::with_capacity(256);
    loop {
        if stream.read_buf(&mut response).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        // The body is one line, so its end is the answer's.
        if let Some(head) = response.windows(4).position(|end| end == b"\r\n\r\n")
            && let Some(body) = response[head + 4..].strip_suffix(b"\n")
        {
            return Ok(String::from_utf8_lossy(body).into_owned());
        }
    }
}

/// Asks one question; what comes from elsewhere is no answer.
async fn ask(target: SocketAddr, connected: bool) -> std::io::Result<String> {
    let any = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    if connected {
        socket.connect(target).await?;
        socket.send(dns::QUESTION).await?;
    } else {
        socket.send_to(dns::QUESTION, target).await?;
    }
    let mut response = [0; 512];
    let (length, sender) = socket.recv_from(&mut response).await?;
    let text = response.get(..length).and_then(dns::text).filter(|_| sender == target);
    text.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

async fn write(mut lines: mpsc::Receiver<Record>) -> Result<()> {
    let mut out = tokio::io::stdout();
    let mut buffer = Vec::with_capacity(4096);
    while let Some(record) = lines.recv().await {
        serde_json::to_writer(&mut buffer, &record).context("rendering a record")?;
        buffer.push(b'\n');
        if lines.is_empty() || buffer.len() > 4000 {
            out.write_all(&buffer).await.context("writing records")?;
            out.flush().await.context("writing records")?;
            buffer.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(parse_duration("150ms"), Ok(Duration::from_millis(150)));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert!(parse_duration("2").is_err());
        assert!(parse_duration("s").is_err());
    }
}
