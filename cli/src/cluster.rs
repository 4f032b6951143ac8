//! Clusters that can be asked, wherever they are: by sockets of this host, or in their pods through their API server.
//!
//! Owns how a question gets there and what is said when it does not. Never knows what is asked.

mod call;
mod context;
mod exec;
mod exposure;
#[cfg(test)]
pub(crate) mod fake;
mod host;
mod reach;
mod socket;

pub(crate) use call::{CallError, call, call_leader, list};
pub(crate) use reach::{Reach, local_apiserver, only, reached};
pub(crate) use socket::request as request_socket;

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An answer that takes longer does not come. Probes wait for the slowest endpoint of a cluster.
const DEADLINE: Duration = Duration::from_secs(30);

/// A question to the admin API of an apiserver or an agent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub method: &'static str,
    pub path: String,
    pub body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: None }
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self { method: "DELETE", path: path.into(), body: None }
    }

    pub(crate) fn put(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self { method: "PUT", path: path.into(), body: Some(json(body)) }
    }

    pub(crate) fn post(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self { method: "POST", path: path.into(), body: Some(json(body)) }
    }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("bodies are plain data")
}

/// What came back. Its JSON is what the hidden verb `api` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub status: u16,
    /// JSON; text that is none stands as a string.
    pub body: Value,
}

impl Answer {
    fn new(status: u16, body: &[u8]) -> Self {
        let text = || Value::String(String::from_utf8_lossy(body).trim().to_owned());
        Self { status, body: serde_json::from_slice(body).unwrap_or_else(|_| text()) }
    }
}

/// What one agent answered.
#[derive(Debug)]
pub(crate) struct AgentAnswer {
    /// Its node, or its socket.
    pub agent: String,
    pub answer: Result<Answer>,
}

/// A cluster that can be asked.
pub(crate) trait Cluster {
    /// As the user named it: `context hoth`, `socket /run/…`.
    fn place(&self) -> String;

    /// Asks its clustermesh-apiserver. Fails where no answer came.
    async fn ask(&self, request: &Request) -> Result<Answer>;

    /// Asks the one that leads, where there are several; without any of them the first, which says so.
    async fn ask_leader(&self, request: &Request) -> Result<Answer> {
        self.ask(request).await
    }

    /// Asks all of its agents that can be asked. Fails where it is not known which there are.
    async fn ask_agents(&self, request: &Request) -> Result<Vec<AgentAnswer>>;

    /// Where its mesh API is reached from outside, as far as that is seen from here.
    async fn exposed(&self) -> Result<Vec<String>>;
}
