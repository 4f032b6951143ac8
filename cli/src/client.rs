//! Asks this host's agent over its admin socket.

use anyhow::{Context, Result, bail};
use mesh_admin::api::List;
use serde::de::DeserializeOwned;

use crate::args::AgentArgs;
use crate::cluster::{self, Request};

/// The items of a list below `/v1/`.
pub(crate) fn list<T: DeserializeOwned>(agent: &AgentArgs, path: &str) -> Result<Vec<T>> {
    let socket = agent.socket()?;
    let request = Request::get(path);
    let answer = mesh_runtime::process::block_on(cluster::request_socket(&socket, "agent", &request))??;
    if !(200..300).contains(&answer.status) {
        let said = answer.body.as_str().map_or_else(|| answer.body.to_string(), str::to_owned);
        bail!("the agent refused {path}: {}: {said}", answer.status);
    }
    let list: List<T> = serde_json::from_value(answer.body).with_context(|| {
        format!("reading the agent's answer to {path}; are agent and CLI of one version?")
    })?;
    Ok(list.items)
}
