//! HTTP over a unix socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{Answer, DEADLINE, Request};

/// Asks whoever listens at a socket; `who` is what should.
pub(crate) async fn request(socket: &Path, who: &str, request: &Request) -> Result<Answer> {
    within(DEADLINE, socket, who, request).await
}

async fn within(deadline: Duration, socket: &Path, who: &str, request: &Request) -> Result<Answer> {
    let answer = tokio::time::timeout(deadline, fetch(socket, who, request)).await;
    let late =
        || format!("the {who} behind {} did not answer within {} s", socket.display(), deadline.as_secs());
    answer.with_context(late)?
}

async fn fetch(socket: &Path, who: &str, request: &Request) -> Result<Answer> {
    let stream = UnixStream::connect(socket).await.with_context(|| unreachable(socket, who))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let body = Full::new(Bytes::from(request.body.clone().unwrap_or_default()));
    let request = hyper::Request::builder()
        .method(request.method)
        .uri(&request.path)
        .header("host", who)
        .header("content-type", "application/json")
        .body(body)?;
    // Owns the sender, whose end is the connection's.
    let ask = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok(Answer::new(status, &body))
    };
    let (answer, ended) = tokio::join!(ask, connection);
    match (answer, ended) {
        (Ok(answer), _) => Ok(answer),
        (Err(_), Err(error)) => Err(error).with_context(|| format!("talking to the {who}")),
        (Err(error), Ok(())) => {
            Err(error).with_context(|| format!("the {who} closed the connection without an answer"))
        }
    }
}

fn unreachable(socket: &Path, who: &str) -> String {
    let more = if who == "agent" { "; `bpf dump` needs no agent" } else { "" };
    format!(
        "connecting to the {who} at {} (is it running, and is --instance or --socket right? only root may{more})",
        socket.display()
    )
}
