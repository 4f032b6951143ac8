//! Asks the agent over its admin socket.

use std::path::Path;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use mesh_admin::api::List;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::args::AgentArgs;

/// An answer that takes longer does not come.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// The items of a list below `/v1/`.
pub(crate) fn list<T: DeserializeOwned>(agent: &AgentArgs, path: &str) -> Result<Vec<T>> {
    let socket = agent.socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = runtime.block_on(async {
        let answer = tokio::time::timeout(DEADLINE, fetch(&socket, path)).await;
        answer.with_context(|| {
            format!("the agent behind {} did not answer within {} s", socket.display(), DEADLINE.as_secs())
        })?
    })?;
    let list: List<T> = serde_json::from_slice(&body).with_context(|| {
        format!("reading the agent's answer to {path}; are agent and CLI of one version?")
    })?;
    Ok(list.items)
}

async fn fetch(socket: &Path, path: &str) -> Result<Bytes> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!(
            "connecting to the agent at {}; is it running, and is --instance or --socket right? \
             (`bpf dump` needs no agent)",
            socket.display()
        )
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", "agent").body(Empty::<Bytes>::new())?;
    let ask = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, body))
    };
    let (status, body) = tokio::select! {
        answer = ask => answer?,
        ended = connection => {
            ended?;
            bail!("the agent closed the connection without an answer");
        }
    };
    if !status.is_success() {
        bail!("the agent refused {path}: {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}
